"""What can never work, refused before anything is written."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from initlab.data.facts import absence, is_pictures
from initlab.data.folders import scan
from initlab.engine.task import DataAccess
from initlab.plan.plan import PlannedTrial
from initlab.study.mistakes import StudyError
from initlab.study.run_options import MOST_DEVICES, Run
from initlab.user_code import is_code


def check_engine(engine: str, address: str | None) -> None:
    """Refuse an engine that is not installed, or an address that it has no use for."""
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


def check_device_count(devices: int | None) -> None:
    """Refuse a number of processes per trial that no machine has; says both bounds."""
    if devices is not None and not 1 <= devices <= MOST_DEVICES:
        raise StudyError([f"--devices: out of range (got {devices}); allowed: 1 to {MOST_DEVICES}"])


def check_devices(run: Run, gpus: float) -> None:
    """Refuse more processes per trial than there is room for."""
    if run.devices == 1 or run.device == "cpu":
        return
    if run.device == "cuda" and run.devices > gpus:
        raise StudyError([f"--devices: too few GPUs here (got {run.devices}); allowed: up to {gpus}, or --device cpu"])
    if run.device == "cuda" and run.engine == "inline" and (run.jobs or 1) > 1:
        raise StudyError([f"--devices: one trial at a time on several GPUs (got --jobs {run.jobs}); give --jobs 1"])
    if run.engine == "ray" and run.gpus_per_trial != 1:
        text = f"each of several processes takes one GPU (got {run.gpus_per_trial})"
        raise StudyError([f"--gpus-per-trial: {text}; leave it out, or give --devices 1"])


def check_shareable(trials: Sequence[PlannedTrial], devices: int) -> None:
    """Refuse trials that several processes cannot train as one does."""
    if devices == 1:
        return
    lines: dict[str, None] = {}  # each mistake once
    for spec in (trial.spec for trial in trials):
        size, slices = spec.train.batch_size, devices * spec.train.accumulate
        if size % slices:
            times = " times train.accumulate" if slices > devices else ""
            text = f"does not part into {slices} equal slices (got {size}); allowed: a multiple of --devices{times}"
            lines[f"train.batch_size: {text}"] = None
        if is_code(spec.net.name):
            text = "code of yours may draw or normalise over its batch, which --devices cuts"
            lines[f"net.name: {text} (got {spec.net.name!r}); give --devices 1"] = None
        if is_code(spec.train.loss or ""):
            text = "a loss of yours may be no mean over its batch, which --devices cuts"
            lines[f"train.loss: {text} (got {spec.train.loss!r}); give --devices 1"] = None
        if spec.net.norm == "batch":
            lines["net.norm: its statistics are the whole batch's (got batch); give --devices 1"] = None
        if spec.train.auxiliary:
            lines["train.auxiliary: the heads are trained in one process (got some); give --devices 1"] = None
    if lines:
        raise StudyError(lines)


def check_data(trials: Sequence[PlannedTrial], access: DataAccess) -> list[str]:
    """Say before anything starts that files are absent or wrongly laid out.

    Returns:
        What the user should know, a line each: files that are left out.
    """
    folder = Path(access.data_dir) if access.data_dir else None
    sections = [trial.spec.data for trial in trials if not is_code(trial.spec.data.name)]
    names = sorted({data.name for data in sections if is_pictures(data.name) or not (access.download and folder)})
    if lines := [line for line in (absence(name, folder) for name in names) if line]:
        raise StudyError(lines)
    notes = []
    for name, classes in sorted({(data.name, data.classes) for data in sections if is_pictures(data.name)}):
        if skipped := scan(name, folder, classes).skipped:
            text = f"left out {len(skipped)} files that are no pictures by their suffix, e.g. {skipped[0]}"
            notes.append(f"{name}: {text}")
    return notes
