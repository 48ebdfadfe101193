"""Results for the trackers of other projects: each trial a run of TensorBoard, MLflow or Trackio.

A run has the fields of the trial's spec as its parameters, its verdict and state, and by step the curves under their
names and the signals of each layer as `log10_forward_var/LAYER` and `log10_backward_var/LAYER`: in logarithms, since
TensorBoard keeps 32-bit floats, whose least is 1e-45, and charts of numbers from 1e-57 to 1 read in logarithms alone.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from initlab.errors import UserError
from initlab.store.columns import COLUMNS, POINT
from initlab.store.files import StoreError, writable
from initlab.store.results import Results
from initlab.study.paths import TRIAL_PATHS, field_text, trial_names

CURVES = [column.name for column in COLUMNS["scalars"] if column not in POINT]
SIGNALS = ("forward_var", "backward_var")
# MLflow takes at most this many metrics in one call.
BATCH = 1000


@dataclass(frozen=True)
class Run:
    """One trial as trackers have it."""

    name: str
    parameters: dict[str, str]
    facts: dict[str, str]  # what became of it
    metrics: dict[int, dict[str, float]]  # by step; finite numbers alone


def runs_of(results: Results) -> Iterator[Run]:
    """The trials that have rows."""
    frames = {frame: dict(iter(getattr(results, frame).groupby("trial"))) for frame in ("scalars", "signals")}
    verdicts = results.verdicts.set_index("trial").verdict
    for trial, name in zip(results.stored, trial_names([trial.spec for trial in results.stored]), strict=True):
        if trial.id not in frames["scalars"]:
            continue
        metrics: dict[int, dict[str, float]] = {}
        add(metrics, frames["scalars"][trial.id][["step", *CURVES]])
        if trial.id in frames["signals"]:
            rows = frames["signals"][trial.id]
            for column in SIGNALS:
                with np.errstate(divide="ignore"):
                    wide = np.log10(rows.pivot_table(index="step", columns="name", values=column))
                add(metrics, wide.add_prefix(f"log10_{column}/").reset_index())
        facts = {"trial": trial.id, "state": str(trial.status["state"]), "verdict": str(verdicts[trial.id])}
        parameters = {path: field_text(trial.spec, path) for path in TRIAL_PATHS}
        yield Run(name, parameters, facts, dict(sorted(metrics.items())))


def add(metrics: dict[int, dict[str, float]], table: pd.DataFrame) -> None:
    """Add the finite numbers of a table with a column `step`."""
    for row in table.to_dict("records"):
        step = int(row.pop("step"))
        metrics.setdefault(step, {}).update({str(key): value for key, value in row.items() if np.isfinite(value)})


def to_tensorboard(study: str, runs: Iterator[Run], folder: Path) -> str:
    """Event files, a folder per run, with parameters and verdict as text."""
    writer = import_module("tensorboardX").SummaryWriter
    for run in runs:
        with writer(str(folder / run.name.replace("/", "_"))) as events:
            table = "\n".join(f"| {key} | {value} |" for key, value in {**run.facts, **run.parameters}.items())
            events.add_text("trial", f"| field | value |\n| --- | --- |\n{table}", 0)
            for step, numbers in run.metrics.items():
                for key, value in numbers.items():
                    events.add_scalar(key, value, step)
    return f"tensorboard --logdir {folder}"


def to_mlflow(study: str, runs: Iterator[Run], folder: Path) -> str:
    """An experiment with the study's name in a database of MLflow."""
    mlflow, entities = import_module("mlflow"), import_module("mlflow.entities")
    address = f"sqlite:///{(folder / 'mlflow.db').resolve()}"
    client = mlflow.MlflowClient(tracking_uri=address)
    experiment = client.create_experiment(study, artifact_location=(folder / "artifacts").resolve().as_uri())
    for run in runs:
        identity = client.create_run(experiment, run_name=run.name).info.run_id
        numbers = [
            entities.Metric(key, value, 0, step) for step, row in run.metrics.items() for key, value in row.items()
        ]
        parameters = [entities.Param(key, value) for key, value in run.parameters.items()]
        tags = [entities.RunTag(key, value) for key, value in run.facts.items()]
        client.log_batch(identity, params=parameters, tags=tags)
        for start in range(0, len(numbers), BATCH):
            client.log_batch(identity, metrics=numbers[start : start + BATCH])
        client.set_terminated(identity)
    return f"mlflow server --backend-store-uri {address}"


def to_trackio(study: str, runs: Iterator[Run], folder: Path) -> str:
    """A project with the study's name in a folder of Trackio's."""
    # It is read when the package is first imported.
    os.environ["TRACKIO_DIR"] = str(folder.resolve())
    trackio = import_module("trackio")
    if Path(trackio.TRACKIO_DIR) != folder.resolve():
        raise UserError(f"export: trackio is at work in {trackio.TRACKIO_DIR} in this process; export in a new one")
    for run in runs:
        trackio.init(study, name=run.name, config={**run.parameters, **run.facts}, embed=False, auto_log_gpu=False)
        for step, numbers in run.metrics.items():
            trackio.log(numbers, step=step)
        trackio.finish()
    return f"TRACKIO_DIR={folder} trackio show --project {study}"


TRACKERS: Mapping[str, Callable[[str, Iterator[Run], Path], str]] = {
    "tensorboard": to_tensorboard,
    "mlflow": to_mlflow,
    "trackio": to_trackio,
}
# Where it is not the tracker's name; this one comes with initlab.
PACKAGES = {"tensorboard": "tensorboardX"}


def export_to_tracker(results: Results, tracker: str, folder: Path) -> str:
    """Write the trials into an empty or new folder as runs of a tracker; returns the command that shows them.

    Raises:
        StoreError: the folder holds something, or cannot be written.
        UserError: the tracker is not installed.
    """
    package = PACKAGES.get(tracker, tracker)
    if find_spec(package) is None:
        raise UserError(f"export: {package} is not installed; pip install 'initlab[{tracker}]'")
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StoreError(f"{folder}: not empty; give a new folder")
        return TRACKERS[tracker](results.study.name, runs_of(results), folder)
