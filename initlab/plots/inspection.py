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

from initlab.plots.signals import NAMES, ZERO_ROW, frame_layers
from initlab.plots.style import BAND, GREY, Target, add_legend, canvas, finish, styled

# colour and marker of a status; what isn't listed is drawn as ok
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
    ran = table[table.calls > 0]
    ran = ran.astype({f"{direction}_var": float for direction in NAMES})  # an empty table has no types
    with styled():
        drawn = canvas("inspection", ax, list(NAMES), columns=2, height=2.6, sharey=False)
        for direction, axes in zip(NAMES, drawn.axes, strict=True):
            draw_band(axes, ran, direction)
            draw_points(axes, ran, direction)
            finish(axes, direction, "weight layer (1 = next to the input)", NAMES[direction])
            frame(axes, ran, direction)
        # the legend's title: a title of the figure would lie over the legend
        add_legend(drawn, handles(ran), "\n".join(textwrap.wrap(title, 108)) if drawn.owned else "")
    return drawn.figure


def draw_points(ax: Axes, ran: pd.DataFrame, direction: str) -> None:
    """The measured variance of each layer, a marker per status; zeros in the row at the bottom."""
    variance = ran[f"{direction}_var"]
    positive = variance.where((variance > 0) & np.isfinite(variance))
    ax.plot(ran.layer + 1, positive, color=GREY, linewidth=0.7, alpha=0.6, zorder=2, label="_measured")
    for status in ran.status.unique():
        color, marker = STATUS.get(status, STATUS["ok"])
        chosen = ran.status == status
        style: dict[str, Any] = {"color": color, "marker": marker, "linestyle": "none", "markersize": 3.6, "zorder": 3}
        ax.plot(ran.layer[chosen] + 1, positive[chosen], label=status, **style)
        zero = chosen & (variance == 0)
        if zero.any():
            ax.plot(
                ran.layer[zero] + 1,
                [ZERO_ROW] * int(zero.sum()),
                transform=ax.get_xaxis_transform(),
                clip_on=False,
                label=f"_{status} zero",
                **style,
            )


def draw_band(ax: Axes, ran: pd.DataFrame, direction: str) -> None:
    """The predicted median as a line in its band, where the table has them."""
    columns = [f"{direction}_{what}" for what in ("predicted", "low", "high")]
    if not has_theory(ran, direction):
        return
    middle, low, high = (ran[column] for column in columns)
    ax.fill_between(ran.layer + 1, low, high, color=GREY, alpha=BAND, linewidth=0, zorder=1)
    ax.plot(ran.layer + 1, middle, color=GREY, linestyle="--", linewidth=1.0, zorder=1.6, label="_predicted")


def has_theory(ran: pd.DataFrame, direction: str) -> bool:
    """Whether any layer has a predicted variance and its band."""
    columns = [f"{direction}_{what}" for what in ("predicted", "low", "high")]
    return set(columns) <= set(ran.columns) and bool(ran[columns].notna().all(axis=1).any())


def frame(ax: Axes, ran: pd.DataFrame, direction: str) -> None:
    """Axes over everything drawn; where no gradient was measured the panel says why."""
    variance = ran[f"{direction}_var"]
    if variance.isna().all():
        ax.text(
            0.5,
            0.5,
            "no labels: gradients not measured" if direction == "backward" else "nothing measured",
            transform=ax.transAxes,
            ha="center",
            va="center",
            color=GREY,
            fontsize=8,
        )
        ax.set(xticks=[], yticks=[])
        return
    drawn = [variance, *(ran[f"{direction}_{end}"] for end in ("low", "high") if has_theory(ran, direction))]
    shown = pd.concat([values.where((values > 0) & np.isfinite(values)) for values in drawn], axis=1)
    frame_layers(
        ax,
        pd.DataFrame(
            {
                "layer": ran.layer,
                "low": shown.min(axis=1),
                "high": shown.max(axis=1),
                "zeros": (variance == 0).astype(int),
            }
        ),
    )
    low, high = ax.get_ylim()
    if high < 1e3 * low:  # too few decades to read a size from
        ticks = [
            digit * 10.0**e
            for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
            for digit in (1, 2, 5)
        ]
        ax.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def handles(ran: pd.DataFrame) -> list[Line2D]:
    """The legend's entries: each status that occurs, and the theory."""
    found = []
    for status in ran.status.unique():
        color, marker = STATUS.get(status, STATUS["ok"])
        found.append(Line2D([], [], color=color, marker=marker, linestyle="none", label=status))
    if any(has_theory(ran, direction) for direction in NAMES):
        found.append(Line2D([], [], color=GREY, linestyle="--", linewidth=1.0, label="predicted median, 95 % band"))
    return found
