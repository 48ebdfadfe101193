"""Convergence: an error or the loss against the epoch, one panel per depth, one line per scheme."""

import math
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from initlab.errors import UserError
from initlab.paper.curves import PaperFigure
from initlab.plots.panels import DEPTH, SCHEME, SEED, Shown, rows_of, setting_fields, shown_trials, states, with_panels
from initlab.plots.paper import draw_paper, epoch_name, paper_panels, paper_points, paper_title
from initlab.plots.style import (
    BAND,
    Look,
    Target,
    add_legend,
    canvas,
    cross_handle,
    crosses,
    finish,
    level_line,
    looks,
    percent_axis,
    scheme_handle,
    seeds_note,
    styled,
)
from initlab.verdict.judge import epoch_means

Quantity = Literal["val_error", "train_error", "train_loss"]
NAMES = {
    "val_error": "validation top-1 error (%)",
    "train_error": "training top-1 error (%)",
    "train_loss": "training loss (nats per image)",
}


def convergence_table(results: Shown, quantity: Quantity = "val_error") -> pd.DataFrame:
    """One row per point of a curve: panel, its fields, init.scheme, seed, trial, epoch and `quantity`.

    `mean`, `low` and `high` are over the line's `seeds` at that epoch; NaN where a seed has no value there (it
    diverged, or has not come so far), for a mean over those left would tell of survivors. `diverged` marks the last
    point of a diverged trial; its value is NaN where the trial has no finite one. Training quantities are means over
    an epoch.
    `chance` and `threshold` are the levels drawn, NaN where there are none; `train_examples` are images an epoch.

    Raises:
        UserError: an unknown quantity, no point to draw yet, or too many panels.
    """
    if quantity not in NAMES:
        raise UserError(f"convergence: unknown quantity (got {quantity!r}); allowed: {', '.join(NAMES)}")
    trials, fields = shown_trials(results)
    points = curve_points(rows_of(results, trials, "scalars"), trials, quantity)
    if points.empty or points[quantity].isna().all():
        raise UserError(f"plot: no {quantity} to draw yet (got {states(trials)}); run the study until it has validated")
    trials = trials[trials.trial.isin(points.trial)]
    settings = [DEPTH, *setting_fields(trials, fields)]
    trials = with_panels("convergence", trials, fields, [DEPTH])
    kept = ["panel", *settings, SCHEME, SEED, "trial", "chance", "threshold", "train_examples"]
    table = trials[kept].merge(points, on="trial", how="inner", sort=False)
    line = ["panel", SCHEME]
    at = table.groupby([*line, "epoch"], sort=False)[quantity]
    size = table.groupby(line, sort=False).trial.transform("nunique")
    complete = at.transform("count") == size
    summary = {"mean": at.transform("mean"), "low": at.transform("min"), "high": at.transform("max")}
    table = table.assign(**{name: values.where(complete) for name, values in summary.items()}, seeds=size)
    return table[[*kept[:-3], "epoch", quantity, "mean", "low", "high", "seeds", "diverged", *kept[-3:]]]


def curve_points(scalars: pd.DataFrame, trials: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """trial, epoch, value and `diverged` of each trial's finite points; a diverged trial without any has one of NaN."""
    diverged = set(trials.trial[trials.verdict == "diverged"])
    parts = []
    for trial, rows in scalars.groupby("trial", sort=False):
        curve = rows if quantity == "val_error" else training_means(rows)
        curve = curve.loc[np.isfinite(curve[quantity].to_numpy(dtype=float)), ["epoch", quantity]]
        if curve.empty and trial in diverged:
            curve = pd.DataFrame({"epoch": [float(rows.epoch.max())], quantity: [math.nan]})
        last = np.arange(len(curve)) == len(curve) - 1
        parts.append(curve.assign(trial=trial, diverged=last & (trial in diverged)))
    columns = ["epoch", quantity, "trial", "diverged"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def training_means(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean training loss and error per epoch, at the epoch's end; a non-finite loss makes its epoch's mean one."""
    trained = rows[rows.step > 0]
    if trained.empty:
        return pd.DataFrame({"epoch": [], "train_loss": [], "train_error": []})
    per_epoch = max(1, round(float((trained.step / trained.epoch).iloc[-1])))
    means = epoch_means(rows, per_epoch)
    return means.assign(epoch=means.epoch.clip(upper=float(trained.epoch.max())))


def convergence(results: Shown, ax: Target = None, *, quantity: Quantity = "val_error", paper: bool = False) -> Figure:
    """Draw `convergence_table`: the mean over seeds, each seed as a thin curve, the range over seeds as a band.

    Args:
        results: one Results, or a sequence whose trials are shown together.
        ax: one Axes, or as many as there are panels; None makes a figure.
        quantity: `val_error`, `train_error` or `train_loss`.
        paper: beside each panel of 22 or 30 layers the paper's figure 2 or 3 as a panel of its own, with its own axes;
            `ax` then holds one more Axes for each of them. Ours say how many of its images an epoch has.

    Raises:
        UserError: nothing to draw yet, another number of axes than panels, or no curve of the paper for any panel.
    """
    table = convergence_table(results, quantity)
    beside = paper_panels(table, quantity) if paper else {}
    panels: list[tuple[str, PaperFigure | None]] = []  # ours, each followed by the paper's where it has one
    for panel in dict.fromkeys(table.panel):
        panels += [(panel, None), *([(paper_title(beside[panel]), beside[panel])] if panel in beside else [])]
    styles = looks(table[SCHEME])
    with styled():
        columns = 2 if paper or len(panels) in (2, 4) else 3
        titles = [title for title, _ in panels]
        drawn = canvas("convergence", ax, titles, columns, height=2.35, sharey=not paper)
        for place, ((panel, figure), axes) in enumerate(zip(panels, drawn.axes, strict=True)):
            if figure:
                draw_paper(axes, figure)
                continue
            part = table[table.panel == panel]
            for order, (scheme, look) in enumerate(styles.items()):
                draw_scheme(axes, part[part[SCHEME] == scheme], quantity, look, order)
            finish(
                axes,
                panel,
                epoch_name(part) if paper else "epoch",
                NAMES[quantity] if place % drawn.columns == 0 else None,
            )
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            if quantity != "train_loss":
                draw_levels(axes, part, quantity, labelled=paper or axes in drawn.row_ends)
        ours = [axes for (_, figure), axes in zip(panels, drawn.axes, strict=True) if not figure]
        frame_values(ours, table, quantity)
        handles = [scheme_handle(scheme, look) for scheme, look in styles.items()]
        handles += [cross_handle("diverged (the mean ends)")] if table.diverged.any() else []
        add_legend(drawn, handles, seeds_note(table.seeds))
    return drawn.figure


def beside_paper(results: Shown) -> Figure:
    """`convergence` with the paper's panels beside ours."""
    return convergence(results, paper=True)


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
        thin: dict[str, Any] = {"color": look.color, "linewidth": 0.6, "alpha": opacity}
        for seed, curve in points.groupby(SEED, sort=False):
            ax.plot(curve.epoch, curve[quantity], label=f"_{scheme} seed {seed}", **thin)
        ax.fill_between(mean.epoch, mean.low, mean.high, color=look.color, alpha=BAND, linewidth=0)
    spacing = max(1, math.ceil(len(mean) / 8))
    ax.plot(
        mean.epoch,
        mean["mean"],
        color=look.color,
        linestyle=look.line,
        marker=look.marker,
        label=scheme,
        markevery=(order * spacing // 3 % spacing, spacing),
        zorder=3 - order / 10,
    )
    ends = points[points.diverged]
    finite = ends.dropna(subset=quantity)
    crosses(ax, finite.epoch, finite[quantity], look, f"_{scheme} diverged", ax.transData)
    lost = ends[ends[quantity].isna()]
    crosses(ax, lost.epoch, [0.97] * len(lost), look, f"_{scheme} diverged, no value", ax.get_xaxis_transform())


def draw_levels(ax: Axes, part: pd.DataFrame, quantity: str, labelled: bool) -> None:
    """Chance, and for the validation error the threshold, where the table has them."""
    for chance in part.chance.dropna().unique():
        level_line(ax, chance, "chance", labelled)
    if quantity == "val_error":
        for threshold in part.threshold.dropna().unique():
            level_line(ax, threshold, "threshold", labelled)


def frame_values(axes: list[Axes], table: pd.DataFrame, quantity: str) -> None:
    """Limits of the value axis: errors from 0 unless all are high, losses on a log axis where they span decades."""
    values = table[quantity].dropna()
    errors = pd.concat([values, table.chance.dropna()])
    for ax in axes:
        if quantity != "train_loss":
            percent_axis(ax, float(errors.min()), float(errors.max()))
        elif values.min() > 0 and values.max() / values.min() > 100:
            ax.set_yscale("log")
