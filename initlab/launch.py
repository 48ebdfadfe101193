"""Launch a study: wire plan, engine, work and store together.

The store is the truth: what has a result is not run again, whatever an engine says.
"""

import ctypes
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from initlab.code import source_hash
from initlab.data.facts import absence
from initlab.engine.inline import run_inline
from initlab.engine.lease import lease
from initlab.engine.stopping import stop_file_on_signal
from initlab.plan import PlannedTrial, costliest_first, plan
from initlab.progress import progress
from initlab.spec import TrialSpec, code_names, is_code
from initlab.store import files
from initlab.store.files import StoreError, atomic, attempts, read_json, write_json
from initlab.store.results import Results, load
from initlab.study import Study, dump_study, load_study
from initlab.study_file import StudyError

RUN_ONE = "initlab.work:run_one"  # by name, so that the launcher itself needs no torch


@dataclass(frozen=True)
class Settings:
    """How and where to run, resolved from the study's `run` section and the caller."""

    engine: str
    device: str | None
    jobs: int | None  # None: as many as a cluster has room for
    gpus_per_trial: float
    address: str | None
    threads: int
    checkpoint_every_s: float
    data_dir: str | None
    download: bool
    allow_code: bool


def run(
    study: Study | str | Path,
    out: str | Path | None = None,
    *,
    engine: Literal["inline", "ray"] | None = None,
    jobs: int | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    gpus_per_trial: float | None = None,
    address: str | None = None,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    force: bool = False,
    allow_code: bool = False,
    data_dir: str | Path | None = None,
    show: Literal["table", "lines", "nothing"] = "lines",
) -> Results:
    """Run the trials of a study that have no result yet, and return the results.

    Args:
        study: a study file's path, or a `Study`.
        out: output folder; default `results/NAME`.
        engine: `inline` (this machine) or `ray`; None takes the study's, which is inline by default.
        jobs: trials at once; None is one per CPU core, or per GPU, or as many as the cluster at `address` has room for.
        gpus_per_trial: a fraction lets several trials share a GPU (ray).
        address: of a running Ray cluster; None starts a local one.
        overrides: `dotted.path=value` texts.
        only: trial ids, or beginnings of them, to run alone.
        force: a fresh attempt at trials that are finished.
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
        study = load_study(study, overrides)
    elif overrides:
        raise StudyError(["overrides: go with a study file (got a Study); change the Study instead"])
    trials = plan(study, where)
    asked = chosen(trials, only)
    settings = resolve(study, engine, jobs, device, gpus_per_trial, address, data_dir, allow_code)
    check_data(asked, settings)
    sources = {trial.id: sources_of(trial.spec, allow_code) for trial in trials}
    folder = Path(out) if out else Path("results") / study.name
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder}: a file, not an output folder; give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    with lease(folder):
        lines = prepare(folder, study, trials, sources, anew={trial.id for trial in asked} if force else set())
        todo = [trial for trial in asked if not (folder / files.TRIALS / trial.id / files.RESULT).exists()]
        with progress(folder, asked, todo, show, lines) as say, stop_file_on_signal(folder / files.STOP, say):
            if todo:
                answers = run_engine(settings, tasks(folder, todo, settings))
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


def resolve(
    study: Study, engine: str | None, jobs: int | None, device: str | None, gpus_per_trial: float | None,
    address: str | None, data_dir: str | Path | None, allow_code: bool,
) -> Settings:  # fmt: skip
    """The caller's settings over the study's, and what neither says from the machine."""
    own = study.run
    engine, device = engine or own.engine, device or own.device
    if jobs is not None and jobs < 1:
        raise StudyError([f"--jobs: out of range (got {jobs}); allowed: at least 1"])
    if gpus_per_trial is not None and gpus_per_trial <= 0:
        raise StudyError([f"--gpus-per-trial: out of range (got {gpus_per_trial}); allowed: above 0"])
    if engine == "ray":
        require_ray()
    elif address:
        raise StudyError([f"--address: only for --engine ray (got {address!r} with {engine}); add --engine ray"])
    gpus = 0 if device == "cpu" else gpu_count()
    if device == "cuda" and not gpus and not address:
        raise StudyError(["--device: cuda is not available on this machine; allowed here: cpu"])
    if device is None and not address:
        device = "cuda" if gpus else "cpu"
    folder = data_dir or study.data.folder or os.environ.get("INITLAB_DATA")
    return Settings(
        engine=engine, device=device, jobs=jobs or own.jobs or (None if address else gpus or os.cpu_count() or 1),
        gpus_per_trial=gpus_per_trial or own.gpus_per_trial, address=address, threads=own.threads,
        checkpoint_every_s=own.checkpoint_every_s, data_dir=str(folder) if folder else None,
        download=study.data.download, allow_code=allow_code,
    )  # fmt: skip


def gpu_count() -> int:
    """NVIDIA GPUs that the driver offers; asked of the driver, since importing torch takes seconds."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def require_ray() -> None:
    from importlib.util import find_spec

    if find_spec("ray") is None:
        raise StudyError(["--engine: ray is not installed; pip install 'initlab[ray]', or use --engine inline"])


def sources_of(spec: TrialSpec, allow_code: bool) -> dict[str, str]:
    """Hash of the source of each `pkg.module:callable` that the trial names."""
    code = code_names(spec)
    for path, name in code.items():
        if not allow_code:
            raise StudyError(
                [f"{path}: names code (got {name!r}), which is imported only with --allow-code; add it if you trust it"]
            )
    return {path: source_hash(path, name) for path, name in code.items()}


def check_data(trials: Sequence[PlannedTrial], settings: Settings) -> None:
    """Say before anything starts that files are absent; nodes of a cluster look for themselves."""
    names = {trial.spec.data.name for trial in trials if not is_code(trial.spec.data.name)}
    folder = Path(settings.data_dir) if settings.data_dir else None
    lines = [absence(name, folder) for name in sorted(names)]
    if any(lines) and not settings.address and not (settings.download and folder):
        raise StudyError(line for line in lines if line)


def prepare(
    out: Path, study: Study, trials: Sequence[PlannedTrial], sources: dict[str, dict[str, str]], anew: set[str]
) -> list[str]:
    """Write the study and each trial's spec, checked against what lies there; returns what the user should know."""
    for trial in trials:
        check_same(out / files.TRIALS / trial.id, trial, sources[trial.id], trial.id in anew)
    lines = []
    if (out / files.STOP).exists():
        (out / files.STOP).unlink()
        lines.append(f"removed {out / files.STOP}, which an earlier stop left")
    for trial in trials:
        folder = out / files.TRIALS / trial.id
        folder.mkdir(parents=True, exist_ok=True)
        content = {"id": trial.id, "spec": trial.spec.model_dump(mode="json"), "source": sources[trial.id]}
        if trial.id in anew:  # no attempt before this is resumed
            write_json(folder / files.TRIAL, {**content, "first_attempt": len(attempts(folder))}, sync=False)
            (folder / files.RESULT).unlink(missing_ok=True)
        elif not attempts(folder):
            write_json(folder / files.TRIAL, {**content, "first_attempt": 0}, sync=False)
        if not (folder / files.STATUS).exists():
            write_json(folder / files.STATUS, {"state": "pending"}, sync=False)
    with atomic(out / files.STUDY) as file:
        file.write(dump_study(study).encode())
    return lines


def check_same(folder: Path, trial: PlannedTrial, source: dict[str, str], anew: bool) -> None:
    """Refuse a folder whose trial is another one, or was run by code that has changed since."""
    if not (folder / files.TRIAL).exists():
        return
    described = read_json(folder / files.TRIAL)
    if TrialSpec.model_validate(described["spec"]) != trial.spec:
        raise StoreError(f"{folder / files.TRIAL}: another spec under the same id; give another --out")
    if described["source"] != source and attempts(folder) and not anew:
        raise StoreError(
            f"{folder / files.TRIAL}: the code of {', '.join(source)} changed since this trial ran; "
            "add --force to run it anew, or give another --out"
        )


def tasks(out: Path, todo: Sequence[PlannedTrial], settings: Settings) -> list[dict[str, Any]]:
    """One plain-data task per trial, the costliest first, so that the last ones to run are short."""
    launch = {"command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]), "git_commit": git_commit()}
    shared = {
        "out": str(out.resolve()), "device": settings.device, "threads": settings.threads,
        "download": settings.download, "checkpoint_every_s": settings.checkpoint_every_s, "data_dir": settings.data_dir,
        "allow_code": settings.allow_code, "launch": launch,
    }  # fmt: skip
    return [{"trial": trial.id, **shared} for trial in costliest_first(todo)]


def run_engine(settings: Settings, work: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Hand the tasks to the engine."""
    if settings.engine == "ray":
        from initlab.engine.ray import run_ray  # here: only this engine needs Ray

        gpus = settings.gpus_per_trial if settings.device != "cpu" else 0.0
        return run_ray(
            work, RUN_ONE, settings.jobs, threads=settings.threads, gpus_per_trial=gpus, address=settings.address
        )
    return run_inline(work, RUN_ONE, settings.jobs or 1, threads=settings.threads)


def record_deaths(out: Path, answers: Sequence[dict[str, Any]]) -> None:
    """Mark as failed the trials whose process died with them, which could not say so themselves."""
    for answer in answers:
        folder = out / files.TRIALS / answer["trial"]
        if answer.get("error") and not (folder / files.RESULT).exists():
            write_json(folder / files.STATUS, {"state": "failed", "error": answer["error"], "traceback": ""})


def git_commit() -> str | None:
    """The commit of the initlab that runs, `+` where its tree was changed; None outside a checkout."""
    here = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            capture_output=True, text=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return described.stdout.strip() or None
