"""Launch a study: plan, settings, output folder, engine and store wired together.

The store is the truth: what has a result is not run again, whatever an engine says.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from initlab.engine.lease import lease
from initlab.engine.stopping import stop_file_on_signal
from initlab.launch.checks import check_data, check_shareable
from initlab.launch.folder import prepare, reopen, settled
from initlab.launch.progress import progress
from initlab.launch.settings import resolve, time_left
from initlab.launch.tasks import run_trials
from initlab.plan.plan import PlannedTrial, plan
from initlab.store import files
from initlab.store.files import StoreError, writable
from initlab.store.results import Results, load
from initlab.store.trial_folder import TrialFolder
from initlab.study.mistakes import StudyError
from initlab.study.spec import Engine
from initlab.study.study import Study, load_study
from initlab.study.trial_code import code_names, source_hashes


def run(
    study: Study | str | Path,
    out: str | Path | None = None,
    *,
    engine: Engine | None = None,
    jobs: int | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    devices: int | None = None,
    gpus_per_trial: float | None = None,
    pack: int | None = None,
    max_failures: int | None = None,
    max_hours: float | None = None,
    address: str | None = None,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    force: bool = False,
    skip_hopeless: bool = False,
    allow_code: bool = False,
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
        gpus_per_trial: a fraction lets several trials share a GPU (ray).
        pack: trials of one net and batch size that one process trains as one; None is the study's, 1 by default.
        max_failures: trials that fail alike in a row, before any has succeeded, after which no more are begun; None is
            the study's, 3 by default.
        max_hours: after which every trial stops with a checkpoint; also two minutes before the end of a Slurm job.
        address: of a running Ray cluster; None starts a local one.
        overrides: `dotted.path=value` texts.
        only: trial ids, or beginnings of them, to run alone.
        force: a fresh attempt at trials that are finished.
        skip_hopeless: stop trials that the evidence says have stalled (`initlab.verdict.hopeless`); a later run without
            it goes on from their checkpoints.
        allow_code: import `pkg.module:callable` names of the study.
        data_dir: where data files lie; default the environment's INITLAB_DATA.
        show: a live table, plain lines, or nothing.

    Raises:
        StudyError: a mistake in the study, `only`, or code it may not import; nothing was written.
        StoreError: the output folder is not one, or of a newer initlab.
        Held: another launch holds the output folder.
    """
    if not isinstance(study, Study):
        path, study = str(study), load_study(study, [overrides] if isinstance(overrides, str) else overrides)
        trials = plan(study, path)
    elif overrides:
        raise StudyError(["overrides: go with a study file (got a Study); change the Study instead"])
    else:
        trials = plan(study)
    requested = chosen(trials, [only] if isinstance(only, str) else only)
    options = {"engine": engine, "jobs": jobs, "device": device, "devices": devices, "pack": pack}
    limits = {"max_failures": max_failures, "max_hours": max_hours}
    settings = resolve(
        study,
        {**options, **limits, "gpus_per_trial": gpus_per_trial},
        own_code=any(code_names(trial.spec) for trial in requested),
        address=address,
        data_dir=data_dir,
        allow_code=allow_code,
        skip_hopeless=skip_hopeless,
    )
    check_shareable(requested, settings.run.devices)
    # The nodes of a cluster look for the data themselves.
    lines = [] if address else check_data(requested, settings.access)
    sources = {trial.id: source_hashes(trial.spec, allow_code) for trial in trials}
    folder = Path(out) if out else Path("results") / study.name
    with ExitStack() as held:
        with writable(folder):
            if (folder / files.COMPACTED).exists():
                raise StoreError(f"{folder}: holds exported results, which can't be added to; give another --out")
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(lease(folder))
            lines = prepare(folder, study, trials, sources, {trial.id for trial in requested}, force) + lines
            todo = [trial for trial in requested if not settled(TrialFolder(folder, trial.id), skip_hopeless)]
            for trial in todo:
                reopen(TrialFolder(folder, trial.id))
        say = held.enter_context(progress(folder, requested, todo, show, lines))
        held.enter_context(stop_file_on_signal(folder, say, *time_left(settings.run.max_hours)))
        run_trials(folder, todo, settings, say)
    return load(folder)


def chosen(trials: list[PlannedTrial], only: Sequence[str]) -> list[PlannedTrial]:
    """The trials whose id begins with one of `only`; all where it is empty."""
    for prefix in only:
        if not any(trial.id.startswith(prefix) for trial in trials):
            raise StudyError(
                [f"--only: no such trial (got {prefix!r}); allowed: an id that `initlab plan` lists, or its beginning"]
            )
    return [trial for trial in trials if not only or trial.id.startswith(tuple(only))]
