"""Heat map: variance of every layer's signals over layers and epochs, as colours on a log scale, a panel per arm."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from initlab.analysis.panels import SCHEME, NotStudied, Shown, by_panel, rows_of, shown_trials, states
from initlab.errors import UserError
from initlab.plots.layer_axes import NAMES, over_seeds, variances
from initlab.plots.legend import add_legend, scheme_handles
from initlab.plots.phase import edges
from initlab.plots.style import Target, Width, canvas, finish, looks

CELL = ["layer", "name", "op", "step"]
# Arms that a figure still shows readably.
MOST_ARMS = 8
# Lightness goes up steadily, for a grey print; what lies so many decades below the highest has the darkest colour.
COLOURS = colormaps["cividis"]
DECADES = 15
ZERO, NOTHING = "#FFFFFF", "#C8C8C8"


def heatmap_table(results: Shown) -> pd.DataFrame:
    """One row per cell: panel, its fields, init.scheme, direction, layer (0-based) and step, with its epoch.

    `mean` is the geometric mean over the seeds whose variance is above 0, `low` and `high` their range; `zeros` of the
    `seeds` underflowed to 0. A cell without a finite variance in each of the arm's seeds (one diverged, or has not come
    so far) is left out, because a mean over the others would describe the survivors alone.

    Raises:
        UserError: no probes, none but those before training, or too many arms.
    """
    trials, fields = shown_trials(results)
    rows = rows_of(results, trials, "signals")
    if rows.empty or rows.step.max() == 0:
        raise NotStudied(
            f"plot: no signals while training to draw (got {states(trials)}, {len(rows)} rows of signals); "
            "run the study with probe.every above 0"
        )
    points, line = by_panel("heatmap", variances(rows, ["trial", *CELL, "epoch"]), trials, fields)
    arms = points.drop_duplicates(["panel", SCHEME])
    if len(arms) > MOST_ARMS:
        limit = f"at most {MOST_ARMS}: take heatmap_table of a part of them"
        raise UserError(f"heatmap: too many arms to read (got {len(arms)}); {limit}")
    seeds = points.groupby(["panel", SCHEME], sort=False).trial.nunique().rename("of")
    table = over_seeds(points, [*line, "direction", *CELL]).merge(seeds, on=["panel", SCHEME])
    return table[table.seeds == table.of].drop(columns="of").reset_index(drop=True)


def heatmap(results: Shown, ax: Target = None, *, width: Width | None = None) -> Figure:
    """Draw `heatmap_table`: a row per arm, forward left and backward right, layers upwards, each probe a column.

    All arms share the colours of a direction. White is a variance of 0 in every seed, grey a cell without a value in
    each of them. `ax` is two Axes per arm (forward, backward); None makes a figure.

    Raises:
        UserError: nothing to draw, another number of axes, or an unknown width.
    """
    table = heatmap_table(results)
    styles = looks(table[SCHEME])
    names = dict(zip(styles, (str(one.get_label()) for one in scheme_handles(styles, results)), strict=True))
    arms = list(table.groupby(["panel", SCHEME], sort=False))
    titles = [f"{panel}, {names[str(scheme)]}" for (panel, scheme), _ in arms]
    panels = [title for title in titles for _ in NAMES]
    height = 1.2 + 0.15 * max(title.count("\n") + 1 for title in titles)
    with canvas("heatmap", ax, panels, 2, height, width=width, narrow=2) as grid:
        for column, (direction, name) in enumerate(NAMES.items()):
            axes = grid.axes[column::2]
            variance = table["mean"][table.direction == direction]
            colours = colour_range(variance)
            for title, (_, arm), axis in zip(titles, arms, axes, strict=True):
                draw_cells(axis, arm, direction, colours)
                # The bar below the column says the direction.
                xlabel = "epoch" if axis is axes[-1] else ""
                finish(axis, "" if column else title, xlabel, None if column else "weight layer")
                axis.grid(False)
            draw_bar(grid.figure, axes, name, colours, float(variance.min()), width)
        handles = [Patch(facecolor=ZERO, edgecolor="#444444", label="0 in all seeds")] if zero(table).any() else []
        note = "1 seed" if table.seeds.max() == 1 else f"geometric mean over {table.seeds.max()} seeds"
        add_legend(grid, handles, note)
    return grid.figure


def draw_bar(figure: Figure, axes: list[Axes], name: str, colours: LogNorm, least: float, width: Width | None) -> None:
    """The bar of colours below the panels of one direction, pointed where the `least` variance is below them."""
    low, high = colours.vmin or 0.0, colours.vmax or math.inf
    extend = "min" if least < low else "neither"
    place: dict[str, Any] = {"location": "bottom", "aspect": 25, "pad": 0.01, "extend": extend}
    bar = figure.colorbar(ScalarMappable(colours, COLOURS), ax=axes, label=name, **place)
    bar.locator = LogLocator(numticks=3 if width == "column" else 6)
    if high < 1e3 * low:
        # So few powers of ten that there are numbers between them.
        bar.locator, bar.formatter = LogLocator(subs=(1, 3)), FuncFormatter(lambda value, _: f"{value:g}")
    bar.minorticks_off()


def zero(table: pd.DataFrame) -> "pd.Series[bool]":
    """Which cells are 0 in every seed."""
    return table.zeros == table.seeds


def colour_range(variance: "pd.Series[float]") -> LogNorm:
    """The colours' range over all arms: from a decade to `DECADES` below the highest variance."""
    high = float(np.nan_to_num(variance.max(), nan=1.0))
    low = float(np.nan_to_num(variance.min(), nan=1.0))
    return LogNorm(min(max(low, high / 10.0**DECADES), high / 10), high)


def draw_cells(ax: Axes, arm: pd.DataFrame, direction: str, colours: LogNorm) -> None:
    """The cells of one arm and direction; borders lie half way to the next probe and layer."""
    # Every layer and probe of the arm has its place, with a value in this direction or not.
    layers = range(int(arm.layer.max()) + 1)
    epochs = arm.sort_values("step").drop_duplicates("step").set_index("step").epoch
    cells = arm[arm.direction == direction]
    values, zeros = (
        cells.assign(value=value)
        .pivot(index="layer", columns="step", values="value")
        .reindex(layers, columns=epochs.index)
        for value in (cells["mean"], zero(cells).astype(float).replace(0.0, np.nan))
    )
    across = edges(epochs.to_numpy(float))
    if len(epochs) > 1:
        across = across.clip(epochs.min(), epochs.max())
    borders = across, edges(np.arange(1, len(layers) + 1, dtype=float))
    ax.set_facecolor(NOTHING)
    # As paths, thousands of cells make a large file with hairlines between them.
    ax.pcolormesh(*borders, np.ma.masked_invalid(values), norm=colours, cmap=COLOURS, rasterized=True)
    ax.pcolormesh(*borders, np.ma.masked_invalid(zeros), cmap=ListedColormap([ZERO]), rasterized=True)
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
