"""Survival: the share of runs that are still above the threshold against the epoch, with its interval, a line per arm.

A run that never gets there is censored at the end of its budget, not dropped (Kaplan and Meier 1958).
"""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from initlab.analysis.arms import timed_trials
from initlab.analysis.panels import DEPTH, SCHEME, NotStudied, Shown, error_name, states, with_panels
from initlab.analysis.survival import kaplan_meier
from initlab.plots.legend import add_legend, scheme_handles
from initlab.plots.style import BAND, Look, Target, Width, canvas, finish, looks


def survival_table(results: Shown) -> pd.DataFrame:
    """One row per step of a curve: panel, its fields, init.scheme, threshold, budget (epochs), seeds, and what
    `kaplan_meier` has.

    `survival` is the share of the runs that are above the threshold after `epoch`, `low` and `high` its pointwise 95 %
    interval; `censored` counts the runs that were last seen there without having reached it. Unfinished trials are left
    out.

    Raises:
        UserError: no finished trial, or too many panels.
    """
    trials, fields = timed_trials(results)
    finished = trials[trials.verdict.notna()]
    if finished.empty:
        raise NotStudied(f"plot: no finished trial for the survival figure (got {states(trials)}); run the study first")
    finished, settings = with_panels("survival", finished, fields, [DEPTH])
    line, curves = ["panel", *settings, SCHEME], []
    keys: tuple[Any, ...]
    for keys, arm in finished.groupby(line, sort=False, dropna=False):
        steps = kaplan_meier(arm.epoch.to_numpy(float), arm.reached.to_numpy(bool))
        left = steps.at_risk.shift(-1, fill_value=0)
        steps = steps.assign(censored=steps.at_risk - steps.reached - left)
        facts: dict[str, Any] = dict(zip(line, keys, strict=True))
        facts |= {"threshold": float(arm.threshold.iloc[0]), "budget": float(arm.budget.max()), "seeds": len(arm)}
        curves.append(steps.assign(**facts))
    table = pd.concat(curves, ignore_index=True)
    return table[[*facts, *(column for column in table if column not in facts)]]


def survival(results: Shown, ax: Target = None, *, width: Width | None = None) -> Figure:
    """Draw `survival_table`: a panel per depth and setting, a stepped line per scheme, its interval as a band.

    A tick across a line is where runs were last seen above the threshold. `ax` is one Axes per panel; None makes a
    figure.

    Raises:
        UserError: nothing to draw, another number of axes, or an unknown width.
    """
    table = survival_table(results)
    panels = list(dict.fromkeys(table.panel))
    styles = looks(table[SCHEME])
    with canvas("survival", ax, panels, 2 if len(panels) in (2, 4) else 3, 2.2, sharey=True, width=width) as grid:
        for panel, axes in zip(panels, grid.axes, strict=True):
            part = table[table.panel == panel]
            for order, (scheme, look) in enumerate(styles.items()):
                draw_curve(axes, part[part[SCHEME] == scheme], look, 2.6 - 0.5 * min(order, 3))
            finish(axes, panel, "epoch", "runs still above\nthe threshold (%)" if axes in grid.row_starts else None)
            axes.set_xlim(0, part.budget.max() * 1.02)
            axes.set_ylim(-0.03, 1.03)
            axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}"))
        handles = scheme_handles(styles, results)
        if table.censored.any():
            handles.append(Line2D([], [], color="#222222", linestyle="none", marker="|", label="last seen above it"))
        seeds = " to ".join(str(count) for count in sorted({table.seeds.min(), table.seeds.max()}))
        levels = " to ".join(f"{100 * level:.3g}" for level in sorted({table.threshold.min(), table.threshold.max()}))
        error = error_name(results).removesuffix(" (%)")
        add_legend(grid, handles, f"threshold: {levels} % {error}; {seeds} seeds; band: 95 % interval")
    return grid.figure


def draw_curve(ax: Axes, steps: pd.DataFrame, look: Look, thickness: float) -> None:
    """One arm; the first ones are thicker, so that arms on the same line are all seen."""
    if steps.empty:
        return
    scheme = steps[SCHEME].iloc[0]
    ax.fill_between(steps.epoch, steps.low, steps.high, step="post", color=look.color, alpha=BAND, linewidth=0)
    happened = list(steps.reached > 0)
    style = {**look.style, "linewidth": thickness, "markersize": 3.5, "markevery": happened}
    ax.step(steps.epoch, steps.survival, where="post", **style, label=scheme)
    if (censored := steps[steps.censored > 0]).empty:
        return
    mark: dict[str, Any] = {"color": look.color, "linestyle": "none", "marker": "|", "markersize": 7, "clip_on": False}
    ax.plot(censored.epoch, censored.survival, **mark, label=f"_{scheme} censored")
