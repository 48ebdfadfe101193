"""Effects: a forest plot of how many times as soon one arm reaches the threshold as another, with 95 % intervals."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from initlab.analysis.arm_comparison import compare_arms
from initlab.analysis.intervals import LEVEL
from initlab.analysis.panels import SCHEME, NotStudied, Shown, shown_trials, title
from initlab.errors import UserError
from initlab.plots.legend import add_legend
from initlab.plots.style import GREY, LOOKS, Target, Width, canvas, finish, margin_text

# Pairs that a figure still shows readably.
MOST_PAIRS = 40
COLOR = LOOKS["xavier"].color


def effects_table(results: Shown, by: str = SCHEME) -> pd.DataFrame:
    """`compare_arms(results, by).pairs`, a row per setting and two arms, the quicker first, with its `label`.

    `ratio` is how many times as many epochs the other arm takes, between `ratio_low` and `ratio_high`; the upper end is
    infinite where a run of the other never gets there. `shown` is whether the seeds show that the arm is sooner: the
    interval lies above 1, and Holm's p is at most 0.05 (of fewer than 5 seeds there is none).

    Raises:
        UserError: as `compare_arms`; no pair of which an arm gets there; too many pairs.
    """
    trials, _ = shown_trials(results)
    if by == SCHEME and trials[SCHEME].nunique() == 1:
        raise NotStudied(
            f"plot: no effects of one scheme (got {trials[SCHEME].iloc[0]}); in Python, give by= another field"
        )
    pairs = compare_arms(results, by).pairs
    if len(pairs):
        # Of two arms that never get there nothing is known.
        pairs = pairs[(pairs.ratio_low > 0) | (pairs.ratio_high < math.inf) | (pairs.saved != 0)]
    if pairs.empty:
        raise NotStudied(f"plot: no effects by {by} to draw (got no arm that reaches the threshold); train for longer")
    if len(pairs) > MOST_PAIRS:
        raise UserError(f"effects: too many pairs to read (got {len(pairs)}); at most {MOST_PAIRS}: give fewer results")
    settings = list(pairs.columns[: pairs.columns.get_loc("arm")])
    net = trials["net.name"].iloc[0]
    labels = [row_label(row, {path: row[path] for path in settings}, net) for row in pairs.to_dict("records")]
    shown = (pairs.ratio_low > 1) & (pairs.p_adjusted <= LEVEL)
    return pairs.assign(label=labels, shown=shown).reset_index(drop=True)


def row_label(row: Mapping[Any, Any], setting: dict[str, Any], net: str) -> str:
    """`he before xavier`, with the setting in a line below it where there are several."""
    pair = f"{row['arm']} before {row['other']}"
    return f"{pair}\n{title(setting, net)}" if setting else pair


def effects(results: Shown, ax: Target = None, *, by: str = SCHEME, width: Width | None = None) -> Figure:
    """Draw `effects_table`: a row per pair, the ratio in its interval on a log axis, where 1 is no difference.

    Filled points are of pairs whose difference the seeds show. An arrow has no end: a run never got there.

    Args:
        ax: one Axes; None makes a figure.
        by: dotted path of the field that makes the arms.
        width: of the figure, a paper's "column" (3.25 in) or its "text" (6.75 in).

    Raises:
        UserError: nothing to draw, several axes, or an unknown width.
    """
    table = effects_table(results, by)
    lines = 1 + table.label.str.count("\n").max()
    with canvas("effects", ax, ["all"], 1, 0.5 + (0.13 * lines + 0.1) * len(table), width=width) as grid:
        (axes,) = grid.axes
        frame(axes, table)
        axes.axvline(1.0, color=GREY, linestyle=":", linewidth=1.0)
        for place, row in enumerate(table.to_dict("records")):
            draw_row(axes, len(table) - place, row)
        finish(axes, "", "times as many epochs to the threshold", None)
        axes.grid(False)
        axes.tick_params(axis="y", length=0)
        point: dict[str, Any] = {"color": COLOR, "marker": "o", "markersize": 5}
        handles = [
            Line2D([], [], **point, markerfacecolor=face, label=name)
            for shown, face, name in ((True, COLOR, "shown by the seeds"), (False, "white", "not shown by the seeds"))
            if (table.shown == shown).any()
        ]
        seeds = " to ".join(str(count) for count in sorted({table.seeds.min(), table.seeds.max()}))
        add_legend(grid, handles, f"95 % interval over {seeds} seeds, paired; arrow: never in the budget")
    return grid.figure


def draw_row(ax: Axes, y: int, row: Mapping[Any, Any]) -> None:
    """One pair: its interval, an arrow where that is open, and the point where the ratio is known."""
    low, high = (row[f"ratio_{end}"] for end in ("low", "high"))
    left, right = ax.get_xlim()
    line: dict[str, Any] = {"color": COLOR, "linewidth": 1.3, "solid_capstyle": "butt"}
    ax.plot([low or left, min(high, right)], [y, y], **line, label=f"_{row['label']}")
    for open_end, x, marker in ((low == 0, left, "<"), (math.isinf(high), right, ">")):
        if open_end:
            ax.plot(x, y, color=COLOR, marker=marker, markersize=5, clip_on=False)
    text = f"{row['ratio']:.2g}× [{low:.2g}, {high:.2g}]"
    if math.isinf(high):
        text = f"at least {low:.2g}×" if low > 0 else f"{row['ratio']:.2g}×, open"
    # Where a run never got there, its ratio is a bound and no point.
    if low == 0 or math.isfinite(high):
        face = COLOR if row["shown"] else "white"
        ax.plot(row["ratio"], y, color=COLOR, marker="o", markersize=5, markerfacecolor=face, label=row["label"])
    else:
        ax.plot(low, y, color=COLOR, marker="|", markersize=8, label=row["label"])
    margin_text(ax, text, y, "data")


def frame(ax: Axes, table: pd.DataFrame) -> None:
    """A log axis that holds 1 and every end that there is, plain numbers, a name to the left of each row."""
    ends = np.concatenate([[1.0], *(table[name] for name in ("ratio", "ratio_low", "ratio_high"))])
    known = ends[np.isfinite(ends) & (ends > 0)]
    low, high = known.min(), known.max()
    room = max((high / low) ** 0.12, 1.05)
    ax.set(xscale="log", xlim=(low / room, high * room), ylim=(0.4, len(table) + 0.6))
    # Where a decade's own numbers would leave 1 alone.
    near = MaxNLocator(4, steps=[1, 2, 5, 10])
    far = LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,), numticks=9)
    ax.xaxis.set_major_locator(near if high / low < 4 else far)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_yticks(range(len(table), 0, -1), table.label)
