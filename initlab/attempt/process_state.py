"""What a trial's code may set for its whole process, put back when the trial is over."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch

from initlab.nets.undisturbed import streams_kept

SMALLEST = 1e-40  # below float32's normal numbers: 0 where those are flushed


@contextmanager
def process_state_kept(device: torch.device) -> Iterator[None]:
    """Inside, torch's settings, the random states, the environment and the working folder may be changed at will."""
    settings = [(put, get()) for get, put in SETTINGS]
    environment, folder = dict(os.environ), os.getcwd()
    try:
        with streams_kept([device]):
            yield
    finally:
        for put, value in settings:
            put(value)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        # It may be gone by now.
        with suppress(OSError):
            os.chdir(folder)


def attribute(module: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """How to read and to set a flag that is an attribute; left alone where it stands, since setting one may cost."""

    def put(value: Any) -> None:
        """Set it, if it is another one."""
        if getattr(module, name) != value:
            setattr(module, name, value)

    return (lambda: getattr(module, name)), put


def put_device(device: torch.device) -> None:
    """Set the default device; to have none is to have the CPU, and cheaper."""
    if torch.get_default_device() != device:
        torch.set_default_device(None if device.type == "cpu" else device)


def deterministic() -> tuple[bool, bool]:
    """Whether torch must be deterministic, and only warns where it cannot."""
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def flushes() -> bool:
    """Whether numbers too small to be normal are taken for 0."""
    return bool((torch.tensor([SMALLEST], dtype=torch.float32, device="cpu") * 1.0).item() == 0.0)


# What is read, and what puts it back.
SETTINGS: list[tuple[Callable[[], Any], Callable[[Any], object]]] = [
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, put_device),
    (deterministic, lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1])),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    (flushes, torch.set_flush_denormal),
    *(
        (partial(torch.is_autocast_enabled, kind), partial(torch.set_autocast_enabled, kind))
        for kind in ("cpu", "cuda")
    ),
    attribute(torch.backends, "fp32_precision"),
    *(attribute(torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic", "allow_tf32")),
    *(attribute(torch.backends.mkldnn, name) for name in ("enabled", "deterministic")),
]
