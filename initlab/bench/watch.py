"""What watching a net costs its training, as shares of the bare step: initlab's two methods, and what is common today.

Each method (an arm) trains a trial of its own. Arms take short blocks of steps in turn within one run, so that a busy
machine slows all of them alike; an arm's share is (its step / the bare step - 1) / steps from one watched to the next.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from initlab.bench.timing import seconds
from initlab.bench.trackers import Step, backpack_steps, cockpit_steps, missing, wandb_steps
from initlab.nets.any_module import on_weight_layers
from initlab.signal.probe import measure
from initlab.signal.running import RunningMoments
from initlab.train.cuda import in_a_line
from initlab.train.trial import Trial

# The default of a probe, and what docs/performance.md recommends.
PROBE_EVERY, RUNNING_EVERY = 200, 20
# Steps; the samples between two rows of scalars at 10 steps each.
BLOCK = 5


@dataclass(frozen=True)
class Arm:
    """A method to watch: `steps(trial)` gives a function that takes one watched step, while the context is open."""

    name: str
    steps: Callable[[Trial], AbstractContextManager[Step]]
    cadences: tuple[int, ...] = (1,)  # steps from one watched to the next, each a row
    package: str = ""  # without which the arm is left out


@dataclass(frozen=True)
class Share:
    """An arm's cost at one cadence: median over the repeats, and their range, of a bare step."""

    name: str
    every: int
    share: float
    low: float
    high: float


def compare(
    make: Callable[[], Trial], repeats: int, rounds: int, device: torch.device
) -> tuple[list[Share], list[tuple[str, str]]]:
    """Every arm's share of the bare step; and those that are left out, each with the reason.

    Args:
        make: a new trial before its first step, its batches open.
        repeats: medians to take the spread over.
        rounds: blocks behind one median, of other people's tools one, whose steps take several times as long.
    """
    arms, steps, left_out = [], [], []
    with ExitStack() as contexts:
        for arm in ARMS:
            if arm.package and missing(arm.package):
                left_out.append((arm.name, f"{arm.package} is not installed"))
                continue
            try:
                step = contexts.enter_context(arm.steps(make()))
                step()
            # Other people's code may not know this torch or net; the rest is measured.
            except Exception as error:
                if not arm.package:
                    raise
                left_out.append((arm.name, f"fails here ({in_a_line(error)})"))
                continue
            arms.append(arm)
            steps.append(step)
        counts = [1 if arm.package else rounds for arm in arms]
        runs = [medians(steps, counts, device) for _ in range(repeats)]
    shares = []
    for index, arm in enumerate(arms[1:], start=1):
        for every in arm.cadences:
            each = [(times[index] / times[0] - 1) / every for times in runs]
            shares.append(Share(arm.name, every, median(each), min(each), max(each)))
    return shares, left_out


def medians(steps: Sequence[Step], rounds: Sequence[int], device: torch.device) -> list[float]:
    """Median seconds a step of each arm, blocks in turn: wall time on a GPU, this process's own on a shared CPU."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times: list[list[float]] = [[] for _ in steps]
    for number in range(max(rounds)):
        for place in range(len(steps)):
            # Each round starts one arm later, so that none always comes after the same one.
            arm = (place + number) % len(steps)
            if number < rounds[arm]:
                # Not timed: this step finds what the others left in the caches.
                steps[arm]()
                times[arm].append(seconds(steps[arm], device, BLOCK, clock) / BLOCK)
    return [median(arm_times) for arm_times in times]


@contextmanager
def bare_steps(trial: Trial) -> Iterator[Step]:
    """Training as it is."""
    yield trial.update


@contextmanager
def probe_steps(trial: Trial) -> Iterator[Step]:
    """A probe of 32 images before every step."""
    images, labels = trial.data.probe_batch(min(32, trial.spec.train.batch_size))

    def step() -> None:
        """A probe, then an update."""
        measure(trial.net, images, labels, weight_decay=trial.spec.train.weight_decay)
        trial.update()

    yield step


@contextmanager
def running_steps(trial: Trial) -> Iterator[Step]:
    """Running moments of every step, read after each block as at a row of scalars."""
    trial.spec = trial.spec.model_copy(update={"probe": trial.spec.probe.model_copy(update={"running_every": 1})})
    trial.moments = moments = RunningMoments(trial.net, trial.data.mean.device)

    def step() -> None:
        """An update; after each block the moments are read."""
        trial.update()
        if moments.samples == BLOCK:
            moments.take(trial.group.total)

    yield step


@contextmanager
def hooked_steps(trial: Trial, watch: Callable[[Tensor], object]) -> Iterator[Step]:
    """Every step under hooks that watch each weight layer's output and the gradient of it."""

    def on_gradient(grad: Tensor) -> None:
        """Watch a gradient and leave it as it is: what a hook returns would replace it."""
        watch(grad)

    def on_output(name: str, layer: nn.Module, inputs: tuple[Any, ...], y: Tensor) -> None:
        """Watch a layer's output, and its gradient once that arrives."""
        watch(y)
        if y.requires_grad:
            y.register_hook(on_gradient)

    with on_weight_layers(trial.net, on_output):
        yield trial.update


def variance(values: Tensor) -> object:
    """As most people watch a layer today."""
    return values.detach().var().item()


def histogram(values: Tensor) -> object:
    """As experiment trackers do: 64 bins, brought to the host."""
    return torch.histc(values.detach().float(), bins=64).tolist()


ARMS = (
    Arm("bare step", bare_steps),
    Arm("initlab's probe", probe_steps, (PROBE_EVERY,)),
    Arm("initlab's running moments", running_steps, (RUNNING_EVERY, 10, 1)),
    Arm("hooks with .var().item()", lambda trial: hooked_steps(trial, variance)),
    Arm("hooks with histograms", lambda trial: hooked_steps(trial, histogram), (100, 1)),
    Arm("wandb.watch(log='all')", wandb_steps, (1000, 100, 1), "wandb"),
    Arm("BackPACK's Variance", backpack_steps, (1,), "backpack"),
    Arm("Cockpit, economy", cockpit_steps, (1,), "cockpit"),
)
