"""The device of the tests on a GPU, and small trials that lie on it.

`pytest -m gpu tests/gpu` on a machine with CUDA; INITLAB_GPU_TESTS=cpu rehearses the same code on the CPU.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from initlab.data.dataset import Preprocessing
from initlab.data.in_memory import ImageSet, prepare
from initlab.data.sources import load_raw
from initlab.init.apply import init_
from initlab.nets.build import to_modules
from initlab.plan.dimensions import describe
from initlab.study.spec import TrialSpec
from initlab.train.cuda import Capture, cuda_graph, kernels
from initlab.train.trial import Trial
from tests.train.tape import tape

REHEARSAL = os.environ.get("INITLAB_GPU_TESTS") == "cpu"


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Where to compute, under a trial's settings for CUDA and with algorithms that repeat to the bit."""
    if not (torch.cuda.is_available() or REHEARSAL):
        pytest.skip("no CUDA device here; INITLAB_GPU_TESTS=cpu rehearses these tests on the CPU")
    place = torch.device("cpu" if REHEARSAL else "cuda")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    with kernels(place):
        yield place


def capture_on(device: torch.device) -> Capture:
    """A CUDA graph, or its stand-in on the CPU."""
    return cuda_graph if device.type == "cuda" else tape


@contextmanager
def no_wait(device: torch.device) -> Iterator[None]:
    """Inside, an operation that makes the host wait for the GPU raises; a CPU is never waited for."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Memory:
    """A recorder that keeps rows by frame."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {}

    def record(self, frame: str, rows: list[dict[str, Any]]) -> None:
        self.rows.setdefault(frame, []).extend(rows)

    def checkpoint(self, state: dict[str, Any]) -> None:
        pass

    def progress(self, figures: dict[str, Any]) -> None:
        pass


def spec(seed: int = 0, **train: Any) -> TrialSpec:
    """20 updates, 5 an epoch, that need everything: mirrored and moved images, masks, slopes, a rate that falls."""
    fields = {"epochs": 4, "lr": 0.001, "batch_size": 32, "log_every": 1, "dropout": 0.3, "schedule": "cosine", **train}
    data = {"name": "synthetic", "image_size": 16, "train_examples": 160, "val_examples": 64, "flip": True, "shift": 2}
    net = {"depth": 7, "width": 8, "linear_width": 16, "activation": "prelu"}
    return TrialSpec.model_validate(
        {"data": data, "net": net, "probe": {"every": 10, "examples": 16}, "train": fields, "seed": seed}
    )


def images(device: torch.device, dtype: torch.dtype = torch.float32) -> ImageSet:
    """The images of `spec`."""
    data = spec().data
    preprocessing = Preprocessing(data.scale, data.train_examples, data.val_examples, device, dtype)
    return prepare(load_raw(data.name, data.image_size), preprocessing, flip=data.flip, shift=data.shift)


def begun(trial_spec: TrialSpec, data: ImageSet, **settings: Any) -> Trial:
    """A trial before its first update."""
    net = init_(to_modules(describe(trial_spec, 10, data.input_shape)), "he", seed=trial_spec.seed)
    trial = Trial(trial_spec, net.to(data.mean.device, data.mean.dtype), data, Memory(), **settings)
    trial.begin(None)
    return trial


def losses(trial: Trial) -> list[float]:
    """The training loss of every update so far."""
    return [row["train_loss"] for row in trial.recorder.rows["scalars"][1:]]
