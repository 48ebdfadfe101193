"""`Results`: an output folder, or what `initlab export` made of one, as tidy pandas frames."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from initlab.engine.task import State
from initlab.errors import one_line
from initlab.store import files
from initlab.store.columns import names, units
from initlab.store.export import FRAMES, Form, export, exported_rows, exported_trials
from initlab.store.files import study_problem
from initlab.store.labelled import to_xarray
from initlab.store.reader import read_trials
from initlab.store.rows import ROWS, Choice, Moment, attempt_rows, nearest
from initlab.store.study_file import study_of
from initlab.study.paths import ALWAYS_TOLD, getattr_path, other_differences
from initlab.user_code import is_code
from initlab.verdict.features import family_of_net, features_of
from initlab.verdict.judge import judge
from initlab.verdict.odds import forecast_of
from initlab.verdict.rules import default_threshold

if TYPE_CHECKING:
    import xarray

CURVE = ("step", "epoch", "train_loss", "train_error", "val_error")  # what a verdict looks at
ENVIRONMENT = ["device", "precision", "torch_version", "git_commit"]


class Results:
    """The results of a study; frames are read once, on first use. `frame.attrs["units"]` has the units of columns."""

    def __init__(self, out: str | Path, requested: Sequence[str] | None = None) -> None:
        """Open an output folder; `requested` are the trials that a launch was to run, None is the whole study.

        Raises:
            StoreError: no such folder, no study in it, or one of a newer initlab.
        """
        self.out = Path(out)
        # Rows are read later, when the working folder may be another one.
        self.place = self.out.absolute()
        self.study, specs = study_of(self.out)
        self.planned = list(specs)
        self.requested = self.planned if requested is None else list(requested)
        self.problems = list(filter(None, [study_problem(self.out / files.STUDY)]))
        # A folder that is there as long as these results are.
        self.temporary: object = None
        self.nearest: dict[tuple[Moment, ...], pd.DataFrame] = {}
        self.exported = (self.out / files.COMPACTED).exists()
        self.stored = exported_trials(self.place) if self.exported else read_trials(self.place, specs, self.problems)

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row per trial: state, its fields that vary, verdict, last and best validation error, where it ran."""
        fields = [*ALWAYS_TOLD, *other_differences([trial.spec for trial in self.stored])]
        verdicts = self.verdicts.set_index("trial").verdict
        best, planned = self.scalars.groupby("trial").val_error.min(), set(self.planned)
        rows = [
            {
                **{key: trial.environment.get(key) for key in ENVIRONMENT},
                **{key: trial.status.get(key, math.nan) for key in ("state", "val_error", "wall_s", "silent_s")},
                **{path: getattr_path(trial.spec, path) for path in fields},
                **{"trial": trial.id, "attempts": trial.attempts, "in_study": trial.id in planned},
                **{"verdict": verdicts.get(trial.id), "best_val_error": best.get(trial.id, math.nan)},
                "epochs_done": trial.status.get("epoch", 0.0),
            }
            for trial in self.stored
        ]
        columns = names("trials")
        columns[columns.index("verdict") : columns.index("verdict")] = fields
        return with_units("trials", pd.DataFrame(rows, columns=columns))

    @cached_property
    def scalars(self) -> pd.DataFrame:
        """Loss and error curves, one row per (trial, step)."""
        return self.rows("scalars")

    @cached_property
    def slopes(self) -> pd.DataFrame:
        """Slopes that PReLU learned, one row per (trial, validated step, PReLU layer); no rows for other nets.

        `layer` is 0-based; mean, std, min and max go over the layer's `channels` slopes (1 where it shares one).
        """
        return self.rows("slopes")

    @cached_property
    def running(self) -> pd.DataFrame:
        """Moments of the training steps' own tensors, one row per (trial, row of scalars, layer).

        They are pooled over the `samples` steps sampled since the row before; no rows where `probe.running_every` is 0.
        """
        return self.rows("running")

    @cached_property
    def signals(self) -> pd.DataFrame:
        """Probe measurements, one row per (trial, step, layer); columns are defined in the README."""
        return self.rows("signals")

    def signals_near(self, epochs: Sequence[Moment]) -> pd.DataFrame:
        """The rows of `signals` of the probes nearest to these epochs (`end` is the last), in little memory."""
        key = tuple(epochs)
        if key not in self.nearest:
            self.nearest[key] = self.rows("signals", nearest(key))
        return self.nearest[key]

    def rows(self, frame: str, choice: Choice | None = None) -> pd.DataFrame:
        """A frame of the rows that count, or those of a choice; what cannot be read is named in `problems`."""
        if self.exported:
            return with_units(frame, exported_rows(self.place, frame, self.problems, choice))
        return with_units(frame, attempt_rows(self.stored, frame, self.problems, choice))

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """One row per trial; verdict None while unfinished. One stopped as hopeless is judged by what it has."""
        columns = {name: self.scalars[name].to_numpy() for name in CURVE}
        places = self.scalars.groupby("trial").indices
        rows: list[list[object]] = []
        for trial in self.stored:
            status = trial.status
            batch_size = status.get("batch_size", trial.spec.train.batch_size)
            chance, stopped = status.get("chance", math.nan), status["state"] == State.STOPPED
            threshold = self.study.verdict.threshold or default_threshold(chance)
            if trial.id not in places or (trial.result is None and not stopped):
                rows.append([trial.id, None, f"{status['state']}, not finished", math.nan, True, threshold])
                continue
            judgement = judge(
                {name: column[places[trial.id]] for name, column in columns.items()},
                steps_per_epoch=status["train_examples"] // batch_size,
                batch_size=batch_size,
                chance_loss=chance_loss_of(status),
                chance=chance,
                threshold=threshold,
                spread=status.get("chance_spread"),
            )
            end = (
                f"; stopped as hopeless at epoch {status['epoch']:.3g} of {trial.spec.train.epochs:.3g}"
                if stopped
                else ""
            )
            row = [judgement.verdict, judgement.reason + end, judgement.epoch_reached, judgement.censored]
            rows.append([trial.id, *row, threshold])
        return with_units("verdicts", pd.DataFrame(rows, columns=names("verdicts")))

    @cached_property
    def forecasts(self) -> pd.DataFrame:
        """One row per trial with a probe at step 0: what it foretells, before any training.

        `forecast` is the most probable verdict or `cannot tell`, the next four columns are the probabilities; then
        whether the calibration holds for such nets, and the features (`initlab.verdict.odds`).
        """
        first = self.signals_near((0,))
        probes = dict(iter(first[first.step == 0].groupby("trial")))
        losses = self.scalars[self.scalars.step == 0].set_index("trial").val_loss
        rows = []
        for trial in self.stored:
            layers, loss = probes.get(trial.id), losses.get(trial.id)
            train, known = trial.spec.train, "num_classes" in trial.status
            # The forecast needs to know the step, which nobody says of a loop that is watched, nor of code.
            if layers is None or loss is None or not known or trial.spec.watched or is_code(train.optimizer):
                continue
            try:
                features = features_of(layers, loss=loss, chance_loss=chance_loss_of(trial.status), train=train)
            except ValueError as error:
                self.problems.append(f"{trial.folder}: {one_line(error)}")
                continue
            odds = forecast_of(features, family_of_net(trial.spec.net), train)
            rows.append([trial.id, odds.verdict, *odds.probabilities.values(), odds.calibrated, *features])
        return pd.DataFrame(rows, columns=names("forecasts"))

    def to_xarray(self) -> "xarray.Dataset":
        """Curves and signals as arrays with named dimensions: see `initlab.store.labelled.to_xarray`."""
        return to_xarray(self.trials, self.scalars, self.signals)

    @property
    def figures(self) -> Path:
        """Where figures of this study go."""
        return self.out / files.FIGURES

    def export(self, form: Form, folder: Path) -> list[Path]:
        """Write all frames into an empty or new folder, as files that `initlab.load` reads or a csv each; returns them.

        Raises:
            StoreError: the folder holds something, or cannot be written.
        """
        frames = {name: getattr(self, name) for name in (FRAMES if form == "csv" else ROWS)}
        return export(folder, form, self.place / files.STUDY, self.stored, frames)

    def __repr__(self) -> str:
        states = pd.Series([trial.status["state"] for trial in self.stored], dtype=str).value_counts()
        return f"Results({str(self.out)!r}: {', '.join(f'{n} {state}' for state, n in states.items()) or 'no trials'})"


def with_units(frame: str, table: pd.DataFrame) -> pd.DataFrame:
    """A frame that tells the units of its columns."""
    table.attrs["units"] = units(frame)
    return table


def chance_loss_of(status: Mapping[str, Any]) -> float:
    """The loss of guessing in a trial; one of before there were others than classes has ln K."""
    return float(status.get("chance_loss", math.log(status["num_classes"])))
