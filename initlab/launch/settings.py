"""How and where to run: the caller's settings over the study's `run` section, and the machine's for the rest."""

import ctypes
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from initlab.data.facts import absence, is_pictures
from initlab.data.folders import scan
from initlab.plan.plan import PlannedTrial
from initlab.study.mistakes import StudyError
from initlab.study.study import Study
from initlab.user_code import is_code


@dataclass(frozen=True)
class Settings:
    """How and where to run, resolved from the study's `run` section and the caller."""

    engine: str
    device: str | None
    jobs: int | None  # None: as many as a cluster has room for
    devices: int  # processes per trial
    gpus_per_trial: float
    address: str | None
    threads: int
    pack: int  # trials that one process trains as one
    compile: bool | None  # None: long trials and packs
    channels_last: bool | None  # None: on a GPU
    workers: int  # that decode pictures, per trial
    checkpoint_every_s: float
    data_dir: str | None
    download: bool
    cache: str  # folder for what was computed from pictures
    keep_decoded: bool
    allow_code: bool


def resolve(
    study: Study,
    engine: str | None,
    jobs: int | None,
    device: str | None,
    gpus_per_trial: float | None,
    address: str | None,
    data_dir: str | Path | None,
    allow_code: bool,
    pack: int | None = None,
    devices: int | None = None,
) -> Settings:
    """The caller's settings over the study's, and what neither says from the machine.

    Raises:
        StudyError: a setting out of range, an engine or a device that is not here.
    """
    own = study.run
    engine, device = engine or own.engine, device or own.device
    check_choices(engine, jobs, gpus_per_trial, address, pack)
    devices = own.devices if devices is None else devices
    gpus = 0 if device == "cpu" else gpu_count()
    check_device(device, bool(gpus or address))
    if device is None and not address:
        device = "cuda" if gpus else "cpu"
    check_devices(devices, engine, device, math.inf if address else gpus, jobs or own.jobs)
    if devices > 1 and engine == "ray" and device != "cpu" and (gpus_per_trial or own.gpus_per_trial) != 1:
        text = f"each of several processes takes one GPU (got {gpus_per_trial or own.gpus_per_trial:g})"
        raise StudyError([f"--gpus-per-trial: {text}; leave it out, or give --devices 1"])
    # inline trials all take the first GPU; Ray gives each its own
    here = (gpus if engine == "ray" else devices) if device == "cuda" else os.cpu_count() or 1
    here = max(1, here // devices)
    folder = data_dir or study.data.folder or os.environ.get("INITLAB_DATA")
    return Settings(
        engine=engine,
        device=device,
        devices=devices,
        jobs=jobs or own.jobs or (None if address else here),
        gpus_per_trial=gpus_per_trial or own.gpus_per_trial,
        address=address,
        threads=own.threads,
        pack=pack or own.pack,
        compile=own.compile,
        channels_last=own.channels_last,
        workers=own.workers,
        checkpoint_every_s=own.checkpoint_every_s,
        data_dir=str(folder) if folder else None,
        download=study.data.download,
        cache=str(cache_folder()),
        keep_decoded=study.data.cache,
        allow_code=allow_code,
    )


def check_choices(
    engine: str, jobs: int | None, gpus_per_trial: float | None, address: str | None, pack: int | None
) -> None:
    """Refuse settings that can never work, before anything is written."""
    if engine not in ("inline", "ray"):
        raise StudyError([f"--engine: unknown engine (got {engine!r}); allowed: inline, ray"])
    if jobs is not None and jobs < 1:
        raise StudyError([f"--jobs: out of range (got {jobs}); allowed: at least 1"])
    if pack is not None and pack < 1:
        raise StudyError([f"--pack: out of range (got {pack}); allowed: at least 1"])
    if gpus_per_trial is not None and not 0 < gpus_per_trial < math.inf:
        raise StudyError([f"--gpus-per-trial: out of range (got {gpus_per_trial}); allowed: above 0"])
    if engine == "ray" and find_spec("ray") is None:
        raise StudyError(["--engine: ray is not installed; pip install 'ray[tune]', or use --engine inline"])
    if engine != "ray" and address:
        raise StudyError([f"--address: only for --engine ray (got {address!r} with {engine}); add --engine ray"])


def check_device(device: str | None, gpus: bool) -> None:
    """Refuse a device that does not exist, or not where there are no GPUs."""
    if device not in (None, "cpu", "cuda"):
        raise StudyError([f"--device: unknown device (got {device!r}); allowed: cpu, cuda"])
    if device == "cuda" and not gpus:
        raise StudyError(["--device: cuda is not available on this machine; allowed here: cpu"])


def check_devices(devices: int, engine: str, device: str | None, gpus: float, jobs: int | None) -> None:
    """Refuse more processes per trial than there is room for."""
    if not 1 <= devices <= 64:
        raise StudyError([f"--devices: out of range (got {devices}); allowed: 1 to 64"])
    if devices == 1:
        return
    if device == "cuda" and devices > gpus:
        raise StudyError([f"--devices: too few GPUs here (got {devices}); allowed: up to {gpus}, or --device cpu"])
    if device == "cuda" and engine == "inline" and (jobs or 1) > 1:
        raise StudyError([f"--devices: one trial at a time on several GPUs (got --jobs {jobs}); give --jobs 1"])


def check_shared(trials: Sequence[PlannedTrial], devices: int) -> None:
    """Refuse trials that several processes cannot train as one does."""
    lines: dict[str, None] = {}  # each mistake once
    for spec in (trial.spec for trial in trials if devices > 1):
        size = spec.train.batch_size
        if size % devices:
            text = f"does not part into {devices} equal slices (got {size}); allowed: a multiple of --devices"
            lines[f"train.batch_size: {text}"] = None
        if is_code(spec.net.name):
            text = "code of yours may draw or normalise over its batch, which --devices cuts"
            lines[f"net.name: {text} (got {spec.net.name!r}); give --devices 1"] = None
        if spec.net.norm == "batch":
            lines["net.norm: its statistics are the whole batch's (got batch); give --devices 1"] = None
        if spec.train.auxiliary:
            lines["train.auxiliary: the heads are trained in one process (got some); give --devices 1"] = None
    if lines:
        raise StudyError(lines)


def gpu_count() -> int:
    """NVIDIA GPUs that the driver offers; asked of the driver, since importing torch takes seconds."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def cache_folder() -> Path:
    """INITLAB_CACHE, or the user's cache folder as the desktop standards have it."""
    own = os.environ.get("INITLAB_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "initlab"


def check_data(trials: Sequence[PlannedTrial], settings: Settings) -> list[str]:
    """Say before anything starts that files are absent or wrongly laid out; nodes of a cluster look for themselves.

    Returns:
        What the user should know, a line each: files that are left out.
    """
    if settings.address:
        return []
    folder = Path(settings.data_dir) if settings.data_dir else None
    named = {trial.spec.data.name for trial in trials if not is_code(trial.spec.data.name)}
    lines = [absence(name, folder) for name in sorted(named) if is_pictures(name) or not (settings.download and folder)]
    if any(lines):
        raise StudyError(line for line in lines if line)
    asked = {(trial.spec.data.name, trial.spec.data.classes) for trial in trials if is_pictures(trial.spec.data.name)}
    notes = []
    for name, classes in sorted(asked):
        skipped = scan(name, folder, classes).skipped
        if skipped:
            notes.append(
                f"{name}: left out {len(skipped)} files that are no pictures by their suffix, e.g. {skipped[0]}"
            )
    return notes
