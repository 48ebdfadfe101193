"""`Results`: an output folder, or what `initlab export` made of one, as tidy pandas frames."""

import math
from functools import cached_property
from pathlib import Path
from typing import Literal

import pandas as pd
import yaml

from initlab.plan.plan import plan
from initlab.store import files
from initlab.store.export import FRAMES, ROWS, compacted_rows, compacted_trials, export_csv, export_parquet
from initlab.store.files import StoreError
from initlab.store.reader import line_rows, read_trials, signal_frames
from initlab.study.mistakes import StudyError
from initlab.study.spec import getattr_path
from initlab.study.study import Study, differing_paths
from initlab.verdict.judge import judge
from initlab.verdict.odds import FEATURES, VERDICTS, features_of, forecast_of

SCALAR_COLUMNS = [
    "trial", "attempt", "step", "epoch", "train_loss", "train_error", "val_loss", "val_error", "val_error_top5", "lr",
    "images_per_s", "wall_s",
]  # fmt: skip
SIGNAL_COLUMNS = [
    "trial", "attempt", "step", "epoch", "layer", "name", "op", "calls", "forward_mean", "forward_var",
    "backward_mean", "backward_var", "weight_var", "weight_grad_rms", "decay_ratio", "zero_fraction",
]  # fmt: skip
SLOPE_COLUMNS = ["trial", "attempt", "step", "epoch", "layer", "name", "channels", "mean", "std", "min", "max"]
RUNNING_COLUMNS = [
    "trial", "attempt", "step", "epoch", "layer", "name", "op", "samples", "forward_mean", "forward_var",
    "backward_mean", "backward_var",
]  # fmt: skip
FORECAST_COLUMNS = ["trial", "forecast", *VERDICTS, "calibrated", *FEATURES]
VERDICT_COLUMNS = ["trial", "verdict", "reason", "epoch_reached", "censored", "threshold"]
ENVIRONMENT = ["device", "precision", "torch_version", "git_commit"]
ALWAYS_SHOWN = ["seed", "net.name", "net.depth", "init.scheme"]


class Results:
    """The results of a study; frames are read once, on first use."""

    def __init__(self, out: str | Path) -> None:
        """Open an output folder.

        Raises:
            StoreError: no such folder, no study in it, or one of a newer initlab.
        """
        self.out = Path(out)
        if not self.out.is_dir():
            raise StoreError(f"{self.out}: no such output folder; give the folder that `initlab run` wrote")
        if not (self.out / files.STUDY).exists():
            raise StoreError(
                f"{self.out}: not an output folder (no {files.STUDY} in it); give the folder that `initlab run` wrote"
            )
        try:
            self.study = Study.model_validate(yaml.safe_load((self.out / files.STUDY).read_text()))
            self.planned = [trial.id for trial in plan(self.study)]
        except (ValueError, yaml.YAMLError) as error:
            reason = error.lines[0] if isinstance(error, StudyError) else " ".join(str(error).split())[:200]
            raise StoreError(
                f"{self.out / files.STUDY}: not a study that this initlab reads ({reason}); run the study again"
            ) from None
        self.problems: list[str] = []
        self.compacted = (self.out / files.COMPACTED).exists()
        self.stored = (
            compacted_trials(self.out) if self.compacted else read_trials(self.out, self.planned, self.problems)
        )

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row per trial: state, its fields that vary, verdict, last and best validation error, where it ran."""
        varying = differing_paths([trial.spec for trial in self.stored])
        fields = ALWAYS_SHOWN + [path for path in varying if path not in ALWAYS_SHOWN]
        verdicts = self.verdicts.set_index("trial").verdict
        best = self.scalars.groupby("trial").val_error.min()
        rows = []
        for t in self.stored:
            rows.append(
                {
                    "trial": t.id,
                    "state": t.status["state"],
                    "attempts": t.attempts,
                    **{path: getattr_path(t.spec, path) for path in fields},
                    "verdict": verdicts.get(t.id),
                    "val_error": t.status.get("val_error", math.nan),
                    "best_val_error": best.get(t.id, math.nan),
                    "epochs_done": t.status.get("epoch", 0.0),
                    "wall_s": t.status.get("wall_s", math.nan),
                    **{key: t.environment.get(key) for key in ENVIRONMENT},
                    "in_study": t.id in self.planned,
                }
            )
        ends = ["verdict", "val_error", "best_val_error", "epochs_done", "wall_s", *ENVIRONMENT, "in_study"]
        return pd.DataFrame(rows, columns=["trial", "state", "attempts", *fields, *ends])

    @cached_property
    def scalars(self) -> pd.DataFrame:
        """Loss and error curves, one row per (trial, step)."""
        return self.line_frame(files.SCALARS, SCALAR_COLUMNS)

    @cached_property
    def slopes(self) -> pd.DataFrame:
        """Slopes that PReLU learned, one row per (trial, validated step, PReLU layer); no rows for other nets.

        `layer` is 0-based; mean, std, min and max go over the layer's `channels` slopes (1 where it shares one).
        """
        return self.line_frame(files.SLOPES, SLOPE_COLUMNS)

    @cached_property
    def running(self) -> pd.DataFrame:
        """Moments of the training steps' own tensors, one row per (trial, row of scalars, layer).

        They are pooled over the `samples` steps sampled since the row before; no rows where `probe.running_every` is 0.
        """
        return self.line_frame(files.RUNNING, RUNNING_COLUMNS)

    def line_frame(self, file: str, columns: list[str]) -> pd.DataFrame:
        """The rows that count of the attempts' JSON-lines files of one name."""
        if self.compacted:
            return compacted_rows(self.out, file, columns, self.problems)
        return pd.DataFrame(line_rows(self.stored, file, self.problems), columns=columns)

    @cached_property
    def signals(self) -> pd.DataFrame:
        """Probe measurements, one row per (trial, step, layer); columns are defined in the README."""
        if self.compacted:
            return compacted_rows(self.out, files.SIGNALS, SIGNAL_COLUMNS, self.problems)
        parts = signal_frames(self.stored, self.problems)
        if not parts:
            return pd.DataFrame(columns=SIGNAL_COLUMNS)
        return pd.concat(parts, ignore_index=True)[SIGNAL_COLUMNS]

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """One row per trial; verdict None while unfinished. One stopped as hopeless is judged by what it has."""
        curves = dict(iter(self.scalars.groupby("trial")))
        rows = []
        for trial in self.stored:
            chance = trial.status.get("chance", math.nan)
            threshold = self.study.verdict.threshold or chance / 2
            stopped = trial.status["state"] == "stopped"
            if trial.id not in curves or (trial.result is None and not stopped):
                rows.append([trial.id, None, f"{trial.status['state']}, not finished", math.nan, True, threshold])
                continue
            size = trial.spec.train.batch_size
            found = judge(
                curves[trial.id],
                steps_per_epoch=trial.status["train_examples"] // size,
                batch_size=size,
                num_classes=trial.status["num_classes"],
                chance=chance,
                threshold=threshold,
            )
            reason = found.reason
            if stopped:
                reason += f"; stopped as hopeless at epoch {trial.status['epoch']:.3g} of {trial.status['epochs']:.3g}"
            rows.append([trial.id, found.verdict, reason, found.epoch_reached, found.censored, threshold])
        return pd.DataFrame(rows, columns=VERDICT_COLUMNS)

    @cached_property
    def forecasts(self) -> pd.DataFrame:
        """One row per trial with a probe at step 0: what it foretells, before any training.

        `forecast` is the most probable verdict, the next four columns are the probabilities; then whether the features
        lie in the range of the calibration, and the features themselves (`initlab.verdict.odds`).
        """
        probes = dict(iter(self.signals[self.signals.step == 0].groupby("trial")))
        start = self.scalars[self.scalars.step == 0].set_index("trial").val_loss
        rows = []
        for trial in self.stored:
            if trial.id in probes and trial.id in start.index and "num_classes" in trial.status:
                features = features_of(
                    probes[trial.id],
                    loss=start[trial.id],
                    num_classes=trial.status["num_classes"],
                    lr=trial.spec.train.lr,
                    weight_decay=trial.spec.train.weight_decay,
                )
                found = forecast_of(features)
                rows.append([trial.id, found.verdict, *found.probabilities.values(), found.calibrated, *features])
        return pd.DataFrame(rows, columns=FORECAST_COLUMNS)

    @property
    def figures(self) -> Path:
        """Where figures of this study go."""
        return self.out / files.FIGURES

    def export(self, form: Literal["parquet", "csv"], folder: Path) -> list[Path]:
        """Write all frames into an empty or new folder: files that `initlab.load` reads alike, or a csv each.

        Returns:
            The files.

        Raises:
            StoreError: the folder holds something, or cannot be written.
        """
        if form == "csv":
            return export_csv(folder, {name: getattr(self, name) for name in FRAMES})
        study = (self.out / files.STUDY).read_bytes()
        return export_parquet(folder, study, self.stored, {name: getattr(self, name) for name in ROWS})

    def __repr__(self) -> str:
        states = pd.Series([t.status["state"] for t in self.stored], dtype=str).value_counts()
        return f"Results({str(self.out)!r}: {', '.join(f'{n} {state}' for state, n in states.items()) or 'no trials'})"


def load(out: str | Path) -> Results:
    """The results in an output folder, finished or not, or in one of `initlab export`.

    See `Results` for the frames and errors.
    """
    return Results(out)
