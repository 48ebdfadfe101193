"""Launch a study: what is ready to run, its output folder, engine and store wired together.

The store is the truth: what has a result is not run again, whatever an engine says.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from initlab.engine.lease import is_held, lease
from initlab.engine.stopping import stop_file_on_signal
from initlab.launch.folder import prepare, reopen, unsettled
from initlab.launch.progress import progress
from initlab.launch.ready import Launch, ready
from initlab.launch.settings import time_left
from initlab.launch.tasks import queue_of, run_queue
from initlab.plan.plan import PlannedTrial
from initlab.store import files
from initlab.store.files import sweep, writable
from initlab.store.results import Results
from initlab.store.trial_folder import TrialFolder
from initlab.study.run_options import Engine
from initlab.study.study import Study


def run(
    study: Study | str | Path,
    out: str | Path | None = None,
    *,
    engine: Engine | None = None,
    jobs: int | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    devices: int | None = None,
    gpus_per_trial: float | Literal["auto"] | None = None,
    pack: int | None = None,
    max_failures: int | None = None,
    max_hours: float | None = None,
    address: str | None = None,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    shard: str | None = None,
    max_trials: int | None = None,
    expect: str | None = None,
    force: bool = False,
    skip_hopeless: bool = False,
    allow_code: bool = False,
    take_over: bool = False,
    data_dir: str | Path | None = None,
    show: Literal["table", "lines", "nothing"] = "lines",
) -> Results:
    """Run the trials of a study that have no result yet, and return the results.

    Args:
        study: a study file's path, or a `Study`.
        out: output folder; default `results/NAME`.
        engine: `inline` (this machine) or `ray`; None takes the study's, which is inline by default.
        jobs: trials at once; None is the cores on a CPU, 1 on a GPU, what the cluster has room for at `address`.
        devices: processes that train one trial together, in equal slices of its batch; not part of its id.
        gpus_per_trial: a fraction lets several trials share a GPU (ray); `auto` as many as it has memory for.
        pack: trials of one net and batch size that one process trains as one; None is the study's, 1 by default.
        max_failures: trials that fail alike in a row, before any has succeeded, after which no more are begun; None is
            the study's, 3 by default.
        max_hours: after which every trial stops with a checkpoint; also two minutes before the end of a Slurm job.
        address: of a running Ray cluster; None starts a local one.
        overrides: `dotted.path=value` texts.
        only: trial ids, or beginnings of them, to run alone.
        shard: `3/16` runs part 3 of 16 alone, told by the trials' ids; parts may share `out` at the same time.
        max_trials: begin at most so many trials, in the order of the plan.
        expect: what `initlab launch` saw of trials and code, to refuse to run others.
        force: a fresh attempt at trials that are finished.
        skip_hopeless: stop trials that the evidence says have stalled (`initlab.verdict.hopeless`); a later run without
            it goes on from their checkpoints.
        allow_code: import `pkg.module:callable` names of the study.
        take_over: also where another launch seems to hold the folder that gave no sign of life for two minutes.
        data_dir: where data files lie; default the environment's INITLAB_DATA.
        show: a live table, plain lines, or nothing.

    Raises:
        StudyError: a mistake in the study, an option, or code it may not import; nothing was written.
        StoreError: the output folder is not one, or of a newer initlab.
        Held: another launch holds the output folder.
    """
    options = {"engine": engine, "jobs": jobs, "device": device, "devices": devices, "pack": pack}
    limits = {"max_failures": max_failures, "max_hours": max_hours}
    launch = ready(
        study,
        out,
        {**options, **limits, "gpus_per_trial": gpus_per_trial},
        overrides=overrides,
        only=only,
        shard=shard,
        max_trials=max_trials,
        expect=expect,
        address=address,
        allow_code=allow_code,
        skip_hopeless=skip_hopeless,
        data_dir=data_dir,
    )
    folder, settings = launch.folder, launch.settings
    with ExitStack() as held:
        open_trials, lines = claimed(launch, held, force, take_over)
        todo = open_trials[:max_trials]
        with writable(folder):
            for trial in todo:
                reopen(TrialFolder(folder, trial.id))
        waves, notes = queue_of(todo, settings.run)
        order = [trial for wave in waves for pack in wave for trial in pack]
        say = held.enter_context(progress(folder, launch.requested, order, len(open_trials), show, lines + notes))
        held.enter_context(stop_file_on_signal(folder / settings.stop, say, *time_left(settings.run.max_hours)))
        run_queue(folder, waves, launch.sources, settings, say)
    asked = todo if max_trials and todo else launch.requested
    return Results(folder, [trial.id for trial in asked])


def claimed(launch: Launch, held: ExitStack, force: bool, take_over: bool) -> tuple[list[PlannedTrial], list[str]]:
    """Hold the output folder and make it ready; returns the trials to run, and what the user should know, line by line.

    Raises:
        Held: another launch holds it.
    """
    folder, settings = launch.folder, launch.settings
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # What stops all shards stays while others are there to see it.
        stops = {folder / settings.stop} | (set() if is_held(folder) else {folder / files.STOP})
        held.enter_context(lease(folder, launch.shard, take_over))
        sweep([folder])
        lines = prepare(folder, launch.study, launch.requested, launch.sources, force, sorted(stops)) + launch.lines
        return unsettled(folder, launch.requested, settings.skip_hopeless), lines
