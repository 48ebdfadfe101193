"""`initlab bench gpu`: how close large nets come to the chip's limit, what probes cost, many small trials at once.

One run, so that ratios mean something; its table comes last, and a JSON file with chip, versions and command.
"""

import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from initlab import __version__
from initlab.bench.gpu_net import Large, ceiling, flop_per_image, host_syncs, rate, watching
from initlab.bench.gpu_trials import arms, small_trials
from initlab.errors import UserError
from initlab.launch import git_commit
from initlab.store.files import writable, write_json

LIMIT_S = 400.0  # no section begins after this; the longest takes less than the rest of 8 minutes
FIG3_IMAGES = 3 * 9.9 * 1_281_167  # three schemes through the epochs that the figure shows, of ImageNet's training set


@dataclass(frozen=True)
class Sizes:
    """What to measure on."""

    matrix: int
    nets: dict[str, Large]  # the first is watched too; that of Fig 3 is "small-30"
    depths: tuple[int, int]
    trials: dict[str, Any]  # sections of the small trials' study
    processes: int


def large(name: str) -> Large:
    return Large({"name": name}, side=224, batch=128, classes=1000, steps=20)


FULL = Sizes(
    matrix=8192, nets={"B": large("B"), "small-30": large("small-30")}, depths=(22, 30),
    trials={"data": {"image_size": 32}, "train": {"epochs": 5.0, "batch_size": 32, "lr": 0.003}}, processes=4,
)  # fmt: skip
TINY = Large({"depth": 6, "width": 2}, side=16, batch=4, classes=10, steps=2)
QUICK = Sizes(
    matrix=64, nets={"B": TINY, "small-30": TINY}, depths=(6, 8),
    trials={
        "data": {"train_examples": 64, "val_examples": 16}, "net": {"width": 2},
        "train": {"epochs": 5.0, "batch_size": 8, "lr": 0.003}, "probe": {"examples": 8},
    },
    processes=1,
)  # fmt: skip


def bench_gpu(device: Literal["cpu", "cuda"], quick: bool, out: Path) -> Iterator[str]:
    """Lines of text as the sections end, then the table; writes `out`.

    Args:
        quick: nets and images so small that a CPU does it in seconds, to try the command; its figures mean nothing.

    Raises:
        UserError: no GPU, or a CPU asked for without `quick`.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("bench gpu: needs a CUDA GPU (got none); --device cpu --quick tries the same on a CPU")
    if device == "cpu" and not quick:
        raise UserError("bench gpu: too much for a CPU (got --device cpu); add --quick")
    with writable(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    sizes, place = QUICK if quick else FULL, torch.device(device)
    rows: list[dict[str, Any]] = []
    started = time.perf_counter()
    for name, section in sections(sizes, place):
        at = time.perf_counter() - started
        if at > LIMIT_S:
            yield f"{at:4.0f} s  {name}: left out, the time is up"
            continue
        rows += section(rows)
        yield f"{time.perf_counter() - started:4.0f} s  {name}"
    with writable(out):
        write_json(out, {"rows": rows, "quick": quick, "wall_s": time.perf_counter() - started, **about(place)})
    yield from table(rows)
    yield f"written to {out}" + (" (tiny sizes: the figures mean nothing)" if quick else "")


Section = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


def sections(sizes: Sizes, device: torch.device) -> Iterator[tuple[str, Section]]:
    """What is measured, in the order of worth: each takes the rows so far and gives its own."""
    watched = sizes.nets["B"]
    yield "bf16 matrix product", lambda rows: [row("bf16 matrix product", ceiling(sizes.matrix, device), "FLOP/s")]
    for compiled in (False, True):
        for name, net in sizes.nets.items():
            how = "compiled" if compiled else "eager"
            yield f"{name}, {how}", partial(net_rows, name=name, net=net, compiled=compiled, device=device)
    yield "small trials", lambda rows: trial_rows(sizes, device)
    yield "watching", lambda rows: [row(key, share, "of a step") for key, share in watching(watched, device).items()]
    yield "host syncs", lambda rows: [row("host syncs in 10 steps", host_syncs(watched, device), "")]


def row(what: str, value: float, unit: str, note: str = "") -> dict[str, Any]:
    return {"what": what, "value": value, "unit": unit, "note": note}


def net_rows(
    rows: list[dict[str, Any]], name: str, net: Large, compiled: bool, device: torch.device
) -> list[dict[str, Any]]:
    """Images per second of a net in each precision, its share of the matrix product's, and Fig 3's time."""
    found = []
    # float32 is there to compare with, once
    for precision in ("bfloat16",) if compiled else ("float32", "bfloat16"):
        speed = rate(net, precision, compiled, device)
        what = f"{name} {precision} {'compiled' if compiled else 'eager'}"
        share = speed * flop_per_image(net) / rows[0]["value"]
        found.append(row(what, speed, "images/s", f"{share:.1%} of the matrix product; the aim for B is 60 %"))
        if name == "small-30" and precision == "bfloat16":
            found.append(row(f"Fig 3 by {what}", FIG3_IMAGES / speed / 60, "min", "three schemes; the aim is 50"))
    return found


def trial_rows(sizes: Sizes, device: torch.device) -> list[dict[str, Any]]:
    """Trials per hour of each arm, and its ratio to one after another."""
    study = small_trials(sizes.depths, sizes.trials)
    kind: Literal["cpu", "cuda"] = "cuda" if device.type == "cuda" else "cpu"
    seconds = dict(arms(study, kind, sizes.processes))
    base = seconds["one after another"]
    return [
        row(f"24 small trials, {name}", 24 * 3600 / took, "trials/h", f"{base / took:.2f} times one after another")
        for name, took in seconds.items()
    ]


def about(device: torch.device) -> dict[str, Any]:
    """Chip, versions and command."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "torch_version": torch.__version__,
        "cuda_version": torch.version.cuda if cuda else None,
        "cudnn_version": torch.backends.cudnn.version() if cuda else None,
        "python_version": platform.python_version(),
        "initlab_version": __version__,
        "git_commit": git_commit(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """One line per figure."""
    wide = max(len(row["what"]) for row in rows)
    for entry in rows:
        value = f"{entry['value']:>12,.4g}" if entry["value"] < 1e6 else f"{entry['value']:>12.4g}"
        yield f"{entry['what']:<{wide}}  {value} {entry['unit']:<9}  {entry['note']}".rstrip()
