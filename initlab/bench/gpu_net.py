"""One large net on a GPU: the ceiling of a matrix product, and training steps against it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from initlab.bench.timing import seconds, wait
from initlab.data.in_memory import ImageSet
from initlab.init.apply import init_
from initlab.nets.build import to_modules
from initlab.nets.counts import count
from initlab.plan.dimensions import describe
from initlab.study.spec import TrialSpec
from initlab.train.cuda import cuda_graph
from initlab.train.packed import Pack
from initlab.train.records import Silent
from initlab.train.trial import Trial

# Steps; more than a captured one needs until it is trusted.
WARM_UP = 8
# The profiler itself ends with a cudaDeviceSynchronize, which does not count.
SYNCS = ("cudaStreamSynchronize", "cudaEventSynchronize")


@dataclass(frozen=True)
class Large:
    """A net to measure: its name or fields, images of `side` pixels, classes, steps to time, and how it runs."""

    net: dict[str, Any]
    side: int
    batch: int
    classes: int
    steps: int
    precision: str = "bfloat16"
    compiled: bool = False
    channels_last: bool | None = None  # None: as a trial has it
    captured: bool = False  # whether the whole step is replayed from a CUDA graph, as a pack of one
    flip: bool = True
    perceptron: int = 0  # units of each layer of a perceptron, which then stands in the net's place


def ceiling(side: int, device: torch.device) -> float:
    """FLOP/s of bfloat16 products of two `side` x `side` matrices, the best of three runs of ten."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 10 * 2 * side**3 / min(seconds(lambda: torch.mm(a, b), device, 10) for _ in range(3))


def large_trial(large: Large, device: torch.device, images: ImageSet | None = None, seed: int = 0) -> Trial:
    """A trial before its first step, on `images` or on random pictures that lie on the device."""
    shape = (3, large.side, large.side)
    train = {"batch_size": large.batch, "precision": large.precision, "lr": 1e-4, "epochs": 1e5}
    # The paper's nets train with dropout.
    if "name" in large.net:
        train["dropout"] = 0.5
    sections = {"net": large.net, "train": train, "data": {"flip": large.flip}, "probe": {"every": 0}, "seed": seed}
    spec = TrialSpec.model_validate(sections)
    net = perceptron(large) if large.perceptron else to_modules(describe(spec, large.classes, shape))
    data = images or pictures(large, device)
    trial = Trial(
        spec, init_(net, "he", seed=seed).to(device), data, Silent(), large.compiled, channels_last=large.channels_last
    )
    trial.net.train()
    return trial


def perceptron(large: Large) -> nn.Sequential:
    """Two rectified layers of `large.perceptron` units and a linear one."""
    inputs, units = 3 * large.side**2, large.perceptron
    layers = [nn.Linear(inputs, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU(), nn.Linear(units, large.classes)]
    return nn.Sequential(nn.Flatten(), *layers)


def pictures(large: Large, device: torch.device) -> ImageSet:
    """Random pictures of four batches, on the device."""
    shape = (3, large.side, large.side)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4 * large.batch, *shape), dtype=torch.uint8, generator=generator).to(device)
    labels = torch.randint(0, large.classes, (len(images),), generator=generator).to(device)
    parts: dict[str, Any] = {"train_inputs": images, "train_labels": labels, "val_inputs": images[:1]}
    parts |= {"val_labels": labels[:1], "mean": torch.full(shape, 127.5, device=device), "num_classes": large.classes}
    return ImageSet(**parts, factor=1 / 74, flip=large.flip, shift=0)


def flop_per_image(large: Large) -> float:
    """Forward and backward: the backward pass has twice the forward's products, a multiply-add is two operations."""
    shape = (3, large.side, large.side)
    spec = TrialSpec.model_validate({"net": large.net})
    return 6.0 * count(describe(spec, large.classes, shape), shape).multiply_adds


def rate(large: Large, device: torch.device) -> tuple[float, list[str]]:
    """Images per second of a trial's own training steps, and notes: seconds of the first steps, why not compiled."""
    trial = large_trial(large, device)
    pack = Pack([trial], cuda_graph if device.type == "cuda" else None) if large.captured else None
    update = pack.update if pack else trial.update
    notes = [f"first {WARM_UP} steps {seconds(update, device, WARM_UP):.1f} s"]
    speed = large.batch * large.steps / seconds(update, device, large.steps)
    reason = pack.eager if pack else trial.passes.eager
    return speed, [*notes, f"ran uncompiled: {reason}"] if reason else notes


def host_syncs(update: Callable[[], None], device: torch.device) -> int:
    """Times that the host waits for the device in ten training steps; 0 is what we want."""
    for _ in range(WARM_UP):
        update()
    wait(device)
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")) as profiled:
        for _ in range(10):
            update()
    return sum(event.count for event in profiled.key_averages() if event.key in SYNCS)


def row_cost(large: Large, device: torch.device) -> float:
    """What the row of scalars every `log_every` steps, at which the host waits, adds to a step, as a share of it."""
    trial = large_trial(large, device)

    def steps(row: bool) -> None:
        """Train `large.steps` steps, with or without a row of scalars after them."""
        for _ in range(large.steps):
            trial.update()
        if row:
            trial.record_row(validate=False)

    steps(row=True)
    bare, logged = (seconds(partial(steps, row), device, 2) / 2 for row in (False, True))
    return (logged - bare) * large.steps / (bare * trial.spec.train.log_every)
