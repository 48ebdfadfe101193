"""Propagation: what a layer does to the variance, forward against backward, a point per trial before training.

The map on which healthy, vanishing and exploding starts lie apart: 1 on an axis keeps the signal, and the box holds
what the study's deepest nets bring from their first to their last layer within a factor of 10 either way.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from initlab.analysis.panels import DEPTH, SCHEME, SEED, NotStudied, Shown, rows_of, shown_trials, states
from initlab.plots.legend import add_legend, scheme_handles
from initlab.plots.style import GREY, Target, Width, canvas, finish, looks
from initlab.signal.drift import slope

# Change of the variance that the box allows over all layers, either way.
KEPT = 10.0
MARKERS = {"converged": "o", "slow": "^", "stalled": "s", "diverged": "X", "unfinished": "d"}
AXES = {
    "forward_factor": "forward variance,\nfactor per layer",
    "backward_factor": "backward variance,\nfactor per layer towards the input",
}


def propagation_table(results: Shown) -> pd.DataFrame:
    """One row per trial: net.depth, init.scheme and what else varies, seed, trial, verdict, its two factors, and
    how many `layers` were probed.

    `forward_factor` is the factor of the pre-activation's variance from a layer to the next before training, by the
    median slope of its logarithm over all pairs of layers; `backward_factor` that of the gradient's variance from a
    layer to the one before it. Layers of which a variance is 0 or not finite are left out, as if they were not
    there, and a trial of fewer than two others has no row.

    Raises:
        UserError: no probe before training of two layers.
    """
    trials, fields = shown_trials(results)
    signals = rows_of(results, trials, "signals")
    start = signals[signals.step == 0]
    factors = pd.DataFrame(
        [
            {"trial": trial, **factors_of(layers), "layers": len(layers)}
            for trial, layers in start.groupby("trial", sort=False)
        ],
        columns=["trial", *AXES, "layers"],
    ).dropna()
    if factors.empty:
        raise NotStudied(
            f"plot: no signals before training to draw (got {states(trials)}, {len(start)} rows of them); "
            "run the study with probe.every above 0"
        )
    others = [path for path in fields if path not in (DEPTH, SCHEME)]
    table = trials[[DEPTH, SCHEME, *others, SEED, "trial", "verdict"]].merge(factors, on="trial")
    return table.assign(verdict=table.verdict.fillna("unfinished"))


def factors_of(layers: pd.DataFrame) -> dict[str, float]:
    """Both factors of one trial's layers."""
    layers = layers.sort_values("layer")
    factors = {}
    for name, sign in (("forward", 1), ("backward", -1)):
        variance = layers[f"{name}_var"].to_numpy(dtype=float)
        seen = np.log(variance[np.isfinite(variance) & (variance > 0)])
        factors[f"{name}_factor"] = float(np.exp(sign * slope(seen))) if len(seen) > 1 else np.nan
    return factors


def propagation(results: Shown, ax: Target = None, *, width: Width | None = None) -> Figure:
    """Draw `propagation_table`: forward factor to the right, backward up; colour is the scheme, shape the verdict.

    `ax` is one Axes; None makes a figure.

    Raises:
        UserError: nothing to draw, several axes, or an unknown width.
    """
    table = propagation_table(results)
    styles = looks(table[SCHEME])
    with canvas("propagation", ax, ["all"], 1, height=3.4, width=width) as grid:
        (axes,) = grid.axes
        deepest = int(table.layers.max())
        edge = KEPT ** (1 / max(deepest - 1, 1))
        corner, side = (1 / edge, 1 / edge), edge - 1 / edge
        axes.add_patch(Rectangle(corner, side, side, facecolor="#E4E4E4", edgecolor=GREY, linewidth=0.6, zorder=0.5))
        for value in (axes.axhline, axes.axvline):
            value(1.0, color=GREY, linestyle=":", linewidth=1.0, zorder=1.5)
        for (scheme, verdict), points in table.groupby([SCHEME, "verdict"], sort=False):
            draw_points(axes, points, styles[str(scheme)].color, str(verdict))
        finish(axes, "", AXES["forward_factor"], AXES["backward_factor"])
        frame(axes, table)
        handles: list[Line2D | Patch] = [
            Line2D([], [], color=styles[scheme].color, linestyle="none", marker="o", label=handle.get_label())
            for scheme, handle in zip(styles, scheme_handles(styles, results), strict=True)
        ]
        shown = [verdict for verdict in MARKERS if (table.verdict == verdict).any()]
        empty: dict[str, Any] = {"linestyle": "none", "color": "#222222", "markerfacecolor": "white"}
        handles += [Line2D([], [], **empty, marker=MARKERS[verdict], label=verdict) for verdict in shown]
        handles.append(Patch(facecolor="#E4E4E4", edgecolor=GREY, label=f"{deepest} layers keep it within ×{KEPT:g}"))
        add_legend(grid, handles, "a point per trial, before training; shape: what became of it")
    return grid.figure


def draw_points(ax: Axes, points: pd.DataFrame, color: str, verdict: str) -> None:
    """The trials of one scheme and verdict."""
    x, y = (points[name] for name in AXES)
    style: dict[str, Any] = {"linestyle": "none", "marker": MARKERS[verdict], "markersize": 5.5, "alpha": 0.8}
    label = f"{points[SCHEME].iloc[0]} {verdict}"
    ax.plot(x, y, color=color, markeredgecolor="white", markeredgewidth=0.5, **style, label=label, zorder=3)


def frame(ax: Axes, table: pd.DataFrame) -> None:
    """Log axes that hold 1 and all points, with plain numbers, and a word in the corners where both go wrong."""
    for axis, name in zip((ax.xaxis, ax.yaxis), AXES, strict=True):
        down, up = -np.log(min(0.8, table[name].min())), np.log(max(1.25, table[name].max()))
        # Each side of 1 has a third of the axis at least, where its word finds room.
        low, high = np.exp(-1.1 * max(down, up / 2)), np.exp(1.1 * max(up, down / 2))
        (ax.set_xscale if axis is ax.xaxis else ax.set_yscale)("log")
        (ax.set_xlim if axis is ax.xaxis else ax.set_ylim)(low, high)
        ticks = (
            [1.0]
            if high / low > 100
            else [1.0, 2.0, 5.0]
            if high / low > 5
            else [1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0]
        )
        axis.set_major_locator(LogLocator(subs=ticks, numticks=9))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    corner: dict[str, Any] = {"transform": ax.transAxes, "color": GREY, "fontsize": 7}
    ax.text(0.02, 0.02, "both vanish", **corner)
    ax.text(0.98, 0.98, "both explode", **corner, ha="right", va="top")
