"""Convergence: an error or the loss against the epoch, one panel per depth, one line per scheme."""

import math
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from initlab.analysis.panels import SCHEME, SEED, Shown, by_panel, error_name, loss_unit, rows_of, shown_trials, states
from initlab.errors import UserError
from initlab.paper.curves import PaperFigure
from initlab.plots.legend import add_legend, cross_handle, scheme_handles, seeds_note
from initlab.plots.paper import draw_paper, epoch_name, paper_panels, paper_points, paper_title
from initlab.plots.style import (
    Look,
    Target,
    Width,
    canvas,
    crosses,
    draw_band,
    finish,
    level_lines,
    looks,
    percent_axis,
)
from initlab.verdict.judge import epoch_means

Quantity = Literal["val_error", "train_error", "train_loss"]
LEVELS = {"val_error": ("chance", "threshold"), "train_error": ("chance",), "train_loss": ()}


def convergence_table(results: Shown, quantity: Quantity = "val_error") -> pd.DataFrame:
    """One row per point of a curve: panel, its fields, init.scheme, seed, trial, epoch and `quantity`.

    `mean`, `low` and `high` are over the line's `seeds` at that epoch; NaN where a seed has no value there (it
    diverged, or has not come so far), because a mean over the others would describe the survivors alone. `diverged`
    marks the last point of a diverged trial; its value is NaN where the trial has no finite one. Training quantities
    are means over an epoch.
    `chance` and `threshold` are the levels drawn, NaN where there are none; `train_examples` are images an epoch.

    Raises:
        UserError: an unknown quantity, no point to draw yet, or too many panels.
    """
    if quantity not in LEVELS:
        raise UserError(f"convergence: unknown quantity (got {quantity!r}); allowed: {', '.join(LEVELS)}")
    trials, fields = shown_trials(results)
    points = curve_points(rows_of(results, trials, "scalars"), trials, quantity)
    if points.empty or points[quantity].isna().all():
        raise UserError(f"plot: no {quantity} to draw yet (got {states(trials)}); run the study until it has validated")
    facts = ["chance", "threshold", "train_examples"]
    table, line = by_panel("convergence", points, trials, fields, [SEED, *facts])
    at_epoch = table.groupby(["panel", SCHEME, "epoch"], sort=False)[quantity]
    seeds = table.groupby(["panel", SCHEME], sort=False).trial.transform("nunique")
    complete = at_epoch.transform("count") == seeds
    summary = {"mean": at_epoch.transform("mean"), "low": at_epoch.transform("min"), "high": at_epoch.transform("max")}
    table = table.assign(**{name: values.where(complete) for name, values in summary.items()}, seeds=seeds)
    return table[[*line, SEED, "trial", "epoch", quantity, *summary, "seeds", "diverged", *facts]]


def curve_points(scalars: pd.DataFrame, trials: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """trial, epoch, value and `diverged` of each trial's finite points; a diverged trial without any has one of NaN."""
    curves = scalars
    if quantity != "val_error":
        parts = [training_means(rows).assign(trial=trial) for trial, rows in scalars.groupby("trial", sort=False)]
        curves = pd.concat(parts) if parts else scalars
    points: pd.DataFrame = curves.loc[np.isfinite(curves[quantity].to_numpy(dtype=float)), ["epoch", quantity, "trial"]]
    diverged = trials.trial[trials.verdict == "diverged"]
    valueless = scalars[scalars.trial.isin(diverged) & ~scalars.trial.isin(points.trial)]
    ends = valueless.groupby("trial", sort=False, as_index=False).epoch.max().assign(**{quantity: math.nan})
    points = pd.concat([part for part in (points, ends) if len(part)] or [points], ignore_index=True)
    last = ~points.trial.duplicated(keep="last")
    points["diverged"] = last & points.trial.isin(diverged)
    return points


def training_means(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean training loss and error per epoch, at the epoch's end; a non-finite loss makes its epoch's mean one."""
    trained = rows[rows.step > 0]
    if trained.empty:
        return pd.DataFrame({"epoch": [], "train_loss": [], "train_error": []})
    per_epoch = max(1, round(float((trained.step / trained.epoch).iloc[-1])))
    means = epoch_means(rows, per_epoch)
    return pd.DataFrame({**means._asdict(), "epoch": means.epoch.clip(max=float(trained.epoch.max()))})


def convergence(
    results: Shown,
    ax: Target = None,
    *,
    quantity: Quantity = "val_error",
    paper: bool = False,
    width: Width | None = None,
) -> Figure:
    """Draw `convergence_table`: the mean over seeds, each seed as a thin curve, the range over seeds as a band.

    Args:
        ax: one Axes, or as many as there are panels; None makes a figure.
        quantity: `val_error`, `train_error` or `train_loss`.
        paper: beside each panel of 22 or 30 layers the paper's figure 2 or 3 as a panel of its own, with its own axes;
            `ax` then holds one more Axes for each of them. Ours say how many of its images an epoch has.
        width: of the figure, a paper's "column" (3.25 in) or its "text" (6.75 in).

    Raises:
        UserError: nothing to draw yet, another number of axes than panels, or no curve of the paper for any panel.
    """
    table = convergence_table(results, quantity)
    beside = paper_panels(table, quantity) if paper else {}
    # Each panel of the study, followed by the paper's of the same depth where there is one.
    panels: list[tuple[str, PaperFigure | None]] = []
    for panel in dict.fromkeys(table.panel):
        panels += [(panel, None), *([(paper_title(beside[panel]), beside[panel])] if panel in beside else [])]
    styles = looks(table[SCHEME])
    columns = 2 if paper or len(panels) in (2, 4) else 3
    titles = [title for title, _ in panels]
    with canvas("convergence", ax, titles, columns, height=2.35, sharey=not paper, width=width) as grid:
        study_axes = []
        for (panel, figure), axes in zip(panels, grid.axes, strict=True):
            if figure:
                draw_paper(axes, figure)
                continue
            part = table[table.panel == panel]
            for order, (scheme, look) in enumerate(styles.items()):
                draw_scheme(axes, part[part[SCHEME] == scheme], quantity, look, order)
            ylabel = name_of(results, quantity) if axes in grid.row_starts else None
            finish(axes, panel, epoch_name(part) if paper else "epoch", ylabel)
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            for level in LEVELS[quantity]:
                level_lines(axes, part[level], level, labelled=paper or axes in grid.row_ends)
            study_axes.append(axes)
        frame_values(study_axes, table, quantity)
        handles = scheme_handles(styles, results)
        handles += [cross_handle("diverged (the mean ends)")] if table.diverged.any() else []
        add_legend(grid, handles, seeds_note(table.seeds))
    return grid.figure


def name_of(results: Shown, quantity: Quantity) -> str:
    """A quantity as the axis says it: `validation top-1 error (%)`."""
    if quantity == "train_loss":
        return f"training loss{loss_unit(results)}"
    return f"{'validation' if quantity == 'val_error' else 'training'} {error_name(results)}"


def beside_paper_table(results: Shown) -> pd.DataFrame:
    """`convergence_table`, and below it the paper's points, each figure as one more panel."""
    table = convergence_table(results)
    return pd.concat([table, paper_points(paper_panels(table, "val_error").values())], ignore_index=True)


def draw_scheme(ax: Axes, points: pd.DataFrame, quantity: str, look: Look, order: int) -> None:
    """One scheme's seeds, band, mean and crosses in one panel."""
    if points.empty:
        return
    scheme = points[SCHEME].iloc[0]
    mean = points.dropna(subset="mean").drop_duplicates("epoch")
    if points.seeds.iloc[0] > 1:
        opacity = 0.6 if points.seeds.iloc[0] < 5 else 0.35
        for seed, curve in points.groupby(SEED, sort=False):
            name = f"_{scheme} seed {seed}"
            ax.plot(curve.epoch, curve[quantity], label=name, color=look.color, linewidth=0.6, alpha=opacity)
        draw_band(ax, mean.epoch, mean.low, mean.high, look.color)
    spacing = max(1, math.ceil(len(mean) / 8))
    markers = (order * spacing // 3 % spacing, spacing)
    ax.plot(mean.epoch, mean["mean"], **look.style, label=scheme, markevery=markers, zorder=3 - order / 10)
    ends = points[points.diverged]
    finite, valueless = ends.dropna(subset=quantity), ends[ends[quantity].isna()]
    crosses(ax, finite.epoch, finite[quantity], look, f"_{scheme} diverged", ax.transData)
    at_top = [0.97] * len(valueless)
    crosses(ax, valueless.epoch, at_top, look, f"_{scheme} diverged, no value", ax.get_xaxis_transform())


def frame_values(axes: list[Axes], table: pd.DataFrame, quantity: str) -> None:
    """Limits of the value axis: errors from 0 unless all are high, losses on a log axis where they span decades."""
    values = table[quantity].dropna()
    errors = pd.concat([values, table.chance.dropna()])
    for ax in axes:
        if quantity != "train_loss":
            percent_axis(ax, float(errors.min()), float(errors.max()))
        elif values.min() > 0 and values.max() / values.min() > 100:
            ax.set_yscale("log")
