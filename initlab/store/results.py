"""`Results`: an output folder as tidy pandas frames.

Of an attempt that a later one resumed, rows count up to the step resumed from, so none is missing, doubled or half.
A file that cannot be read is named in `problems`, and nothing else is lost with it.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from initlab.engine.lease import is_held
from initlab.plan import plan
from initlab.signal.odds import FEATURES, VERDICTS, features_of, forecast_of
from initlab.signal.verdict import judge
from initlab.spec import TrialSpec, getattr_path
from initlab.store import files
from initlab.store.files import StoreError, attempt_number, attempts, check_schema, read_json, read_lines
from initlab.study import TRIAL_PATHS, Study
from initlab.study_file import StudyError

SCALAR_COLUMNS = [
    "trial", "attempt", "step", "epoch", "train_loss", "train_error", "val_loss", "val_error", "val_error_top5", "lr",
    "images_per_s", "wall_s",
]  # fmt: skip
SIGNAL_COLUMNS = [
    "trial", "attempt", "step", "epoch", "layer", "name", "op", "calls", "forward_mean", "forward_var",
    "backward_mean", "backward_var", "weight_var", "weight_grad_rms", "decay_ratio", "zero_fraction",
]  # fmt: skip
SLOPE_COLUMNS = [
    "trial", "attempt", "step", "epoch", "layer", "name", "channels", "mean", "std", "min", "max",
]  # fmt: skip
RUNNING_COLUMNS = [
    "trial", "attempt", "step", "epoch", "layer", "name", "op", "samples", "forward_mean", "forward_var",
    "backward_mean", "backward_var",
]  # fmt: skip
FORECAST_COLUMNS = ["trial", "forecast", *VERDICTS, "calibrated", *FEATURES]
VERDICT_COLUMNS = ["trial", "verdict", "reason", "epoch_reached", "censored", "threshold"]
ALWAYS_SHOWN = ["seed", "net.name", "net.depth", "init.scheme"]


@dataclass(frozen=True)
class CountedAttempt:
    """An attempt whose rows count up to `last_step`, with the content of its attempt.json."""

    folder: Path
    described: dict[str, Any]
    last_step: float


@dataclass(frozen=True)
class StoredTrial:
    """One trial's folder: its spec, status, result (None while unfinished) and the attempts that count."""

    id: str
    folder: Path
    spec: TrialSpec
    status: dict[str, Any]
    result: dict[str, Any] | None
    chain: list[CountedAttempt]


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
        self.stored = self.read_trials()

    def read_trials(self) -> list[StoredTrial]:
        """Every readable trial, those of the study first and in its order."""
        order = {trial: index for index, trial in enumerate(self.planned)}
        folders = sorted((self.out / files.TRIALS).glob("t*"), key=lambda f: (order.get(f.name, len(order)), f.name))
        found = []
        for folder in folders:
            try:
                found.append(self.read_trial(folder))
            except (StoreError, OSError, KeyError, ValueError) as error:
                reason = " ".join(str(error).split())[:200]
                self.problems.append(reason if isinstance(error, StoreError) else f"{folder}: unreadable ({reason})")
        return found

    def read_trial(self, folder: Path) -> StoredTrial:
        spec = TrialSpec.model_validate(read_json(folder / files.TRIAL)["spec"])
        result = read_json(folder / files.RESULT, figures=True) if (folder / files.RESULT).exists() else None
        status = self.read_status(folder)
        unfinished = result is None and status["state"] in ("done", "diverged")  # only the result means finished
        if unfinished or (status["state"] == "running" and not is_held(self.out)):
            status = {**status, "state": "interrupted"}
        chain = counting(folder)
        for attempt in chain:
            self.problems += attempt.described["notes"]
            if result and not (attempt.folder / files.SCALARS).exists():
                self.problems.append(f"{attempt.folder / files.SCALARS}: absent; its rows are lost")
        return StoredTrial(folder.name, folder, spec, {**status, **(result or {})}, result, chain)

    def read_status(self, folder: Path) -> dict[str, Any]:
        """A trial's status; a damaged one is named, and says nothing of the trial."""
        if not (folder / files.STATUS).exists():
            return {"state": "pending"}
        try:
            return {"state": "interrupted", **read_json(folder / files.STATUS, figures=True)}
        except StoreError as error:
            self.problems.append(str(error))
            return {"state": "interrupted"}

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row per trial: state, its fields that vary, verdict, last and best validation error, where it ran."""
        varying = [
            path for path in TRIAL_PATHS
            if path in ALWAYS_SHOWN or len({repr(getattr_path(t.spec, path)) for t in self.stored}) > 1
        ]  # fmt: skip
        fields = ALWAYS_SHOWN + [path for path in varying if path not in ALWAYS_SHOWN]
        verdicts = self.verdicts.set_index("trial").verdict
        best = self.scalars.groupby("trial").val_error.min()
        rows = []
        for t in self.stored:
            environment = t.chain[-1].described["environment"] if t.chain else {}
            rows.append(
                {
                    "trial": t.id, "state": t.status["state"], "attempts": len(attempts(t.folder)),
                    **{path: getattr_path(t.spec, path) for path in fields},
                    "verdict": verdicts.get(t.id), "val_error": t.status.get("val_error", math.nan),
                    "best_val_error": best.get(t.id, math.nan), "epochs_done": t.status.get("epoch", 0.0),
                    "wall_s": t.status.get("wall_s", math.nan),
                    **{key: environment.get(key) for key in ("device", "precision", "torch_version", "git_commit")},
                    "in_study": t.id in self.planned,
                }
            )  # fmt: skip
        ends = ["verdict", "val_error", "best_val_error", "epochs_done", "wall_s", "device", "precision",
                "torch_version", "git_commit", "in_study"]  # fmt: skip
        return pd.DataFrame(rows, columns=["trial", "state", "attempts", *fields, *ends])

    @cached_property
    def scalars(self) -> pd.DataFrame:
        """Loss and error curves, one row per (trial, step)."""
        return pd.DataFrame(self.line_rows(files.SCALARS), columns=SCALAR_COLUMNS)

    @cached_property
    def slopes(self) -> pd.DataFrame:
        """Slopes that PReLU learned, one row per (trial, validated step, PReLU layer); no rows for other nets.

        `layer` is 0-based; mean, std, min and max go over the layer's `channels` slopes (1 where it shares one).
        """
        return pd.DataFrame(self.line_rows(files.SLOPES), columns=SLOPE_COLUMNS)

    @cached_property
    def running(self) -> pd.DataFrame:
        """Moments of the training steps' own tensors, one row per (trial, row of scalars, layer).

        They are pooled over the `samples` steps sampled since the row before; no rows where `probe.running_every` is 0.
        """
        return pd.DataFrame(self.line_rows(files.RUNNING), columns=RUNNING_COLUMNS)

    def line_rows(self, name: str) -> list[dict[str, Any]]:
        """The rows that count of a JSON-lines file of the attempts, with trial and attempt."""
        rows = []
        for trial in self.stored:
            for counted in trial.chain:
                path = counted.folder / name
                try:
                    lines = read_lines(path) if path.exists() else []
                except StoreError as error:
                    self.problems.append(str(error))
                    continue
                number = attempt_number(counted.folder)
                rows += [
                    {"trial": trial.id, "attempt": number, **row} for row in lines if row["step"] <= counted.last_step
                ]
        return rows

    @cached_property
    def signals(self) -> pd.DataFrame:
        """Probe measurements, one row per (trial, step, layer); columns are defined in the README."""
        parts = []
        for trial in self.stored:
            for counted in trial.chain:
                attempt, last_step = counted.folder, counted.last_step
                try:
                    table = read_signals(attempt)
                except StoreError as error:
                    self.problems.append(str(error))
                    continue
                if table is not None:
                    frame = table.to_pandas()
                    frame.insert(0, "trial", trial.id)
                    frame.insert(1, "attempt", attempt_number(attempt))
                    parts.append(frame[frame.step <= last_step])
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
                curves[trial.id], steps_per_epoch=trial.status["train_examples"] // size, batch_size=size,
                num_classes=trial.status["num_classes"], chance=chance, threshold=threshold,
            )  # fmt: skip
            reason = found.reason
            if stopped:
                reason += f"; stopped as hopeless at epoch {trial.status['epoch']:.3g} of {trial.status['epochs']:.3g}"
            rows.append([trial.id, found.verdict, reason, found.epoch_reached, found.censored, threshold])
        return pd.DataFrame(rows, columns=VERDICT_COLUMNS)

    @cached_property
    def forecasts(self) -> pd.DataFrame:
        """One row per trial with a probe at step 0: what it foretells, before any training.

        `forecast` is the most probable verdict, the next four columns are the probabilities; then whether the features
        lie in the range of the calibration, and the features themselves (`initlab.signal.odds`).
        """
        probes = dict(iter(self.signals[self.signals.step == 0].groupby("trial")))
        start = self.scalars[self.scalars.step == 0].set_index("trial").val_loss
        rows = []
        for trial in self.stored:
            if trial.id in probes and trial.id in start.index and "num_classes" in trial.status:
                features = features_of(
                    probes[trial.id], loss=start[trial.id], num_classes=trial.status["num_classes"],
                    lr=trial.spec.train.lr, weight_decay=trial.spec.train.weight_decay,
                )  # fmt: skip
                found = forecast_of(features)
                rows.append([trial.id, found.verdict, *found.probabilities.values(), found.calibrated, *features])
        return pd.DataFrame(rows, columns=FORECAST_COLUMNS)

    @property
    def figures(self) -> Path:
        """Where figures of this study go."""
        return self.out / files.FIGURES

    def __repr__(self) -> str:
        states = pd.Series([t.status["state"] for t in self.stored], dtype=str).value_counts()
        return f"Results({str(self.out)!r}: {', '.join(f'{n} {state}' for state, n in states.items()) or 'no trials'})"


def load(out: str | Path) -> Results:
    """The results in an output folder, finished or not; see `Results` for the frames and errors."""
    return Results(out)


def counting(trial: Path) -> list[CountedAttempt]:
    """The attempts whose rows count, oldest first: the chain of resumptions that ends in the latest."""
    chain: list[CountedAttempt] = []
    newest, last_step = math.inf, math.inf
    for folder in reversed(attempts(trial)):
        # without its description it was killed right after claiming, and wrote nothing
        if attempt_number(folder) > newest or not (folder / files.ATTEMPT).exists():
            continue
        described = read_json(folder / files.ATTEMPT)
        chain.append(CountedAttempt(folder, described, last_step))
        if not described["resumed_from"]:
            break
        newest = attempt_number(trial / described["resumed_from"])
        last_step = min(last_step, described["resumed_step"] or 0)
    return chain[::-1]


def read_signals(attempt: Path) -> pa.Table | None:
    """The signals of an attempt: its Parquet file, or what the live stream holds so far.

    Raises:
        StoreError: a Parquet file that is truncated or of a newer initlab.
    """
    if (attempt / files.SIGNALS).exists():
        try:
            table = pq.read_table(attempt / files.SIGNALS)
        except (pa.ArrowException, OSError) as error:
            raise StoreError(
                f"{attempt / files.SIGNALS}: damaged Parquet ({error}); its signals are left out"
            ) from None
        written = (table.schema.metadata or {}).get(b"initlab.schema")
        check_schema(attempt / files.SIGNALS, int(written) if written else None)
        return table
    if not (attempt / files.STREAM).exists():
        return None
    batches = []
    try:
        with pa.ipc.open_stream(attempt / files.STREAM) as stream:
            schema = stream.schema
            while True:
                batches.append(stream.read_next_batch())
    except StopIteration:
        pass
    except (pa.ArrowException, OSError):  # the torn tail of a live or killed writer
        if not batches:
            return None
    return pa.Table.from_batches(batches, schema=schema)
