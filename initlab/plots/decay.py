"""Decay: weight decay beside the loss gradient while the net trains; above 1 decay moves a layer more than the loss."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from initlab.analysis.panels import SCHEME, NotStudied, Shown, by_panel, rows_of, shown_trials, states
from initlab.plots.legend import add_legend, scheme_handles
from initlab.plots.style import GREY, Look, Target, Width, canvas, draw_band, finish, level_lines, looks

# Height of the markers of median layers whose gradient is 0, a fraction of the panel, and how much lower for the next.
TOP, LOWER = 0.97, 0.035


def decay_table(results: Shown) -> pd.DataFrame:
    """One row per drawn point: panel, its fields, init.scheme and step, with its epoch and the line's `seeds` there.

    `median` is that of `decay_ratio` over the layers (the geometric mean over seeds), `low` and `high` the range over
    layers and seeds; infinite where the gradient underflowed to 0.

    Raises:
        UserError: no probe has the ratio, as without weight decay; or too many panels.
    """
    trials, fields = shown_trials(results)
    rows = rows_of(results, trials, "signals")
    # A gradient and a decay of 0 have no ratio, and without decay there is nothing to compare.
    rows = rows[rows.decay_ratio.astype(float) > 0]
    if rows.empty:
        raise NotStudied(
            f"plot: no decay_ratio to draw (got {states(trials)}, no probe with weight decay); "
            "run the study with train.weight_decay and probe.every above 0"
        )
    ratios = rows.groupby(["trial", "step", "epoch"], sort=False).decay_ratio
    per_trial: pd.DataFrame = ratios.agg(median="median", low="min", high="max").reset_index()
    points, line = by_panel("decay", per_trial, trials, fields)
    with np.errstate(divide="ignore"):
        points["log"] = np.log(points["median"])
    summary: dict[str, Any] = {"epoch": ("epoch", "mean"), "median": ("log", "mean")}
    summary |= {"low": ("low", "min"), "high": ("high", "max"), "seeds": ("trial", "nunique")}
    table: pd.DataFrame = points.groupby([*line, "step"], sort=False, dropna=False).agg(**summary).reset_index()
    table["median"] = np.exp(table["median"]).clip(table.low, table.high)
    return table


def decay(results: Shown, ax: Target = None, *, width: Width | None = None) -> Figure:
    """Draw `decay_table`: the median layer's ratio over the epochs, the range over layers as a band, a line at 1.

    A marker at the top is where the median layer's gradient is 0. `ax` is one Axes per panel; None makes a figure.

    Raises:
        UserError: nothing to draw, another number of axes, or an unknown width.
    """
    table = decay_table(results)
    panels = list(dict.fromkeys(table.panel))
    styles = looks(table[SCHEME])
    bottom, top = limits(table)
    with canvas("decay", ax, panels, 2 if len(panels) in (2, 4) else 3, 2.3, sharey=True, width=width) as grid:
        for panel, axes in zip(panels, grid.axes, strict=True):
            part = table[table.panel == panel]
            for order, (scheme, look) in enumerate(styles.items()):
                points = part[part[SCHEME] == scheme].sort_values("step")
                if len(points):
                    draw_line(axes, points, look, top, TOP - order * LOWER)
            finish(axes, panel, "epoch", "weight decay / gradient,\ndecay_ratio" if axes in grid.row_starts else None)
            axes.set(yscale="log", ylim=(bottom, top))
            axes.yaxis.set_major_locator(LogLocator(numticks=7))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.set_xlim(0, max(part.epoch.max(), 1e-9))
            axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            level_lines(axes, [1.0], "equal", labelled=axes in grid.row_ends)
        seeds = int(table.seeds.max())
        note = f"median layer{f', geometric mean over {seeds} seeds' if seeds > 1 else ''}; band: range over layers"
        handles = scheme_handles(styles, results)
        if np.isinf(table["median"]).any():
            handles.append(
                Line2D([], [], color=GREY, linestyle="none", marker="o", label="at the top: the gradient is 0")
            )
        add_legend(grid, handles, note + (" and seeds" if seeds > 1 else ""))
    return grid.figure


def limits(table: pd.DataFrame) -> tuple[float, float]:
    """The range of all finite numbers and 1, with room for the top row."""
    values = np.concatenate([[1.0], *(table[name] for name in ("low", "median", "high"))])
    low, high = values[np.isfinite(values)].min() / 3, values[np.isfinite(values)].max() * 3
    return low, high * (high / low) ** (0.08 if np.isinf(table["median"]).any() else 0.0)


def draw_line(ax: Axes, points: pd.DataFrame, look: Look, top: float, row: float) -> None:
    """One scheme; where a layer is infinite the band goes on to the top, the line where the median layer is finite.

    `row` is the height of the markers of a median layer that is not.
    """
    scheme = points[SCHEME].iloc[0]
    draw_band(ax, points.epoch, points.low.clip(upper=top), points.high.clip(upper=top), look.color)
    ax.plot(points.epoch, points["median"].replace(np.inf, np.nan), **look.style, label=scheme)
    beyond = points.epoch[np.isinf(points["median"])]
    if len(beyond):
        style: dict[str, Any] = {**look.style, "linestyle": "none", "transform": ax.get_xaxis_transform()}
        ax.plot(beyond, [row] * len(beyond), **style, label=f"_{scheme} infinite", clip_on=False)
