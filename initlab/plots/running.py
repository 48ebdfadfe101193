"""Running moments: how the variances of a first, a middle and the last layer go while the net trains, on a log axis."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from initlab.analysis.panels import SCHEME, NotStudied, Shown, by_panel, rows_of, shown_trials, states
from initlab.errors import UserError
from initlab.plots.layer_axes import NAMES, direction_panels, over_seeds, variances
from initlab.plots.legend import add_legend, scheme_handles, seeds_note
from initlab.plots.style import GREY, Look, Target, Width, draw_band, finish, looks

# Of the weight layers, 0 next to the input.
PLACES = {"first": 0.0, "middle": 0.5, "last": 1.0}
THICKNESS = {"first": 0.8, "middle": 1.4, "last": 2.2}
LABELS = {"first": "first layer", "middle": "middle", "last": "last"}
OPACITY = 0.85


def running_table(results: Shown) -> pd.DataFrame:
    """One row per drawn point: panel, its fields, init.scheme, direction, place (`PLACES`), layer, step and epoch.

    `mean` is the geometric mean over the seeds whose variance is above 0, `low` and `high` their range; `zeros` of the
    `seeds` are 0. Steps at which no seed has a finite variance are left out.

    Raises:
        UserError: no trial has running moments, or too many panels.
    """
    trials, fields = shown_trials(results)
    rows = rows_of(results, trials, "running")
    last = rows.groupby("trial").layer.transform("max")
    placed = [rows[rows.layer == (last * share).astype(int)].assign(place=name) for name, share in PLACES.items()]
    points = variances(pd.concat(placed), ["trial", "place", "layer", "name", "op", "step", "epoch"])
    if points.empty:
        error = NotStudied if rows.empty else UserError
        raise error(
            f"plot: no running moments to draw (got {states(trials)}, {len(rows)} rows of them); "
            "run the study with probe.running_every above 0"
        )
    table, line = by_panel("running", points, trials, fields)
    return over_seeds(table, [*line, "direction", "place", "layer", "name", "op", "step"])


def running(results: Shown, ax: Target = None, *, width: Width | None = None) -> Figure:
    """Draw `running_table`: a row per depth, forward left and backward right, a line per scheme and place.

    A variance of 0 has no place on a log axis: its line has a gap there. `ax` is two Axes per depth (forward,
    backward); None makes a figure.

    Raises:
        UserError: no running moments to draw, or another number of axes.
    """
    table = running_table(results)
    styles = looks(table[SCHEME])
    with direction_panels("running", ax, table, width) as (grid, parts):
        for axes, panel, direction, part in parts:
            for (scheme, place), points in part.groupby([SCHEME, "place"], sort=False):
                draw_line(axes, points, styles[str(scheme)], str(place))
            finish(axes, f"{panel}, {direction}", "epoch", NAMES[direction])
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(numticks=7))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.set_xlim(0, part.epoch.max())
        handles = scheme_handles({scheme: Look(look.color, look.line, "") for scheme, look in styles.items()}, results)
        handles += [Line2D([], [], color=GREY, linewidth=THICKNESS[place], label=LABELS[place]) for place in PLACES]
        add_legend(grid, handles, seeds_note(table.seeds, each="", mean="geometric mean"))
    return grid.figure


def draw_line(ax: Axes, points: pd.DataFrame, look: Look, place: str) -> None:
    """One layer of one scheme over the epochs, the range over seeds behind it."""
    points = points.sort_values("step")
    if (points.seeds > 1).any():
        draw_band(ax, points.epoch, points.low, points.high, look.color)
    style = {**look.style, "marker": "", "linewidth": THICKNESS[place], "alpha": OPACITY}
    ax.plot(points.epoch, points["mean"], **style, label=f"{points[SCHEME].iloc[0]} {place}")
