"""One inspected net: variance of every layer's pre-activation and of its gradient, with the theory's band."""

import math
import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter

from initlab.plots.layer_axes import NAMES, draw_zeros, frame_layers
from initlab.plots.legend import add_legend
from initlab.plots.style import GREY, Target, canvas, draw_band, finish

# Colour and marker of a status; one that isn't listed is drawn as ok.
STATUS = {
    "ok": ("#3A6EA5", "o"),
    "vanishing": ("#D99A00", "v"),
    "exploding": ("#B5122B", "^"),
    "uneven": ("#C45BAA", "D"),
    "nonfinite": ("#B5122B", "X"),
    "dead": ("#333333", "X"),
    "saturated": ("#B5122B", "P"),
    "closed": (GREY, "s"),
    "waiting": (GREY, "o"),
}
THEORY = ("predicted", "low", "high")


def inspection(table: pd.DataFrame, title: str, ax: Target = None) -> Figure:
    """Draw the table of an `Inspection`: forward left, backward right, a point per layer, coloured by its status.

    Line and band are the table's predicted median and 95 % band, where it has them. A variance of 0 is a marker in the
    row named 0 at the bottom; layers that never ran are left out.

    Args:
        table: `Inspection.table`.
        title: above both panels, wrapped; not drawn into axes of yours.
        ax: two Axes (forward, backward); None makes a figure.

    Raises:
        UserError: another number of axes.
    """
    # An empty table has no types.
    ran = table[table.calls > 0].astype({f"{direction}_var": float for direction in NAMES})
    with canvas("inspection", ax, list(NAMES), columns=2, height=2.6) as grid:
        for direction, axes in zip(NAMES, grid.axes, strict=True):
            if has_theory(ran, direction):
                median, low, high = (ran[f"{direction}_{name}"] for name in THEORY)
                draw_band(axes, ran.layer + 1, low, high, GREY)
                theory: dict[str, Any] = {"color": GREY, "linestyle": "--", "linewidth": 1.0, "zorder": 1.6}
                axes.plot(ran.layer + 1, median, **theory, label="_predicted")
            draw_points(axes, ran, direction)
            finish(axes, direction, "weight layer (1 = next to the input)", NAMES[direction])
            frame(axes, ran, direction)
        handles = []
        for status in ran.status.unique():
            color, marker = STATUS.get(status, STATUS["ok"])
            handles.append(Line2D([], [], color=color, marker=marker, linestyle="none", label=status))
        if any(has_theory(ran, direction) for direction in NAMES):
            band = Line2D([], [], color=GREY, linestyle="--", linewidth=1.0, label="predicted median, 95 % band")
            handles.append(band)
        # The title is the legend's, because a title of the figure would lie over the legend.
        add_legend(grid, handles, "\n".join(textwrap.wrap(title, 108)) if grid.owned else "")
    return grid.figure


def draw_points(ax: Axes, ran: pd.DataFrame, direction: str) -> None:
    """The measured variance of each layer, a marker per status; zeros in the row at the bottom."""
    variance = ran[f"{direction}_var"]
    positive = variance.where((variance > 0) & np.isfinite(variance))
    ax.plot(ran.layer + 1, positive, color=GREY, linewidth=0.7, alpha=0.6, zorder=2, label="_measured")
    for status in ran.status.unique():
        color, marker = STATUS.get(status, STATUS["ok"])
        has_status = ran.status == status
        style: dict[str, Any] = {"color": color, "marker": marker, "linestyle": "none", "markersize": 3.6, "zorder": 3}
        ax.plot(ran.layer[has_status] + 1, positive[has_status], label=status, **style)
        draw_zeros(ax, ran.layer[has_status & (variance == 0)], label=f"_{status} zero", **style)


def has_theory(ran: pd.DataFrame, direction: str) -> bool:
    """Whether any layer has a predicted variance and its band."""
    columns = [f"{direction}_{name}" for name in THEORY]
    return set(columns) <= set(ran.columns) and bool(ran[columns].notna().all(axis=1).any())


def frame(ax: Axes, ran: pd.DataFrame, direction: str) -> None:
    """Axes over everything drawn; where nothing was measured the panel gives the reason."""
    variance = ran[f"{direction}_var"]
    if variance.isna().all():
        reason = "no labels: gradients not measured" if direction == "backward" else "nothing measured"
        ax.text(0.5, 0.5, reason, transform=ax.transAxes, ha="center", va="center", color=GREY, fontsize=8)
        ax.set(xticks=[], yticks=[])
        return
    columns = [variance, *(ran[f"{direction}_{end}"] for end in ("low", "high") if has_theory(ran, direction))]
    values = pd.concat([column.where((column > 0) & np.isfinite(column)) for column in columns], axis=1)
    zeros = (variance == 0).astype(int)
    ranges = {"layer": ran.layer, "low": values.min(axis=1), "high": values.max(axis=1), "zeros": zeros}
    frame_layers(ax, pd.DataFrame(ranges))
    low, high = ax.get_ylim()
    # With few decades there are too few powers of ten to read a size from.
    if high < 1e3 * low:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
        ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        ax.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
