"""Many small trials on one device: arms that run the same 24, from one after another to packs on CUDA graphs."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import initlab
from initlab.bench.streams import take_turns
from initlab.launch.folder import prepare
from initlab.launch.settings import resolve
from initlab.launch.tasks import tasks
from initlab.plan.plan import plan
from initlab.store.files import ATTEMPT
from initlab.store.results import Results
from initlab.store.trial_folder import TrialFolder
from initlab.study.study import Study

# Times two depths, that makes 24 trials.
GRID = {"seed": [0, 1, 2, 3], "init.scheme": ["gaussian", "xavier", "he"]}


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
        Arm(f"{processes} processes", processes=processes),
        Arm(f"{processes} processes, CUDA graphs", processes=processes, graphs=True),
        Arm(f"{streams} streams, CUDA graphs", streams=streams, graphs=True),
        Arm(f"{streams} streams", streams=streams),
        Arm("one after another, CUDA graphs", graphs=True),
        Arm("2 processes, packs of 12, CUDA graphs", pack=12, processes=2, graphs=True),
        Arm("packs of 6", pack=6),
    ]


def small_trials(depths: tuple[int, int], fields: dict[str, Any]) -> Study:
    """4 seeds x 3 schemes x 2 depths on digits."""
    return Study.model_validate({"name": "bench-gpu", **fields, "grid": {**GRID, "net.depth": [*depths]}})


def span(study: Study, device: Literal["cpu", "cuda"], arm: Arm) -> tuple[float, str]:
    """Seconds from the first trial's claim to the last one's result, and why steps ran uncompiled, if they did.

    Processes' imports, the same for a sweep of any length, are not in it.

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
        check(results)
        trials = TrialFolder.all_in(out)
        begun = min((attempt / ATTEMPT).stat().st_mtime for trial in trials for attempt in trial.attempts())
        reasons = {str(stored.status["eager"]) for stored in results.stored if "eager" in stored.status}
        return max(trial.result_file.stat().st_mtime for trial in trials) - begun, "; ".join(reasons)


def by_turns(study: Study, out: Path, device: Literal["cpu", "cuda"], arm: Arm) -> Results:
    """Run a study in this process, `arm.streams` trials at a time by turns."""
    trials = plan(study)
    settings = resolve(study, {"engine": "inline", "jobs": 1, "device": device})
    prepare(out, study, trials, {trial.id: {} for trial in trials}, {trial.id for trial in trials}, force=False)
    ids = [trial.id for trial in trials]
    for task in tasks(out, [ids[at : at + arm.streams] for at in range(0, len(ids), arm.streams)], settings):
        take_turns(task, arm.graphs)
    return initlab.load(out)


def check(results: Results) -> None:
    """Refuse a measurement of trials that did not end."""
    failed = [trial.status for trial in results.stored if trial.status["state"] not in ("done", "diverged")]
    if failed:
        reason = failed[0].get("error", failed[0]["state"])
        raise RuntimeError(f"{len(failed)} of {len(results.stored)} trials did not end, the first: {reason}")
