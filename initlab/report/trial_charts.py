"""What the page shows of a chosen trial: its curves, and its signals by layer beside theory, drawn by Vega-Lite.

Numbers are rounded and thinned, so that 300 trials of 30 layers fit into a file that is sent by mail; the output folder
has all of them.
"""

import json
import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from initlab.analysis.panels import Shown, as_list
from initlab.errors import UserError
from initlab.plots.convergence import training_means
from initlab.plots.layer_axes import NAMES, variances
from initlab.plots.theory import BAND, band_beside, predicted
from initlab.store.rows import Choice
from initlab.study.paths import naming
from initlab.study.spec import TrialSpec
from initlab.verdict.odds import VERDICTS

# Numbers of signals on a page, moments of one trial, points of one curve, settings that theory is worked out for.
NUMBERS, MOMENTS, POINTS, SETTINGS = 200_000, 24, 60, 100
# Behind the point: of a variance's decimal logarithm, where 0.01 is 2 %, and of an error or an epoch.
LOG_DIGITS, DIGITS = 2, 3


def trial_charts(results: Shown) -> str:
    """JSON: of each trial its name, what its verdict rests on, notes, curves, levels and signals (null without)."""
    several = as_list(results)
    specs = [trial.spec for one in several for trial in one.stored]
    moments = int(np.clip(NUMBERS // max(1, 2 * sum(spec.net.depth for spec in specs)), 2, MOMENTS))
    name, trials = naming(specs), {}
    theories: dict[TrialSpec, pd.DataFrame | str] = {}
    for one in several:
        scalars = dict(iter(one.scalars.groupby("trial")))
        signals = dict(iter(one.rows("signals", spread(moments)).groupby("trial")))
        odds = one.forecasts.set_index("trial").to_dict("index")
        for trial, judged in zip(one.stored, one.verdicts.to_dict("records"), strict=True):
            rests_on = f"{judged['verdict'] or trial.status['state']}: {judged['reason']}."
            facts, levels = [rests_on], {"threshold": judged["threshold"], "chance": trial.status.get("chance")}
            if trial.id in odds:
                facts.append(forecast_text(odds[trial.id]))
            content: dict[str, Any] = {"name": name(trial.spec), "facts": facts, "signals": None}
            if trial.id in signals:
                content["signals"] = by_moment(signals[trial.id])
                content["theory"], inside = theory_beside(theory_of(trial.spec, theories), signals[trial.id])
                facts.append(inside)
            trials[trial.id] = content | curves(scalars.get(trial.id, one.scalars.head(0)), levels)
    return json.dumps(trials, allow_nan=False, separators=(",", ":"))


def spread(most: int) -> Choice:
    """The choice of the rows of at most so many probes of a trial, evenly, the first and the last among them."""

    def choice(step: NDArray[np.int64], epoch: NDArray[np.float64]) -> NDArray[np.bool_]:
        """The rows of these probes."""
        return np.isin(step, thinned(np.unique(step), most))

    return choice


def thinned(values: Any, most: int) -> Any:
    """At most so many of the values, evenly, the first and the last among them."""
    return values[np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int)]


def forecast_text(odds: dict[Any, Any]) -> str:
    """What the signals of step 0 foretold."""
    chances = ", ".join(f"{verdict} {odds[verdict]:.0%}" for verdict in VERDICTS if odds[verdict] >= 0.005)
    return f"Forecast before training: {chances}" + ("." if odds["calibrated"] else " (outside of its calibration).")


def curves(scalars: pd.DataFrame, levels: dict[str, float | None]) -> dict[str, Any]:
    """Points of validation and training error over the epochs, and the levels they are judged by."""
    columns = {"validation": (scalars, "val_error"), "training": (training_means(scalars), "train_error")}
    points = []
    for curve, (rows, column) in columns.items():
        pairs = rows[["epoch", column]].to_numpy(float)
        pairs = thinned(pairs[np.isfinite(pairs).all(1)], POINTS)
        points += [{"curve": curve, "epoch": rounded(epoch), "error": rounded(error)} for epoch, error in pairs]
    known = {level: rounded(error) for level, error in levels.items() if error is not None}
    return {"curves": points, "levels": [{"level": level, "error": error} for level, error in known.items() if error]}


def by_moment(signals: pd.DataFrame) -> dict[str, Any]:
    """The names of the layers, and per probe step, epoch and the decimal logarithms of both variances by layer."""
    layers = signals.drop_duplicates("layer").sort_values("layer")
    moments = []
    for _, rows in signals.groupby("step"):
        by_layer = rows.set_index("layer").reindex(layers.layer)
        logs = {direction: list(map(log10, by_layer[f"{direction}_var"])) for direction in NAMES}
        moments.append({"step": int(rows.step.iloc[0]), "epoch": rounded(rows.epoch.iloc[0]), **logs})
    return {"layers": layers.name.tolist(), "moments": moments}


def theory_of(spec: TrialSpec, known: dict[TrialSpec, pd.DataFrame | str]) -> pd.DataFrame | str:
    """What theory says of a trial, which goes for all its seeds; or why it says nothing."""
    spec = spec.model_copy(update={"seed": 0})
    if spec not in known:
        if len(known) >= SETTINGS:
            return f"Theory is beside the first {SETTINGS} settings alone."
        try:
            known[spec] = predicted(spec)
        except UserError as error:
            known[spec] = f"No theory beside it: {error}."
    return known[spec]


def theory_beside(theory: pd.DataFrame | str, signals: pd.DataFrame) -> tuple[dict[str, Any], str]:
    """Theory's median and 95 % band by layer, in logarithms, and how many measured layers lie inside it."""
    points = variances(signals[signals.step == 0], ["layer"])
    if isinstance(theory, str) or points.empty:
        return {}, theory if isinstance(theory, str) else "No probe before training that theory could be laid beside."
    bands, inside = {}, []
    for direction, measured in points.groupby("direction", sort=False):
        band = band_beside(theory, measured, str(direction))
        rows = [
            {"layer": row["layer"] + 1, **{name: log10(row[name]) for name in BAND}} for row in band.to_dict("records")
        ]
        bands[str(direction)] = rows
        inside.append(f"{direction} {band.inside.iloc[0]} of {band.points.iloc[0]}")
    return bands, f"Layers inside theory's 95 % band before training: {', '.join(inside)}."


def log10(value: float) -> float | None:
    """A variance's decimal logarithm; None of one that is 0, negative or not finite."""
    return round(math.log10(value), LOG_DIGITS) if value > 0 and math.isfinite(value) else None


def rounded(value: float) -> float | None:
    """A number in few digits, None of one that is not finite."""
    return round(float(value), DIGITS) if math.isfinite(value) else None


def library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, which vl-convert carries with it."""
    import vl_convert

    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed"))
