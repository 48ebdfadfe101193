"""Depth: final training and validation error against depth, a line per scheme; shows where more layers stop helping."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from matplotlib.transforms import ScaledTranslation

from initlab.analysis.panels import (
    ALL,
    DEPTH,
    SCHEME,
    SEED,
    Shown,
    error_name,
    rows_of,
    shown_trials,
    states,
    with_panels,
)
from initlab.errors import UserError
from initlab.plots.convergence import training_means
from initlab.plots.legend import add_legend, cross_handle, scheme_handles, seeds_note
from initlab.plots.style import Look, Target, Width, canvas, crosses, finish, level_lines, looks, percent_axis

# What depth counts where it is not weight layers.
DEPTH_UNITS = {"transformer": "blocks", "lstm": "recurrent layers"}
NAMES = {"train_error": "training, mean of the last epoch", "val_error": "validation, at the end"}
# Points between schemes at one depth.
DODGE = 5.0
# Height of the row of diverged trials, a fraction of the panel.
TOP = 0.96


def depth_table(results: Shown) -> pd.DataFrame:
    """One row per finished trial and quantity: panel, its fields, net.depth, init.scheme, seed, quantity and its value.

    `train_error` is the last epoch's mean, `val_error` the last one. `mean`, `low` and `high` are over the `seeds` that
    did not diverge; a diverged trial keeps its row with `diverged` True, and `diverged_seeds` counts them.

    Raises:
        UserError: no finished trial, or too many panels.
    """
    trials, fields = shown_trials(results)
    finished = trials[trials.verdict.notna()]
    if finished.empty:
        got = states(trials)
        raise UserError(
            f"plot: no finished trial for the depth figure (got {got}); run the study until one has finished"
        )
    finished, settings = with_panels("depth", finished, fields, [])
    curves = rows_of(results, finished, "scalars").groupby("trial", sort=False)
    train_errors = {trial: training_means(rows).train_error for trial, rows in curves}
    last = finished.trial.map({trial: errors.iloc[-1] for trial, errors in train_errors.items() if len(errors)})
    finished = finished.assign(train_error=last.astype(float), diverged=finished.verdict == "diverged")
    facts = ["panel", *settings, DEPTH, SCHEME, SEED, "trial", "diverged", "chance"]
    table = finished.melt(id_vars=facts, value_vars=list(NAMES), var_name="quantity", value_name="value")
    point = ["panel", "quantity", DEPTH, SCHEME]
    survived = table.assign(value=table.value.where(~table.diverged)).groupby(point, sort=False).value
    statistics: dict[str, Any] = {"mean": "mean", "low": "min", "high": "max", "seeds": "count"}
    summary = {name: survived.transform(statistic) for name, statistic in statistics.items()}
    diverged_seeds = table.groupby(point, sort=False).diverged.transform("sum")
    table = table.assign(**summary, diverged_seeds=diverged_seeds)
    return table.sort_values(DEPTH, kind="stable", ignore_index=True)


def depth(results: Shown, ax: Target = None, *, width: Width | None = None) -> Figure:
    """Draw `depth_table`: training error left, validation error right; points are seeds, whiskers their range.

    A × in the top row is a depth at which trials of the scheme diverged, with their number where others did not. `ax`
    is two Axes (training, validation), two more per further setting; None makes a figure.

    Raises:
        UserError: no finished trial, or another number of axes.
    """
    table = depth_table(results)
    places = [(panel, quantity) for panel in dict.fromkeys(table.panel) for quantity in NAMES]
    styles = looks(table[SCHEME])
    unit = DEPTH_UNITS.get(shown_trials(results)[0]["net.name"].iloc[0], "weight layers")
    titles = [NAMES[quantity] + ("" if panel == ALL else f"\n{panel}") for panel, quantity in places]
    with canvas("depth", ax, titles, 2, height=2.5, sharey=True, width=width) as grid:
        for (panel, quantity), title, axes in zip(places, titles, grid.axes, strict=True):
            part = table[(table.panel == panel) & (table["quantity"] == quantity)]
            for order, (scheme, look) in enumerate(styles.items()):
                shift = DODGE * (order - (len(styles) - 1) / 2)
                draw_scheme(axes, part[part[SCHEME] == scheme], look, shift, lower=order % 2 == 1)
            finish(axes, title, f"depth ({unit})", error_name(results) if quantity == "train_error" else None)
            level_lines(axes, part.chance, "chance", labelled=axes in grid.row_ends)
            frame_depths(axes, table)
        handles = scheme_handles(styles, results)
        handles += [cross_handle("diverged (not in the mean)")] if table.diverged.any() else []
        note = seeds_note(table.seeds + table.diverged_seeds, each="points: each seed; ", band="whiskers")
        add_legend(grid, handles, note)
    return grid.figure


def draw_scheme(ax: Axes, points: pd.DataFrame, look: Look, shift: float, lower: bool) -> None:
    """One scheme in one panel, `shift` points to the right of its depths so that schemes do not hide each other.

    `lower` puts the count of diverged trials a line lower, clear of the neighbour's.
    """
    if points.empty:
        return
    scheme = points[SCHEME].iloc[0]
    root = ax.get_figure(root=True)
    assert root is not None
    shifted = ScaledTranslation(shift / 72, 0, root.dpi_scale_trans)
    single = points[~points.diverged]
    per_depth = points.drop_duplicates(DEPTH)
    means = per_depth.dropna(subset="mean")
    common: dict[str, Any] = {"color": look.color, "transform": ax.transData + shifted}
    dots: dict[str, Any] = {"marker": ".", "linestyle": "none", "markersize": 4, "markeredgewidth": 0, "alpha": 0.55}
    ax.plot(single[DEPTH], single.value, **common, **dots, label=f"_{scheme} seeds", zorder=2.5)
    ax.vlines(means[DEPTH], means.low, means.high, **common, linewidth=1.0)
    ax.plot(means[DEPTH], means["mean"], **common | look.style, label=scheme, zorder=3)
    lost = per_depth[per_depth.diverged_seeds > 0]
    crosses(ax, lost[DEPTH], [TOP] * len(lost), look, f"_{scheme} diverged", ax.get_xaxis_transform() + shifted)
    for depth, count, survivors in zip(lost[DEPTH], lost.diverged_seeds, lost.seeds, strict=True):
        if survivors:
            place: dict[str, Any] = {"xy": (depth, TOP), "xycoords": ax.get_xaxis_transform()}
            place |= {
                "xytext": (shift, -12 if lower else -5),
                "textcoords": "offset points",
                "ha": "center",
                "va": "top",
            }
            ax.annotate(f"{count} of {count + survivors}", **place, fontsize=6, color=look.color)


def frame_depths(ax: Axes, table: pd.DataFrame) -> None:
    """Depths as ticks, room at both sides, errors in percent, a free row at the top where trials diverged."""
    depths = np.sort(table[DEPTH].unique()).astype(float)
    margin = 0.12 * (depths[-1] - depths[0]) or 1.0
    ax.set_xlim(depths[0] - margin, depths[-1] + margin)
    ax.set_xticks(depths, [f"{depth:g}" for depth in depths])
    ax.xaxis.set_minor_locator(NullLocator())
    values = pd.concat([table.value[~table.diverged], table.chance]).dropna()
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    percent_axis(ax, low, high, room=0.2 if table.diverged.any() else 0.0)
