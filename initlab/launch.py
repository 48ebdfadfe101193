"""Launch a study: wire plan, engine, work and store together.

The store is the truth: what has a result is not run again, whatever an engine says.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from initlab.code import source_hash
from initlab.engine.lease import lease
from initlab.engine.stopping import stop_file_on_signal
from initlab.plan import Finished, PlannedTrial, cost, plan
from initlab.progress import progress
from initlab.spec import TrialSpec, is_code
from initlab.store.files import RESULT, STATUS, STOP, STUDY, TRIAL, TRIALS, StoreError, atomic, attempts, read_json, write_json
from initlab.store.results import Results, load
from initlab.study import Study, dump_study, load_study
from initlab.study_file import StudyError


@dataclass(frozen=True)
class Settings:
    """How and where to run, resolved from the study's `run` section and the caller."""

    engine: str
    device: str | None
    jobs: int
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
        jobs: trials at once; None is the cores on a CPU, 1 on a GPU.
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
    trials = chosen(plan(study, where), only)
    settings = resolve(study, engine, jobs, device, gpus_per_trial, address, data_dir, allow_code)
    sources = {trial.id: sources_of(trial.spec, allow_code) for trial in trials}
    folder = Path(out) if out else Path("results") / study.name
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder}: a file, not an output folder; give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    with lease(folder):
        lines = prepare(folder, study, trials, sources, force)
        todo = [trial for trial in trials if not (folder / TRIALS / trial.id / RESULT).exists()]
        with progress(folder, trials, todo, show, lines) as say, stop_file_on_signal(folder / STOP, say):
            if todo:
                answers = run_engine(settings, tasks(folder, todo, settings, force))
                record_deaths(folder, answers)
    return load(folder)


def chosen(trials: list[PlannedTrial], only: Sequence[str]) -> list[PlannedTrial]:
    """The trials whose id begins with one of `only`; all where it is empty."""
    for prefix in only:
        if not any(trial.id.startswith(prefix) for trial in trials):
            raise StudyError([f"--only: no such trial (got {prefix!r}); allowed: an id that `initlab plan` lists, or its beginning"])
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
    has_gpu = cuda_available() if device is None or device == "cuda" else False
    if device == "cuda" and not has_gpu and not address:
        raise StudyError(["--device: cuda is not available on this machine; allowed here: cpu"])
    if device is None and not address:
        device = "cuda" if has_gpu else "cpu"
    return Settings(
        engine=engine, device=device, jobs=jobs or own.jobs or (1 if has_gpu else os.cpu_count() or 1),
        gpus_per_trial=gpus_per_trial or own.gpus_per_trial, address=address, threads=own.threads,
        checkpoint_every_s=own.checkpoint_every_s, data_dir=str(data_dir or study.data.folder or os.environ.get("INITLAB_DATA", "")) or None,
        download=study.data.download, allow_code=allow_code,
    )  # fmt: skip


def cuda_available() -> bool:
    import torch  # here: a study that names its device needs no torch in the launcher

    return torch.cuda.is_available()


def require_ray() -> None:
    from importlib.util import find_spec

    if find_spec("ray") is None:
        raise StudyError(["--engine: ray is not installed; pip install 'initlab[ray]', or use --engine inline"])


def sources_of(spec: TrialSpec, allow_code: bool) -> dict[str, str]:
    """Hash of the source of each `pkg.module:callable` that the trial names."""
    names = {"data.name": spec.data.name, "net.name": spec.net.name}
    code = {path: name for path, name in names.items() if is_code(name)}
    for path, name in code.items():
        if not allow_code:
            raise StudyError([f"{path}: names code (got {name!r}), which is imported only with --allow-code; add it if you trust it"])
    return {path: source_hash(path, name) for path, name in code.items()}


def prepare(
    out: Path, study: Study, trials: Sequence[PlannedTrial], sources: dict[str, dict[str, str]], force: bool
) -> list[str]:
    """Write the study and each trial's spec; returns what the user should know."""
    lines = []
    if (out / STOP).exists():
        (out / STOP).unlink()
        lines.append(f"removed {out / STOP}, which an earlier stop left")
    for trial in trials:
        folder = out / TRIALS / trial.id
        content = {"id": trial.id, "spec": trial.spec.model_dump(mode="json"), "source": sources[trial.id]}
        if (folder / TRIAL).exists():
            described = read_json(folder / TRIAL)
            if described["spec"] != content["spec"] and TrialSpec.model_validate(described["spec"]) != trial.spec:
                raise StoreError(f"{folder / TRIAL}: another spec under the same id; give another --out")
            if described["source"] != content["source"] and attempts(folder) and not force:
                raise StoreError(
                    f"{folder / TRIAL}: the code that {', '.join(content['source'])} names changed since this trial ran; "
                    "add --force to run it anew, or give another --out"
                )
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / TRIAL, content, sync=False)
        if force:
            (folder / RESULT).unlink(missing_ok=True)
        if not (folder / STATUS).exists():
            write_json(folder / STATUS, {"state": "pending"}, sync=False)
    with atomic(out / STUDY) as file:
        file.write(dump_study(study).encode())
    return lines


def tasks(out: Path, todo: Sequence[PlannedTrial], settings: Settings, force: bool) -> list[dict[str, Any]]:
    """One plain-data task per trial, the costliest first, so that the last ones to run are short."""

    def size(trial: PlannedTrial) -> float:
        known = cost(trial.spec)
        return -(known.steps or 0) * trial.spec.train.batch_size * (known.multiply_adds or 0)

    launch = {"command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]), "git_commit": git_commit()}
    shared = {
        "out": str(out.resolve()), "device": settings.device, "threads": settings.threads, "download": settings.download,
        "checkpoint_every_s": settings.checkpoint_every_s, "data_dir": settings.data_dir,
        "allow_code": settings.allow_code, "fresh": force, "launch": launch,
    }  # fmt: skip
    return [{"trial": trial.id, **shared} for trial in sorted(todo, key=size)]


def run_engine(settings: Settings, work: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Hand the tasks to the engine."""
    from initlab.work import run_one

    if settings.engine == "ray":
        from initlab.engine.ray import run_ray

        gpus = settings.gpus_per_trial if settings.device != "cpu" else 0.0
        return run_ray(
            work, run_one, jobs=settings.jobs, threads=settings.threads, gpus_per_trial=gpus, address=settings.address
        )
    from initlab.engine.inline import run_inline

    return run_inline(work, run_one, settings.jobs, threads=settings.threads)


def record_deaths(out: Path, answers: Sequence[dict[str, Any]]) -> None:
    """Mark as failed the trials whose process died with them, which could not say so themselves."""
    for answer in answers:
        folder = out / TRIALS / answer["trial"]
        if answer.get("error") and not (folder / RESULT).exists():
            write_json(folder / STATUS, {"state": "failed", "error": answer["error"], "traceback": ""})


def finished_trials(out: Path) -> list[Finished]:
    """What the finished trials in an output folder took, for `plan` to expect the time of others from."""
    found = []
    for result in sorted((out / TRIALS).glob(f"t*/{RESULT}")):
        content = read_json(result)
        if content["state"] == "done":
            spec = TrialSpec.model_validate(read_json(result.parent / TRIAL)["spec"])
            found.append(Finished(spec, content["steps"], content["wall_s"]))
    return found


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
