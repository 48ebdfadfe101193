"""Many small trials on one device: arms that run the same 24, from one after another to packs on CUDA graphs.

In the arms by turns a step of each of several trials is taken in turn, in one process, each on a CUDA stream of its
own: the device may work on all of them at once where one leaves it idle. A CPU has no streams; they take turns there.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import initlab
from initlab.attempt.attempt import Attempt
from initlab.attempt.run_task import begun, computing
from initlab.bench.timing import wait
from initlab.data.dataset import Dataset
from initlab.engine.task import Task
from initlab.launch.folder import prepare
from initlab.launch.settings import resolve
from initlab.launch.tasks import Sources, tasks
from initlab.plan.plan import plan
from initlab.store.files import ATTEMPT
from initlab.store.reader import StoredTrial
from initlab.store.results import Results
from initlab.store.trial_folder import TrialFolder
from initlab.study.sections import Data
from initlab.study.study import Study
from initlab.train.cuda import Capture, cuda_graph
from initlab.train.packed import OnEnd, Pack
from initlab.train.records import Outcome, Raised
from initlab.train.trial import Trial


@dataclass(frozen=True)
class Arm:
    """How trials run: so many packed as one, in so many processes, or on so many streams of one process."""

    name: str
    pack: int = 1
    processes: int = 1
    streams: int = 0  # 0: trials don't take turns
    graphs: bool = False  # whether a step is replayed from a CUDA graph


def arms(processes: int, streams: int) -> list[Arm]:
    """The arms of a study, the most wanted first; the very first is what the others are compared with."""
    return [
        Arm("one after another"),
        Arm("packs of 12, CUDA graphs", pack=12, graphs=True),
        Arm("packs of 12", pack=12),
        Arm("one after another, CUDA graphs", graphs=True),
        Arm(f"{processes} processes", processes=processes),
        Arm(f"{processes} processes, CUDA graphs", processes=processes, graphs=True),
        Arm(f"{streams} streams, CUDA graphs", streams=streams, graphs=True),
        Arm("2 processes, packs of 12, CUDA graphs", pack=12, processes=2, graphs=True),
    ]


@dataclass(frozen=True)
class Span:
    """What the trials of an arm took; imports of processes, the same for a sweep of any length, are not in it."""

    seconds: float  # from the first trial's claim to the last one's result
    begin_s: float  # of it, what came before the first trial's or pack's first step
    step_s: float
    uncompiled: str  # why steps ran uncompiled, if they did


def span(study: Study, device: str, arm: Arm) -> Span:
    """Run a study in the way of an arm.

    Raises:
        RuntimeError: a trial that failed.
    """
    study = study.model_copy(update={"run": study.run.model_copy(update={"compile": arm.graphs})})
    with tempfile.TemporaryDirectory(prefix="initlab-bench-") as folder:
        out = Path(folder)
        if arm.streams:
            results = by_turns(study, out, device, arm)
        else:
            options: dict[str, Any] = {"jobs": arm.processes, "pack": arm.pack, "device": device}
            results = initlab.run(study, out, engine="inline", **options, show="nothing")
        check_ended(results.stored)
        trials = TrialFolder.all_in(out)
        start = min((attempt / ATTEMPT).stat().st_mtime for trial in trials for attempt in trial.attempts())
        reasons = {str(stored.status["eager"]) for stored in results.stored if "eager" in stored.status}
        seconds = max(trial.result_file.stat().st_mtime for trial in trials) - start
        return Span(seconds, *pace(results), "; ".join(reasons))


def check_ended(stored: Sequence[StoredTrial]) -> None:
    """Raise a RuntimeError with the words of the first trial that failed, if one did."""
    failed = [trial.status for trial in stored if trial.status["state"] not in ("done", "diverged")]
    if failed:
        reason = failed[0].get("error", failed[0]["state"])
        raise RuntimeError(f"{len(failed)} of {len(stored)} trials did not end, the first: {reason}")


def pace(results: Results) -> tuple[float, float]:
    """Seconds before a trial's first step and of a step, by the second half of the rows of the first one."""
    rows = results.scalars[results.scalars.trial == results.scalars.trial.iloc[0]]
    last, middle = rows.iloc[-1], rows[rows.step <= rows.step.iloc[-1] / 2].iloc[-1]
    step_s = float((last.wall_s - middle.wall_s) / (last.step - middle.step))
    return max(0.0, float(last.wall_s - step_s * last.step)), step_s


def by_turns(study: Study, out: Path, device: str, arm: Arm) -> Results:
    """Run a study in this process, `arm.streams` trials at a time by turns."""
    trials = plan(study)
    settings = resolve(study, {"engine": "inline", "jobs": 1, "device": device})
    sources: Sources = {trial.id: {} for trial in trials}
    out.mkdir(parents=True, exist_ok=True)
    prepare(out, study, trials, sources, force=False)
    turns = [trials[at : at + arm.streams] for at in range(0, len(trials), arm.streams)]
    for task in tasks(out, turns, sources, settings):
        take_turns(task, arm.graphs)
    return initlab.load(out)


def take_turns(task: Task, graphs: bool) -> None:
    """Run the trials of a task to their ends, by turns; on CUDA `graphs` replays each step from its own graph."""
    attempts: dict[Trial, Attempt] = {}
    images: dict[Data, Dataset] = {}
    with computing(task) as device:
        for trial_id in task.trials:
            attempt = begun(Attempt(task, trial_id, device), images)
            if not isinstance(attempt, Attempt):
                raise RuntimeError(f"a trial that did not begin (got {attempt.trial}); wanted: all of them")
            attempts[attempt.trial] = attempt
        # Weights and images were made on the default stream.
        wait(device)
        cuda = device.type == "cuda"
        capture = cuda_graph if cuda and graphs else None

        def on_end(trial: Trial, outcome: Outcome | Raised) -> None:
            """Store how a trial ended."""
            attempts[trial].end(outcome)

        lanes = {steps(trial, on_end, capture): torch.cuda.Stream() if cuda else None for trial in attempts}
        while lanes:
            for lane, stream in list(lanes.items()):
                with torch.cuda.stream(stream) if stream else nullcontext():
                    # A lane that ends gives itself.
                    if next(lane, lane) is lane:
                        del lanes[lane]
        wait(device)


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
