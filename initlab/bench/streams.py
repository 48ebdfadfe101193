"""Several trials in one process, a step of each in turn, each on a CUDA stream of its own.

The device may work on all of them at once where one leaves it idle; one thread starts every operation. On a CPU there
are no streams, and they take turns all the same.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from initlab.attempt.work import device_of
from initlab.attempt.work_pack import begin, ending
from initlab.bench.data import wait
from initlab.data.dataset import Images
from initlab.store.writer import AttemptWriter
from initlab.train.cuda import Capture, cuda_graph, kernels
from initlab.train.packed import OnEnd, Pack
from initlab.train.records import Outcome
from initlab.train.trial import Trial


def take_turns(task: dict[str, Any], graphs: bool) -> None:
    """Run the trials of `task["pack"]` (see `initlab.attempt.work_pack.run_pack`) to their ends, by turns.

    Args:
        graphs: on CUDA, replay each trial's step from a CUDA graph of its own.

    Raises:
        RuntimeError: a trial that cannot begin.
    """
    device = device_of(task)
    cuda = device.type == "cuda"
    begun: dict[Trial, tuple[str, AttemptWriter]] = {}
    answers: dict[str, dict[str, Any]] = {}
    loaded: dict[str, Images] = {}

    def ended(trial: Trial, outcome: Outcome | Exception) -> None:
        ending(*begun[trial], outcome)

    with torch.random.fork_rng(devices=[device] if cuda else []), kernels(device):
        for name in task["pack"]:
            begin(task, name, device, lambda: False, loaded, begun, answers)
        if answers:
            raise RuntimeError(f"trials that did not begin (got {sorted(answers)}); wanted: all of them")
        wait(device)  # weights and images were made on the default stream
        capture = cuda_graph if cuda and graphs else None
        lanes = [(steps(trial, ended, capture), torch.cuda.Stream() if cuda else None) for trial in begun]
        while lanes:
            lanes = [(lane, stream) for lane, stream in lanes if taken(lane, stream)]
        wait(device)


def taken(lane: Iterator[None], stream: torch.cuda.Stream | None) -> bool:
    """Take a trial's next step on its stream; False where there was none left."""
    on: AbstractContextManager[object] = torch.cuda.stream(stream) if stream else nullcontext()
    with on:
        return next(lane, lane) is not lane


def steps(trial: Trial, ended: OnEnd, capture: Capture | None) -> Iterator[None]:
    """A trial's steps, each with its records; with `capture` as a pack of one, whose step can be captured."""
    if capture:
        pack = Pack([trial], capture, ended)
        pack.end()
        while pack.trials:
            pack.update()
            pack.record_due()
            pack.end()
            yield
        return
    trial.open_batches()
    while (outcome := trial.end()) is None:
        trial.update()
        trial.record_due()
        yield
    ended(trial, outcome)
