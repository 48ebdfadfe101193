"""Launch a study: wire plan, engine, work and store together.

The store is the truth: what has a result is not run again, whatever an engine says.
"""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from initlab.engine.inline import run_inline
from initlab.engine.lease import lease
from initlab.engine.stopping import stop_file_on_signal
from initlab.launch.progress import progress
from initlab.launch.settings import Settings, check_data, check_shared, resolve
from initlab.plan.packs import packs
from initlab.plan.plan import PlannedTrial, plan, waves
from initlab.store import files
from initlab.store.files import StoreError, atomic, attempt_number, attempts, read_json, writable, write_json
from initlab.store.results import Results, load
from initlab.study.mistakes import StudyError
from initlab.study.spec import TrialSpec
from initlab.study.study import Study, dump_study, load_study
from initlab.study.trial_code import source_hashes

RUN = "initlab.attempt.work_pack:run_task"  # by name, so that the launcher itself needs no torch
FOLLOW = "initlab.attempt.work:follow"


def run(
    study: Study | str | Path,
    out: str | Path | None = None,
    *,
    engine: Literal["inline", "ray"] | None = None,
    jobs: int | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    devices: int | None = None,
    gpus_per_trial: float | None = None,
    pack: int | None = None,
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
    where = None if isinstance(study, Study) else str(study)
    if not isinstance(study, Study):
        study = load_study(study, [overrides] if isinstance(overrides, str) else overrides)
    elif overrides:
        raise StudyError(["overrides: go with a study file (got a Study); change the Study instead"])
    trials = plan(study, where)
    asked = chosen(trials, [only] if isinstance(only, str) else only)
    settings = resolve(study, engine, jobs, device, gpus_per_trial, address, data_dir, allow_code, pack, devices)
    check_shared(asked, settings.devices)
    notes = check_data(asked, settings)
    sources = {trial.id: source_hashes(trial.spec, allow_code) for trial in trials}
    folder = Path(out) if out else Path("results") / study.name
    if (folder / files.COMPACTED).exists():
        raise StoreError(f"{folder}: holds exported results, which can't be added to; give another --out")
    with ExitStack() as held:
        with writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(lease(folder))
            lines = prepare(folder, study, trials, sources, asked={trial.id for trial in asked}, force=force)
            todo = [trial for trial in asked if not settled(folder / files.TRIALS / trial.id, skip_hopeless)]
            for trial in todo:
                reopen(folder / files.TRIALS / trial.id)
        with (
            progress(folder, asked, todo, show, [*lines, *notes]) as say,
            stop_file_on_signal(folder / files.STOP, say),
        ):
            for wave in waves(todo):
                together, alone = packs(wave, 1 if settings.devices > 1 else settings.pack)
                for line in alone:
                    say(line)
                answers = run_engine(settings, tasks(folder, together, settings, skip_hopeless))
                for answer in answers:
                    if answer.get("alone"):
                        say(f"{', '.join(part['trial'] for part in answer['pack'])}: ran alone: {answer['alone']}")
                    for reason, names in uncompiled(answer).items():
                        say(f"{', '.join(names)}: ran uncompiled: {reason}")
                if died := in_dead_packs(folder, together, answers):  # one of them may bring down the others: apart
                    answers += run_engine(settings, tasks(folder, [[trial] for trial in died], settings, skip_hopeless))
                record_deaths(folder, answers)
    return load(folder)


def chosen(trials: list[PlannedTrial], only: Sequence[str]) -> list[PlannedTrial]:
    """The trials whose id begins with one of `only`; all where it is empty."""
    for prefix in only:
        if not any(trial.id.startswith(prefix) for trial in trials):
            raise StudyError(
                [f"--only: no such trial (got {prefix!r}); allowed: an id that `initlab plan` lists, or its beginning"]
            )
    return [trial for trial in trials if not only or trial.id.startswith(tuple(only))]


def prepare(
    out: Path,
    study: Study,
    trials: Sequence[PlannedTrial],
    sources: dict[str, dict[str, str]],
    asked: set[str],
    force: bool,
) -> list[str]:
    """Write the study and each trial's spec, checked against what lies there; returns what the user should know."""
    for trial in trials:
        if trial.id in asked:
            check_same(out / files.TRIALS / trial.id, trial, sources[trial.id], force)
    lines = []
    if (out / files.STOP).exists():
        (out / files.STOP).unlink()
        lines.append(f"removed {out / files.STOP}, which an earlier stop left")
    for trial in trials:
        folder = out / files.TRIALS / trial.id
        folder.mkdir(parents=True, exist_ok=True)
        anew = force and trial.id in asked
        if anew or not (folder / files.STATUS).exists():  # before its result goes: without one it is not done
            write_json(folder / files.STATUS, {"state": "pending"}, sync=False)
        if anew or not attempts(folder) or not (folder / files.TRIAL).exists():
            first = 1 + max(map(attempt_number, attempts(folder)), default=-1) if anew else 0
            content = {"id": trial.id, "spec": trial.spec.model_dump(mode="json"), "source": sources[trial.id]}
            # no attempt before the first is resumed
            write_json(folder / files.TRIAL, {**content, "first_attempt": first}, sync=False)
        if anew:
            (folder / files.RESULT).unlink(missing_ok=True)
    with atomic(out / files.STUDY) as file:
        file.write(dump_study(study).encode())
    return lines


def check_same(folder: Path, trial: PlannedTrial, source: dict[str, str], force: bool) -> None:
    """Refuse a folder whose trial is another one, is damaged, or was run by code that has changed since."""
    if (folder / files.RESULT).exists() and not force:
        read_json(folder / files.RESULT)
    if not (folder / files.TRIAL).exists():
        return
    described = read_json(folder / files.TRIAL)
    if described.get("spec") != trial.spec.model_dump(mode="json") and spec_of(described) != trial.spec:
        raise StoreError(f"{folder / files.TRIAL}: not the spec that its id stands for; move the folder away")
    if described.get("source") != source and attempts(folder) and not force:
        raise StoreError(
            f"{folder / files.TRIAL}: the code of {', '.join(source)} changed since this trial ran; "
            "add --force to run it anew, or give another --out"
        )


def spec_of(described: dict[str, Any]) -> TrialSpec | None:
    """The spec in a trial.json, None where it is not one."""
    try:
        return TrialSpec.model_validate(described.get("spec"))
    except ValidationError:
        return None


def settled(folder: Path, skip_hopeless: bool) -> bool:
    """Whether a trial has a result, or was stopped as hopeless and may stay so."""
    return (folder / files.RESULT).exists() or (skip_hopeless and stopped(folder))


def stopped(folder: Path) -> bool:
    """Whether a trial was stopped as hopeless; a damaged status says nothing of it."""
    try:
        return read_json(folder / files.STATUS).get("state") == "stopped"
    except StoreError:
        return False


def reopen(folder: Path) -> None:
    """A stopped trial that is to go on is not finished any more, whatever happens to this launch."""
    if stopped(folder):
        write_json(folder / files.STATUS, {**read_json(folder / files.STATUS), "state": "interrupted"}, sync=False)


def tasks(
    out: Path, todo: Sequence[Sequence[PlannedTrial]], settings: Settings, skip_hopeless: bool
) -> list[dict[str, Any]]:
    """One plain-data task per pack, under the name of its first trial; `pack` lists them where they are several."""
    launch = {"command": command_line(), "git_commit": git_commit()}
    shared = {
        "out": str(out.resolve()),
        "device": settings.device,
        "devices": settings.devices,
        "threads": settings.threads,
        "download": settings.download,
        "checkpoint_every_s": settings.checkpoint_every_s,
        "data_dir": settings.data_dir,
        "workers": settings.workers,
        "cache": settings.cache,
        "keep_decoded": settings.keep_decoded,
        "allow_code": settings.allow_code,
        "compile": settings.compile,
        "channels_last": settings.channels_last,
        "skip_hopeless": skip_hopeless,
        "launch": launch,
    }
    return [
        {"trial": pack[0].id, **({"pack": [trial.id for trial in pack]} if len(pack) > 1 else {}), **shared}
        for pack in todo
    ]


def in_dead_packs(
    out: Path, packed: Sequence[Sequence[PlannedTrial]], answers: list[dict[str, Any]]
) -> list[PlannedTrial]:
    """The unfinished trials of packs whose process died, whose answers are taken out: of which, nobody can say."""
    dead = {answer["trial"] for answer in answers if answer.get("error") and "pack" not in answer}
    lost = [pack for pack in packed if len(pack) > 1 and pack[0].id in dead]
    answers[:] = [answer for answer in answers if answer["trial"] not in {pack[0].id for pack in lost}]
    return [trial for pack in lost for trial in pack if not (out / files.TRIALS / trial.id / files.RESULT).exists()]


def run_engine(settings: Settings, work: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Hand the tasks to the engine."""
    if settings.engine == "ray":
        from initlab.engine.ray import run_ray  # here: only this engine needs Ray

        gpus = settings.gpus_per_trial if settings.device != "cpu" else 0.0
        return run_ray(
            work,
            RUN,
            settings.jobs,
            threads=settings.threads,
            gpus_per_trial=gpus,
            address=settings.address,
            devices=settings.devices,
            follow=FOLLOW,
        )
    return run_inline(work, RUN, settings.jobs or 1, threads=settings.threads)


def uncompiled(answer: dict[str, Any]) -> dict[str, list[str]]:
    """Reason -> trials whose steps torch could not compile or record as a CUDA graph."""
    found: dict[str, list[str]] = {}
    for part in answer.get("pack", [answer]):
        if part.get("eager"):
            found.setdefault(part["eager"], []).append(part["trial"])
    return found


def record_deaths(out: Path, answers: Sequence[dict[str, Any]]) -> None:
    """Mark as failed the trials whose process died with them, which could not say so themselves."""
    for answer in [part for whole in answers for part in whole.get("pack", [whole])]:
        folder = out / files.TRIALS / answer["trial"]
        if answer.get("error") and not (folder / files.RESULT).exists():
            write_json(folder / files.STATUS, {"state": "failed", "error": answer["error"], "traceback": ""})


def command_line() -> str:
    """What started this process, without the folder that its program lies in: `initlab run sweeps/demo.yaml`."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name  # python -m initlab
    return shlex.join([name, *sys.argv[1:]])


def git_commit() -> str | None:
    """The commit of the initlab that runs, `+` where its tree was changed; None outside a checkout."""
    here = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return described.stdout.strip() or None
