"""Signals: variance of every layer's pre-activation and of its gradient, on a log axis against the layer."""

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from initlab.analysis.panels import SCHEME, Shown, by_panel, rows_of, shown_trials, states
from initlab.errors import UserError
from initlab.plots.layer_axes import (
    NAMES,
    direction_panels,
    draw_bands,
    draw_line,
    frame_layers,
    moment_style,
    over_seeds,
    variances,
)
from initlab.plots.legend import add_legend, scheme_handles, seeds_note
from initlab.plots.style import GREY, Target, Width, finish, looks
from initlab.store.rows import Moment


def signals_table(results: Shown, epochs: Sequence[Moment] = (0, "end")) -> pd.DataFrame:
    """One row per drawn point: panel, its fields, init.scheme, moment, direction and layer (0-based, as in the frames).

    `moment` is the entry of `epochs`, `epoch` that of the nearest probe (a mean over the trials of a line).
    `mean` is the geometric mean over the seeds whose variance is above 0, `low` and `high` their range; `zeros` of the
    `seeds` underflowed to 0. Layers of which no seed has a finite variance are left out.

    Raises:
        UserError: an impossible entry in `epochs`, no probe to draw, or too many panels.
    """
    table, line = trial_points(results, epochs)
    return over_seeds(table, line)


def trial_points(results: Shown, epochs: Sequence[Moment]) -> tuple[pd.DataFrame, list[str]]:
    """The variances of every trial by panel, scheme, moment, direction and layer; and the columns that make a line."""
    for moment in epochs:
        if moment != "end" and (isinstance(moment, str) or not (math.isfinite(moment) and moment >= 0)):
            raise UserError(f"signals: epochs: not a moment (got {moment!r}); allowed: a number from 0, or 'end'")
    trials, fields = shown_trials(results)
    rows = rows_of(results, trials, "signals", epochs)
    points = variances(at_moments(rows, epochs), ["trial", "moment", "epoch", "layer", "name", "op"])
    if points.empty:
        raise UserError(
            f"plot: no signals to draw (got {states(trials)}, {len(rows)} rows of signals); "
            "run the study with probe.every above 0"
        )
    table, line = by_panel("signals", points, trials, fields)
    return table, [*line, "moment", "direction", "layer", "name", "op"]


def moment_name(moment: Moment) -> str:
    """`0`, `2.5` or `end`."""
    return "end" if moment == "end" else f"{float(moment):g}"


def at_moments(rows: pd.DataFrame, epochs: Sequence[Moment]) -> pd.DataFrame:
    """The rows of each trial's probes nearest to these epochs, with `moment`; a probe is taken once."""
    probes = rows[["trial", "step", "epoch"]].drop_duplicates(["trial", "step"])
    last = probes.groupby("trial").epoch.transform("max")
    chosen = []
    for moment in epochs:
        distance = (probes.epoch - (last if moment == "end" else float(moment))).abs()
        nearest = probes.loc[distance.groupby(probes.trial).idxmin(), ["trial", "step"]]
        chosen.append(nearest.assign(moment=moment_name(moment)))
    once = pd.concat(chosen).drop_duplicates(["trial", "step"])
    merged = [part.merge(rows, on=["trial", "step"]) for _, part in once.groupby("moment", sort=False)]
    return pd.concat(merged, ignore_index=True) if merged else rows.assign(moment="")


def signals(
    results: Shown,
    ax: Target = None,
    *,
    epochs: Sequence[Moment] | None = None,
    theory: bool = False,
    width: Width | None = None,
) -> Figure:
    """Draw `signals_table`: a row per depth, forward left and backward right, a line per scheme and epoch.

    A variance that underflowed to 0 is a marker in the row named 0 at the bottom of its panel.

    Args:
        ax: two Axes per depth (forward, backward); None makes a figure.
        epochs: when to look, the nearest probe each; 0 is before training, "end" the last probe. None is both, or 0
            under `theory`.
        theory: draw what theory says of draws of the same initialisation, median and 95 % band, instead of the range
            over seeds, and the share of measured points inside. It knows the time before training alone.
        width: of the figure, a paper's "column" (3.25 in) or its "text" (6.75 in).

    Raises:
        UserError: nothing to draw, another number of axes, or theory for later than epoch 0 or for code of yours.
    """
    epochs = epochs or ((0,) if theory else (0, "end"))
    if theory and list(epochs) != [0]:
        raise UserError(f"signals: theory knows epoch 0 alone (got epochs {list(epochs)}); leave epochs out")
    points, line = trial_points(results, epochs)
    table = over_seeds(points, line)
    bands = bands_of(results, points) if theory else None
    styles = looks(table[SCHEME])
    moments = [name for name in dict.fromkeys(map(moment_name, epochs)) if (table.moment == name).any()]
    with direction_panels("signals", ax, table, width) as (grid, parts):
        for axes, panel, direction, part in parts:
            for (scheme, moment), points in part.groupby([SCHEME, "moment"], sort=False):
                draw_line(axes, points, styles[str(scheme)], moments.index(str(moment)), len(moments), not theory)
            if bands is not None:
                draw_bands(axes, bands[(bands.panel == panel) & (bands.direction == direction)], styles)
            finish(axes, f"{panel}, {direction}", "weight layer (1 = next to the input)", NAMES[direction])
            frame_layers(axes, part)
        handles = scheme_handles(styles, results)
        handles += [moment_handle(table, moment, i, len(moments)) for i, moment in enumerate(moments)]
        note = seeds_note(table.seeds, each="", mean="geometric mean")
        if bands is not None:
            handles.append(Line2D([], [], color=GREY, linestyle="--", linewidth=1.0, label="theory: median, 95 % band"))
            note = inside_note(bands)
        add_legend(grid, handles, note)
    return grid.figure


def moment_handle(table: pd.DataFrame, moment: str, place: int, count: int) -> Line2D:
    """A moment's entry in the legend, with the epochs of its probes."""
    opacity, filled = moment_style(place, count)
    epochs = table.epoch[table.moment == moment]
    low, high = f"{epochs.min():.3g}", f"{epochs.max():.3g}"
    name = f"epoch {low}" if low == high else f"epoch {low}–{high}"
    if moment == "end":
        name = f"end ({name})"
    elif epochs.max() == 0:
        name = "before training"
    width, face = (1.6, GREY) if filled else (1.0, "white")
    return Line2D([], [], color=GREY, linewidth=width, alpha=opacity, marker="o", markerfacecolor=face, label=name)


def theory_beside_table(results: Shown) -> pd.DataFrame:
    """What `signals(theory=True)` draws: `signals_table` before training, with `theory_table`'s band beside it."""
    points, line = trial_points(results, (0,))
    bands = bands_of(results, points).rename(columns={name: f"theory_{name}" for name in ("median", "low", "high")})
    return over_seeds(points, line).merge(bands, on=["panel", SCHEME, "direction", "layer"], how="left")


def bands_of(results: Shown, points: pd.DataFrame) -> pd.DataFrame:
    """`theory_table` of the trials behind these points; torch is loaded here, for theory alone."""
    from initlab.plots.theory import theory_table

    return theory_table(results, points.drop_duplicates("trial"), points)


def inside_note(theory: pd.DataFrame) -> str:
    """`inside the 95 % band: forward 96 % of 180 points, backward 94 % of 174`."""
    parts = []
    for direction, part in theory.groupby("direction", sort=False):
        once = part.drop_duplicates(["panel", SCHEME])
        share = once.inside.sum() / max(once.points.sum(), 1)
        parts.append(f"{direction} {share:.0%} of {once.points.sum()} points")
    return "inside the 95 % band: " + ", ".join(parts)
