"""How and where to run: the caller's options over the study's `run` section, and the machine's for the rest."""

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from initlab.engine.submit import Resources
from initlab.engine.task import DataAccess
from initlab.launch.checks import check_device, check_device_count, check_devices, check_engine
from initlab.launch.machine import cache_folder, gpu_count
from initlab.store.files import STOP
from initlab.study.run_options import Run
from initlab.study.shard import Shard
from initlab.study.study import Study

JOB_MARGIN_S = 120.0  # for the last step and a checkpoint


@dataclass(frozen=True)
class Settings:
    """How and where a launch runs its trials."""

    run: Run  # its `device` is None only where nodes of a cluster see for themselves, `jobs` where they have room
    access: DataAccess
    address: str | None  # of a running Ray cluster
    skip_hopeless: bool
    stop: str  # the file in the output folder whose presence stops this launch alone

    @property
    def resources(self) -> Resources:
        """What the engine may give to tasks; where memory is still to be measured, a GPU to each."""
        run = self.run
        gpus = 0.0 if run.device == "cpu" else 1.0 if run.gpus_per_trial == "auto" else run.gpus_per_trial
        isolate, timeout_s = run.isolate == "trial", run.trial_timeout
        return Resources(run.jobs, run.threads, run.devices, gpus, self.address, isolate, timeout_s, run.max_failures)


def resolve(
    study: Study,
    options: Mapping[str, Any],
    *,
    address: str | None = None,
    data_dir: str | Path | None = None,
    allow_code: bool = False,
    skip_hopeless: bool = False,
    gpus: int | None = None,
    shard: Shard | None = None,
    own_code: bool = False,
) -> Settings:
    """The caller's options over the study's, and what neither says from the machine.

    Args:
        options: fields of `Run` that the caller gives; None leaves one to the study.
        gpus: of the machine that will run it; None is this one.
        own_code: whether trials name code of the user's, whose processes are not shared unless the study says so.

    Raises:
        StudyError: an option out of range, an engine or a device that is not here.
    """
    check_device_count(options.get("devices"))
    run = study.run_with(**options)
    check_engine(run.engine, address)
    gpus = 0 if run.device == "cpu" else gpu_count() if gpus is None else gpus
    check_device(run.device, bool(gpus or address))
    if run.device is None and not address:
        run = run.model_copy(update={"device": "cuda" if gpus else "cpu"})
    check_devices(run, math.inf if address else gpus)
    if run.jobs is None and not address:
        run = run.model_copy(update={"jobs": trials_at_once(run, gpus)})
    if run.isolate is None:
        run = run.model_copy(update={"isolate": "trial" if own_code else "none"})
    folder = data_dir or study.data.folder or os.environ.get("INITLAB_DATA")
    access = DataAccess(
        data_dir=str(folder) if folder else None,
        download=study.data.download,
        allow_code=allow_code,
        workers=run.workers,
        cache=str(cache_folder()),
        keep_decoded=study.data.cache,
        resident=run.resident,
    )
    return Settings(run, access, address, skip_hopeless, f"{STOP}-{shard}" if shard else STOP)


def time_left(max_hours: float | None) -> tuple[float | None, str]:
    """Seconds until all is to stop, None where nothing says so, and what does: `max_hours`, or a Slurm job's end."""
    limits = []
    if max_hours is not None:
        limits.append((max_hours * 3600, f"{max_hours:g} hours are over"))
    if (end := os.environ.get("SLURM_JOB_END_TIME", "")).isdigit():
        limits.append((int(end) - time.time() - JOB_MARGIN_S, "the Slurm job is about to end"))
    return min(limits, default=(None, ""))


def trials_at_once(run: Run, gpus: int) -> int:
    """As many trials as this machine has room for: by its cores, or by its GPUs."""
    cores = os.cpu_count() or 1
    if run.device != "cuda" or run.gpus_per_trial == "auto":
        return max(1, cores // run.devices)
    # Inline trials all take the first GPUs; Ray gives each trial its own, or its fraction of one.
    return max(1, int(gpus / (run.devices * run.gpus_per_trial))) if run.engine == "ray" else 1
