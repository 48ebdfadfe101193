"""Several trials in one process, a step of each in turn, each on a CUDA stream of its own.

The device may work on all of them at once where one leaves it idle; one thread starts every operation. On a CPU there
are no streams, and they take turns all the same.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch

from initlab.attempt.attempt import Attempt
from initlab.attempt.run_task import begun, computing
from initlab.bench.timing import wait
from initlab.data.dataset import Images
from initlab.engine.task import Task
from initlab.train.cuda import Capture, cuda_graph
from initlab.train.packed import OnEnd, Pack
from initlab.train.records import Outcome
from initlab.train.trial import Trial


def take_turns(task: Task, graphs: bool) -> None:
    """Run the trials of a task to their ends, by turns.

    Args:
        graphs: on CUDA, replay each trial's step from a CUDA graph of its own.

    Raises:
        RuntimeError: a trial that cannot begin.
    """
    attempts: dict[Trial, Attempt] = {}
    images: dict[str, Images] = {}
    with computing(task) as device:
        cuda = device.type == "cuda"
        for trial_id in task.trials:
            attempt = begun(Attempt(task, trial_id, device), images)
            if not isinstance(attempt, Attempt):
                raise RuntimeError(f"a trial that did not begin (got {attempt.trial}); wanted: all of them")
            attempts[attempt.trial] = attempt
        # Weights and images were made on the default stream.
        wait(device)
        capture = cuda_graph if cuda and graphs else None

        def on_end(trial: Trial, outcome: Outcome | Exception) -> None:
            """Store how a trial ended."""
            attempts[trial].end(outcome)

        lanes = [(steps(trial, on_end, capture), torch.cuda.Stream() if cuda else None) for trial in attempts]
        while lanes:
            lanes = [(lane, stream) for lane, stream in lanes if taken(lane, stream)]
        wait(device)


def taken(lane: Iterator[None], stream: torch.cuda.Stream | None) -> bool:
    """Take a trial's next step on its stream; False where there was none left."""
    on: AbstractContextManager[object] = torch.cuda.stream(stream) if stream else nullcontext()
    with on:
        return next(lane, lane) is not lane


def steps(trial: Trial, on_end: OnEnd, capture: Capture | None) -> Iterator[None]:
    """A trial's steps, each with its records; with `capture` as a pack of one, whose step can be captured."""
    if capture:
        pack = Pack([trial], capture, on_end)
        pack.end()
        while pack.trials:
            pack.update()
            pack.record_due()
            pack.end()
            yield
        return
    while (outcome := trial.end()) is None:
        trial.update()
        trial.record_due()
        yield
    on_end(trial, outcome)
