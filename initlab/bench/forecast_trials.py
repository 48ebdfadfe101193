"""The trials that the forecast is fitted and judged on: a row each, from a study or from the committed table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from initlab.bench.tables import read_table
from initlab.errors import UserError
from initlab.store.results import Results
from initlab.store.studies import load
from initlab.study.paths import getattr_path
from initlab.verdict.features import FEATURES, family_of_net
from initlab.verdict.hopeless import stop_step
from initlab.verdict.odds import VERDICTS

FIELDS = (
    *("data.name", "net.name", "net.norm", "net.skip", "net.activation", "net.depth", "init.scheme", "init.std"),
    *("train.optimizer", "train.lr", "train.momentum", "train.weight_decay"),
)
COLUMNS = ["trial", *FIELDS, "family", "verdict", "steps", "stop_step", *FEATURES]


def trials_of(sources: Sequence[Path]) -> pd.DataFrame:
    """The trials of output folders and of tables that this command wrote, in one frame.

    A folder's go into `figures/forecast.csv` in it first, and are read back, so that the file gives the same figures
    later.

    Raises:
        UserError: no such folder or table, or a study without a finished trial.
    """
    frames = []
    for source in sources:
        path = source
        if source.suffix != ".csv":
            results = load(source)
            path = results.figures / "forecast.csv"
            path.parent.mkdir(exist_ok=True)
            trial_table(results).to_csv(path, index=False, lineterminator="\n", float_format="%.5g")
        frames.append(read_table(path, COLUMNS, "forecast", "forecasts", "forecast.csv"))
    return pd.concat(frames, ignore_index=True)


def trial_table(results: Results) -> pd.DataFrame:
    """One row per finished trial with `COLUMNS`: fields, family, verdict, when it would be given up, features.

    Raises:
        UserError: no finished trial with a probe at step 0.
    """
    facts = results.forecasts.set_index("trial")[list(FEATURES)]
    verdicts = results.verdicts.set_index("trial").verdict.dropna()
    told = set(verdicts.index) & set(facts.index)
    stored = [trial for trial in results.stored if trial.id in told]
    if not stored:
        raise UserError(f"{results.out}: no finished trial with a probe at step 0; run sweeps/forecast-digits-sgd.yaml")
    curves, probes = (dict(iter(frame.groupby("trial"))) for frame in (results.scalars, results.signals))
    rows = []
    for trial in stored:
        spec, status = trial.spec, trial.status
        by_step: Any = {step: layers.to_dict("records") for step, layers in probes[trial.id].groupby("step")}
        curve: Any = curves[trial.id].to_dict("records")
        size = spec.train.batch_size
        stop = stop_step(
            curve,
            by_step,
            batch_size=size,
            steps_per_epoch=status["train_examples"] // size,
            steps=status["steps"],
            chance=status["chance"],
            spread=status.get("chance_spread"),
        )
        row: dict[str, Any] = {"trial": trial.id, **{path: getattr_path(spec, path) for path in FIELDS}}
        row |= {"family": family_of_net(spec.net), "verdict": verdicts[trial.id], "steps": status["steps"]}
        row |= {"stop_step": stop, **dict(zip(FEATURES, facts.loc[trial.id], strict=True))}
        rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def outcomes(table: pd.DataFrame) -> np.ndarray:
    """(N, 4): 1 in the column of the verdict that came true, in the order of `VERDICTS`."""
    return np.array([[verdict == name for name in VERDICTS] for verdict in table.verdict], dtype=float)
