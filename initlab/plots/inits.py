"""Several initialisations of one model: variance of every layer's pre-activation and of its gradient, with theory."""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from initlab.analysis.panels import SCHEME
from initlab.errors import UserError
from initlab.plots.layer_axes import NAMES, draw_bands, draw_line, frame_layers, over_seeds, variances
from initlab.plots.legend import add_legend, scheme_handles
from initlab.plots.style import GREY, Target, canvas, finish, looks

# Places for markers in the row of zeros.
SLOTS = 60
# Factor by which theory's bands may widen a panel.
MARGIN = 10.0
LINE = [SCHEME, "moment", "direction", "layer", "name"]


def inits_table(signals: pd.DataFrame) -> pd.DataFrame:
    """One row per drawn point: init.scheme, moment (`0`), direction, layer, name, and over the seeds of a scheme
    the geometric mean of the variance, its range (low, high), seeds and how many are 0; theory's median and band.

    Args:
        signals: `Comparison.signals`.
    """
    rows = signals[signals.calls > 0].rename(columns={"scheme": SCHEME, "seed": "trial"}).assign(moment="0", epoch=0.0)
    points = variances(rows, [SCHEME, "trial", "moment", "epoch", "layer", "name"])
    bands = []
    for direction in NAMES:
        band = rows.drop_duplicates([SCHEME, "layer"]).assign(direction=direction)
        for bound, column in (("median", "predicted"), ("low", "low"), ("high", "high")):
            band[f"theory_{bound}"] = band[f"{direction}_{column}"].astype(float)
        bands.append(band[[SCHEME, "layer", "direction", "theory_median", "theory_low", "theory_high"]])
    return over_seeds(points, LINE).merge(pd.concat(bands), on=[SCHEME, "layer", "direction"], how="left")


def inits(signals: pd.DataFrame, ax: Target = None) -> Figure:
    """Draw `inits_table`: forward left, backward right, a line per scheme over theory's median and 95 % band.

    Args:
        signals: `Comparison.signals`.
        ax: two Axes (forward, backward); None makes a figure.

    Raises:
        UserError: another number of axes, or nothing measured.
    """
    table = inits_table(signals)
    if table.empty:
        raise UserError("plot: nothing measured to draw (got no layer with a finite variance)")
    styles, most = looks(table[SCHEME]), table.seeds.max()
    with canvas("comparison", ax, list(NAMES), columns=2, height=2.6) as grid:
        for direction, axes in zip(NAMES, grid.axes, strict=True):
            part = table[table.direction == direction]
            names = {f"theory_{bound}": bound for bound in ("median", "low", "high")}
            draw_bands(axes, part.drop(columns=["low", "high"]).rename(columns=names), styles)
            for place, (scheme, points) in enumerate(part.groupby(SCHEME, sort=False)):
                points = points.assign(zeros=spread_zeros(points, place, len(styles)))
                draw_line(axes, points, styles[str(scheme)], 0, 1, seeds=False)
            finish(axes, direction, "weight layer (1 = next to the input)", NAMES[direction])
            frame_layers(axes, with_bands(part))
        handles = scheme_handles(styles)
        handles.append(Line2D([], [], color=GREY, linestyle="--", linewidth=1.0, label="theory: median, 95 % band"))
        add_legend(grid, handles, f"geometric mean over {most} seeds" if most > 1 else "1 seed")
    return grid.figure


def spread_zeros(points: pd.DataFrame, place: int, schemes: int) -> "pd.Series[int]":
    """How many seeds are 0 at the layers that show it, of several schemes in turn, since all share one row."""
    slots = points.layer // math.ceil(len(points) / SLOTS)
    zeros = points.zeros > 0
    shown = (slots % schemes == place) & ~slots.duplicated() | (points.index == zeros.idxmax())
    return points.zeros.where(shown, 0)


def with_bands(part: pd.DataFrame) -> pd.DataFrame:
    """The points of a panel with ranges that take in theory's bands, as far as these go little beyond what is drawn."""
    low, high = part.theory_low.clip(part.low.min() / MARGIN), part.theory_high.clip(upper=part.high.max() * MARGIN)
    return part.assign(low=np.fmin(part.low, low), high=np.fmax(part.high, high))
