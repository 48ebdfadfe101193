"""What watching a net costs its training, as shares of the bare step: initlab's two methods, and what is common today.

Common are hooks, and other people's tools where they are installed, which are no dependencies of initlab: wandb,
BackPACK, Cockpit. These take steps as their own documents show, with initlab's net, batches and optimiser, in float32.
Each method (an arm) trains a trial of its own. Arms take short blocks of steps in turn within one run, so that a busy
machine slows all of them alike; an arm's share is (its step / the bare step - 1) / steps from one watched to the next.
"""

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from initlab.bench.timing import seconds
from initlab.nets.any_module import on_weight_layers
from initlab.signal.probe import measure
from initlab.signal.running import RunningMoments
from initlab.train.cuda import in_a_line
from initlab.train.trial import Trial

# The default of a probe, and what docs/performance.md recommends.
PROBE_EVERY, RUNNING_EVERY = 200, 20
# Steps; the samples between two rows of scalars at 10 steps each.
BLOCK = 5
Step = Callable[[], object]


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

    `make` gives a new trial before its first step. The spread is over `repeats` medians of `rounds` blocks each; of one
    block for other people's tools, whose steps take several times as long.
    """
    steps: dict[Arm, Step] = {}
    left_out = []
    with ExitStack() as contexts:
        for arm in ARMS:
            try:
                if arm.package:
                    # Cockpit imports what is deprecated today.
                    with warnings.catch_warnings(action="ignore"):
                        import_module(arm.package)
            except ImportError:
                left_out.append((arm.name, f"{arm.package} is not installed"))
                continue
            try:
                steps[arm] = contexts.enter_context(arm.steps(make()))
                steps[arm]()
            # Other people's code may not know this torch or net; the rest is measured.
            except Exception as error:
                if not arm.package:
                    raise
                steps.pop(arm, None)
                left_out.append((arm.name, f"fails here ({in_a_line(error)})"))
        counts = [1 if arm.package else rounds for arm in steps]
        runs = [medians(list(steps.values()), counts, device) for _ in range(repeats)]
    shares = []
    for index, arm in list(enumerate(steps))[1:]:
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
    trial.moments = moments = RunningMoments(trial.net, trial.data.device)

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


@contextmanager
def wandb_steps(trial: Trial) -> Iterator[Step]:
    """Histograms of every parameter and of its gradient at every step, offline, a row each."""
    wandb: Any = import_module("wandb")
    options = {"mode": "offline", "project": "bench", "settings": wandb.Settings(silent=True, x_disable_stats=True)}
    with tempfile.TemporaryDirectory(prefix="initlab-wandb-") as folder, wandb.init(dir=folder, **options) as run:
        run.watch(trial.net, log="all", log_freq=1)

        def step() -> None:
            """One step, and the row that makes wandb keep what it watched."""
            trial.update()
            run.log({"step": trial.step})

        yield step


@contextmanager
def backpack_steps(trial: Trial) -> Iterator[Step]:
    """The variance over the examples of every parameter's gradient."""
    backpack: Any = import_module("backpack")
    variance: Any = import_module("backpack.extensions").Variance
    yield extended(trial, lambda losses, loss: backpack.backpack(variance()))


@contextmanager
def cockpit_steps(trial: Trial) -> Iterator[Step]:
    """Cockpit's least set of instruments, every step."""
    cockpit: Any = import_module("cockpit")
    configuration: Any = import_module("cockpit.utils.configuration").configuration
    instruments = cockpit.Cockpit(trial.net.parameters(), configuration("economy"))

    def watching(losses: Tensor, loss: Tensor) -> AbstractContextManager[object]:
        """Cockpit's context around a backward pass."""
        info = {
            "batch_size": len(losses),
            "individual_losses": losses,
            "loss": loss,
            "optimizer": trial.updates.optimizer,
        }
        context: AbstractContextManager[object] = instruments(trial.step, info=info)
        return context

    yield extended(trial, watching)


def extended(trial: Trial, watching: Callable[[Tensor, Tensor], AbstractContextManager[object]]) -> Step:
    """A training step on modules that BackPACK has extended, its backward pass inside `watching(losses, loss)`."""
    extend: Any = import_module("backpack").extend
    net, mean = extend(trial.net), extend(nn.CrossEntropyLoss())
    each = nn.CrossEntropyLoss(reduction="none")

    def step() -> None:
        """One step as a trial takes it, without its sums."""
        images, labels = next(trial.batches)
        trial.updates.optimizer.zero_grad(set_to_none=True)
        logits = net(images)
        loss = mean(logits, labels)
        with torch.no_grad():
            losses = each(logits, labels)
        with watching(losses, loss):
            loss.backward()
        trial.updates.optimizer.step()
        trial.step += 1

    return step


ARMS = (
    Arm("bare step", bare_steps),
    Arm("initlab's probe", probe_steps, (PROBE_EVERY,)),
    Arm("initlab's running moments", running_steps, (RUNNING_EVERY, 10, 1)),
    # As most people watch a layer today.
    Arm("hooks with .var().item()", partial(hooked_steps, watch=lambda y: y.detach().var().item())),
    # As experiment trackers do: 64 bins, brought to the host.
    Arm(
        "hooks with histograms",
        partial(hooked_steps, watch=lambda y: torch.histc(y.detach().float(), 64).tolist()),
        (100, 1),
    ),
    Arm("wandb.watch(log='all')", wandb_steps, (1000, 100, 1), "wandb"),
    Arm("BackPACK's Variance", backpack_steps, (1,), "backpack"),
    Arm("Cockpit, economy", cockpit_steps, (1,), "cockpit"),
)
