"""Running moments: how the variances of a first, a middle and the last layer go while the net trains, on a log axis."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from initlab.errors import UserError
from initlab.plots.panels import SCHEME, Shown, rows_of, shown_trials, states
from initlab.plots.signals import NAMES, by_panel, has, over_seeds, variances
from initlab.plots.style import BAND, GREY, Look, Target, add_legend, canvas, finish, looks, scheme_handle, seeds_note
from initlab.plots.style import styled as in_style

PLACES = {"first": 0.0, "middle": 0.5, "last": 1.0}  # of the weight layers, 0 next to the input
WIDTHS = {"first": 0.8, "middle": 1.4, "last": 2.2}
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
        raise UserError(
            f"plot: no running moments to draw (got {states(trials)}, {len(rows)} rows of them); "
            "run the study with probe.running_every above 0"
        )
    line = ["direction", "place", "layer", "name", "op", "step"]
    return over_seeds(*by_panel("running", points, trials, fields, line))


def has_running(results: Shown) -> bool:
    """Whether any trial shown has running moments."""
    return len(rows_of(results, shown_trials(results)[0], "running")) > 0


def running(results: Shown, ax: Target = None) -> Figure:
    """Draw `running_table`: a row per depth, forward left and backward right, a line per scheme and place.

    A variance of 0 has no place on a log axis: its line has a gap there.

    Args:
        results: one Results, or a sequence whose trials are shown together.
        ax: two Axes per depth (forward, backward); None makes a figure.

    Raises:
        UserError: no running moments to draw, or another number of axes.
    """
    table = running_table(results)
    places = [(panel, way) for panel in dict.fromkeys(table.panel) for way in NAMES if has(table, panel, way)]
    styles = looks(table[SCHEME])
    titles = [f"{panel}, {way}" for panel, way in places]
    with in_style():
        drawn = canvas("running", ax, titles, table.direction.nunique(), height=2.2, sharey=False)
        for (panel, way), title, axes in zip(places, titles, drawn.axes, strict=True):
            part = table[(table.panel == panel) & (table.direction == way)]
            for (scheme, place), points in part.groupby([SCHEME, "place"], sort=False):
                draw_line(axes, points, styles[str(scheme)], str(place))
            finish(axes, title, "epoch", NAMES[way])
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(numticks=7))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.set_xlim(0, part.epoch.max())
        handles = [scheme_handle(scheme, Look(look.color, look.line, "")) for scheme, look in styles.items()]
        handles += [Line2D([], [], color=GREY, linewidth=WIDTHS[place], label=LABELS[place]) for place in PLACES]
        add_legend(drawn, handles, seeds_note(table.seeds, each="", mean="geometric mean"))
    return drawn.figure


def draw_line(ax: Axes, points: pd.DataFrame, look: Look, place: str) -> None:
    """One layer of one scheme over the epochs, the range over seeds behind it."""
    points = points.sort_values("step")
    if (points.seeds > 1).any():
        ax.fill_between(points.epoch, points.low, points.high, color=look.color, alpha=BAND, linewidth=0)
    ax.plot(
        points.epoch,
        points["mean"],
        color=look.color,
        linestyle=look.line,
        linewidth=WIDTHS[place],
        marker="",
        alpha=OPACITY,
        label=f"{points[SCHEME].iloc[0]} {place}",
    )
