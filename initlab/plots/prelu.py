"""PReLU: the slope below zero that each layer learned, beside those of the paper's table 1."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from initlab.analysis.panels import DEPTH, SCHEME, NotStudied, Shown, by_panel, rows_of, shown_trials, states
from initlab.plots.legend import add_legend, scheme_handles, seeds_note
from initlab.plots.style import GREY, Look, Target, Width, canvas, draw_band, finish, frame_numbers, level_lines, looks

# Learned by small-14: layer, channels, one slope for the layer, mean of one per channel (He et al. 2015, table 1).
TABLE_1 = [
    ("conv1", 64, 0.681, 0.596),
    ("conv2_1", 128, 0.103, 0.321),
    ("conv2_2", 128, 0.099, 0.204),
    ("conv2_3", 128, 0.228, 0.294),
    ("conv2_4", 128, 0.561, 0.464),
    ("conv3_1", 256, 0.126, 0.196),
    ("conv3_2", 256, 0.089, 0.152),
    ("conv3_3", 256, 0.124, 0.145),
    ("conv3_4", 256, 0.062, 0.124),
    ("conv3_5", 256, 0.008, 0.134),
    ("conv3_6", 256, 0.210, 0.198),
    ("fc1", 4096, 0.063, 0.074),
    ("fc2", 4096, 0.031, 0.075),
]
PAPER = "paper, 14 layers (table 1)"
PAPER_LOOKS = {"shared": Look("#333333", "--", "s"), "channel-wise": Look(GREY, "-", "o")}


def prelu_table(results: Shown) -> pd.DataFrame:
    """One row per drawn point: panel, its fields, init.scheme and layer (0-based); the paper's are in panel `PAPER`.

    Of each trial the last validated step counts, at `epoch` (a mean over the trials of a line). `mean` is over the
    line's `seeds` of each layer's mean slope, `low` and `high` their range, `spread` the mean standard deviation over
    the layer's channels, and `start` the mean slope before training. In the paper's rows init.scheme says which column
    of table 1 it is, `shared` or `channel-wise`, and what it does not print is NaN.

    Raises:
        UserError: no trial has learned slopes, or too many panels.
    """
    trials, fields = shown_trials(results)
    rows = rows_of(results, trials, "slopes")
    if rows.empty:
        raise NotStudied(
            f"plot: no slopes to draw (got {states(trials)}, none with PReLU); "
            "run a study with net.activation prelu or prelu_shared"
        )
    step = rows.groupby("trial").step
    first = rows.loc[rows.step == step.transform("min"), ["trial", "layer", "mean"]].rename(columns={"mean": "start"})
    last = rows[rows.step == step.transform("max")].merge(first, on=["trial", "layer"])
    points, line = by_panel("prelu", last, trials, fields)
    lines = points.groupby([*line, "layer", "name", "channels"], sort=False, dropna=False, as_index=False)
    over_seeds: dict[str, Any] = {"epoch": ("epoch", "mean"), "mean": ("mean", "mean"), "low": ("mean", "min")}
    over_seeds |= {"high": ("mean", "max"), "spread": ("std", "mean")}
    over_seeds |= {"start": ("start", "mean"), "seeds": ("trial", "nunique")}
    paper_rows = []
    for layer, (name, channels, shared, channel_wise) in enumerate(TABLE_1):
        for kind, count, mean in (("shared", 1, shared), ("channel-wise", channels, channel_wise)):
            row = {"panel": PAPER, DEPTH: 14, SCHEME: kind, "layer": layer, "name": name, "channels": count}
            # One run of each kind, of 75 epochs from 0.25 on.
            paper_rows.append({**row, "epoch": 75.0, "mean": mean, "start": 0.25, "seeds": 1})
    table: pd.DataFrame = lines.agg(**over_seeds)
    return pd.concat([table, pd.DataFrame(paper_rows)], ignore_index=True)


def prelu(results: Shown, ax: Target = None, *, width: Width | None = None) -> Figure:
    """Draw `prelu_table`: a panel per depth and setting, a line per scheme, and the paper's table in the last panel.

    Whiskers are one standard deviation over a layer's channels, the dotted line is where the slopes started. `ax` is
    one Axes per panel, the paper's last; None makes a figure.

    Raises:
        UserError: no learned slopes to draw, or another number of axes.
    """
    table = prelu_table(results)
    panels = list(dict.fromkeys(table.panel))
    study_rows = table[table.panel != PAPER]
    styles = looks(study_rows[SCHEME])
    with canvas("prelu", ax, panels, 2 if len(panels) in (2, 4) else 3, height=2.4, sharey=True, width=width) as grid:
        for panel, axes in zip(panels, grid.axes, strict=True):
            part = table[table.panel == panel]
            for name, look in (PAPER_LOOKS if panel == PAPER else styles).items():
                draw_line(axes, part[part[SCHEME] == name], look)
            ylabel = "slope below zero" if axes in grid.row_starts else None
            finish(axes, panel, "PReLU layer (1 = next to the input)", ylabel)
            frame_numbers(axes, int(part.layer.max()) + 1)
            level_lines(axes, part.start.round(6), "start", labelled=axes in grid.row_ends)
        handles = scheme_handles(styles | {f"paper, {kind}": look for kind, look in PAPER_LOOKS.items()}, results)
        add_legend(grid, handles, f"{seeds_note(study_rows.seeds, each='')}; whiskers: deviation over channels")
    return grid.figure


def draw_line(ax: Axes, points: pd.DataFrame, look: Look) -> None:
    """One line over the layers: the band is the range over seeds, whiskers the deviation over channels."""
    if points.empty:
        return
    points = points.sort_values("layer")
    number = points.layer + 1
    if (points.seeds > 1).any():
        draw_band(ax, number, points.low, points.high, look.color)
    spread = points.spread.fillna(0.0)
    if np.any(spread > 0):
        ax.vlines(number, points["mean"] - spread, points["mean"] + spread, color=look.color, linewidth=0.7, alpha=0.6)
    ax.plot(number, points["mean"], **look.style, markersize=3.2, label=str(points[SCHEME].iloc[0]))
