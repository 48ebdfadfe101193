"""Convergence: an error or the loss against the epoch, one panel per depth, one line per scheme."""

import math
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from initlab.errors import UserError
from initlab.paper.curves import BY_DEPTH, curve, length
from initlab.plots.panels import DEPTH, SCHEME, SEED, Shown, rows_of, setting_fields, shown_trials, states, with_panels
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
    line_handle,
    looks,
    percent_axis,
    scheme_handle,
    seeds_note,
    styled,
)
from initlab.signal.verdict import epoch_means

Quantity = Literal["val_error", "train_error", "train_loss"]
NAMES = {
    "val_error": "validation top-1 error (%)",
    "train_error": "training top-1 error (%)",
    "train_loss": "training loss (nats per image)",
}
PAPER_LINES = {"he": "-", "xavier": (0, (4, 2))}
PAPER_GREY = "#9A9A9A"


def convergence_table(results: Shown, quantity: Quantity = "val_error") -> pd.DataFrame:
    """One row per point of a curve: panel, its fields, init.scheme, seed, trial, epoch and `quantity`.

    `mean`, `low` and `high` are over the line's `seeds` at that epoch; NaN where a seed has no value there (it
    diverged, or has not come so far), for a mean over those left would tell of survivors. `diverged` marks the last
    point of a diverged trial; its value is NaN where the trial has no finite one. Training quantities are means over
    an epoch.
    `chance` and `threshold` are the levels drawn, NaN where there are none.

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
    kept = ["panel", *settings, SCHEME, SEED, "trial", "chance", "threshold"]
    table = trials[kept].merge(points, on="trial", how="inner", sort=False)
    line = ["panel", SCHEME]
    at = table.groupby([*line, "epoch"], sort=False)[quantity]
    size = table.groupby(line, sort=False).trial.transform("nunique")
    complete = at.transform("count") == size
    summary = {"mean": at.transform("mean"), "low": at.transform("min"), "high": at.transform("max")}
    table = table.assign(**{name: values.where(complete) for name, values in summary.items()}, seeds=size)
    return table[[*kept[:-2], "epoch", quantity, "mean", "low", "high", "seeds", "diverged", "chance", "threshold"]]


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
        paper: lay the curves of He et al. 2015 beside ours: figure 2 where nets have 22 layers, figure 3 where 30. The
            errors are on our axis; ImageNet's epochs, which last 800 times as long as those of digits, on one at the top.

    Raises:
        UserError: nothing to draw yet, another number of axes than panels, or no curve of the paper for any panel.
    """
    table = convergence_table(results, quantity)
    if paper:
        check_paper(table, quantity)
    panels = list(dict.fromkeys(table.panel))
    styles = looks(table[SCHEME])
    with styled():
        columns = 2 if len(panels) in (2, 4) else 3
        drawn = canvas("convergence", ax, panels, columns, height=2.35, sharey=True)
        for place, (panel, axes) in enumerate(zip(panels, drawn.axes, strict=True)):
            part = table[table.panel == panel]
            for order, (scheme, look) in enumerate(styles.items()):
                draw_scheme(axes, part[part[SCHEME] == scheme], quantity, look, order)
            finish(axes, panel, "epoch", NAMES[quantity] if place % drawn.columns == 0 else None)
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            if quantity != "train_loss":
                draw_levels(axes, part, quantity, labelled=axes in drawn.row_ends)
            if paper and part[DEPTH].iloc[0] in BY_DEPTH:
                draw_paper(axes, int(part[DEPTH].iloc[0]))
        frame_values(drawn.axes, table, quantity)
        handles = [scheme_handle(scheme, look) for scheme, look in styles.items()]
        handles += [cross_handle("diverged (the mean ends)")] if table.diverged.any() else []
        if paper:
            numbers = " and ".join(str(BY_DEPTH[d].number) for d in sorted(BY_DEPTH) if d in set(table[DEPTH]))
            name = f"He et al. 2015, Fig {numbers}, digitised (ImageNet, top axis)"
            handles += [line_handle(f"{scheme}: {name}", PAPER_GREY, line) for scheme, line in PAPER_LINES.items()]
        add_legend(drawn, handles, seeds_note(table.seeds))
    return drawn.figure


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
        mean.epoch, mean["mean"], color=look.color, linestyle=look.line, marker=look.marker, label=scheme,
        markevery=(order * spacing // 3 % spacing, spacing), zorder=3 - order / 10,
    )  # fmt: skip
    ends = points[points.diverged]
    finite = ends.dropna(subset=quantity)
    crosses(ax, finite.epoch, finite[quantity], look, f"_{scheme} diverged", ax.transData)
    lost = ends[ends[quantity].isna()]
    crosses(ax, lost.epoch, [0.97] * len(lost), look, f"_{scheme} diverged, no value", ax.get_xaxis_transform())


def check_paper(table: pd.DataFrame, quantity: str) -> None:
    """Refuse to lay the paper's curves beside what they do not fit."""
    if quantity != "val_error":
        raise UserError(f"convergence: the paper's curves are validation errors (got {quantity}); take val_error")
    if not set(table[DEPTH]) & set(BY_DEPTH):
        got = ", ".join(str(depth) for depth in sorted(set(table[DEPTH])))
        raise UserError(f"convergence: the paper has no curve for this depth (got {got}); allowed: 22, 30")


def draw_paper(ax: Axes, depth: int) -> None:
    """The paper's curves of nets of this depth, thin and grey, their epochs on an axis at the top."""
    figure = BY_DEPTH[depth]
    top = ax.twiny()
    for scheme, style in PAPER_LINES.items():
        drawn = curve(figure, scheme)
        top.plot(
            drawn.epoch, drawn.top1_error, color=PAPER_GREY, linestyle=style, linewidth=0.8, label=f"_paper {scheme}"
        )
    top.set_xlim(0, length(figure))
    top.set_xlabel(f"the paper's epoch ({figure.name})", color=PAPER_GREY, fontsize=7)
    top.tick_params(axis="x", labelsize=6, colors=PAPER_GREY, length=2)
    top.grid(False)


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
