"""Phase diagram: the verdict over depth and standard deviation, a panel per learning rate, with theory's lines.

Two lines, both from step 0. `critical`: fan std^2 (1 + a^2) / 2 = 1, where the signal neither grows nor fades (He et
al. 2015, eq. 10 and 14). `decay`: where the loss gradient of a weight is as small as its weight decay. By homogeneity
every weight gradient goes with (std / critical)^(depth - 1). So with G what it would be at the critical std (geometric
mean over the panel's probes, scaled back) the line solves weight_decay * std = G (std / critical)^(depth - 1).
"""

import math
from statistics import median_low
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from initlab.analysis.panels import ALL, DEPTH, NotStudied, Shown, as_list, rows_of, shown_trials, states, with_panels
from initlab.errors import UserError
from initlab.nets.architecture import Activation, Conv, Linear
from initlab.plan.dimensions import describe
from initlab.plots.legend import add_legend
from initlab.plots.style import Target, canvas, finish
from initlab.study.spec import TrialSpec
from initlab.user_code import is_code

STD = "init.std"
# They differ in lightness too, and one is hatched, for a grey print.
COLORS = {"converged": "#1F7A5C", "slow": "#8CCFAE", "stalled": "#D9DCE1", "diverged": "#D0624F"}
FILLS: dict[str, dict[str, Any]] = {name: {"facecolor": color, "edgecolor": "white"} for name, color in COLORS.items()}
FILLS["diverged"]["hatch"] = "//////"
LINES: dict[str, tuple[Any, str]] = {
    "critical": ("-", "critical std (He et al., eq. 10)"),
    "decay": ("--", "gradient as small as weight decay"),
}


def phase_table(results: Shown) -> pd.DataFrame:
    """One row per (panel, depth, std) of the finished trials: panel, its fields, net.depth, init.std, how many `seeds`,
    and the share of them with each verdict; `critical` and `decay` are the heights of theory's lines at this depth.

    `critical` is NaN for a net of your own, `decay` also without weight decay or probes.

    Raises:
        UserError: no finished trial, fewer than two standard deviations, or too many panels.
    """
    trials, fields = shown_trials(results)
    finished = trials[trials.verdict.notna()]
    if finished.empty or STD not in fields:
        error, got = (UserError, states(trials)) if STD in fields else (NotStudied, "one std")
        raise error(f"plot: no phase figure (got {got}); run a study that varies {STD}, as sweeps/phase.yaml")
    finished, settings = with_panels("phase", finished, [field for field in fields if field != STD], [])
    specs = {trial.id: trial.spec for one in as_list(results) for trial in one.stored}
    finished = finished.assign(
        critical=[critical_std(specs[trial]) for trial in finished.trial],
        weight_decay=[specs[trial].train.weight_decay for trial in finished.trial],
    )
    finished = with_decay(finished, rows_of(results, finished, "signals"))
    shares = {name: (finished.verdict == name).astype(float) for name in COLORS}
    cell = ["panel", *settings, DEPTH, STD]
    grouped = finished.assign(**shares, seeds=1).groupby(cell, sort=False)
    table = grouped.agg({"seeds": "sum", **dict.fromkeys(COLORS, "mean"), "critical": "mean", "decay": "mean"})
    return table.reset_index().sort_values([*settings, DEPTH, STD], kind="stable", ignore_index=True)


def critical_std(spec: TrialSpec) -> float:
    """The std that keeps the signal's variance in most hidden layers: sqrt(2 / ((1 + a^2) fan_in)).

    `fan_in` is the median of the layers after the first; 144 (16 channels, 3x3) gives 0.1179. NaN for a user's net.
    """
    if is_code(spec.net.name):
        return math.nan
    # The size counts in the fan of the first linear layer alone.
    size = spec.data.image_size or 2**10
    layers = describe(spec, 10, (1, size, size))
    fans = [layer.in_channels * layer.kernel**2 for layer in layers if isinstance(layer, Conv)]
    fans += [layer.in_features for layer in layers if isinstance(layer, Linear)]
    slope = next(layer.negative_slope for layer in layers if isinstance(layer, Activation))
    return math.sqrt(2 / ((1 + slope**2) * median_low(fans[1:])))


def with_decay(trials: pd.DataFrame, signals: pd.DataFrame) -> pd.DataFrame:
    """The trials with `decay`: the std at which a weight's gradient at step 0 equals its decay; see the module."""
    start = signals[signals.step == 0]
    gradient = trials.trial.map(start.groupby("trial").weight_grad_rms.median()).astype(float)
    growth = (trials[DEPTH] - 1) * np.log(trials[STD] / trials.critical)
    with np.errstate(divide="ignore"):
        scaled_back = (np.log(gradient) - growth).replace([-np.inf, np.inf], np.nan)
        at_critical = scaled_back.groupby(trials.panel).transform("mean")
        decay = np.log(trials.weight_decay.astype(float)) - at_critical
    line = np.exp((decay + (trials[DEPTH] - 1) * np.log(trials.critical)) / (trials[DEPTH] - 2))
    return trials.assign(decay=line.where(np.isfinite(decay)))


def phase(results: Shown, ax: Target = None) -> Figure:
    """Draw `phase_table`: a cell per depth and std, split by the share of seeds with each verdict.

    `ax` is one Axes per panel; None makes a figure.

    Raises:
        UserError: nothing to draw, or another number of axes than panels.
    """
    table = phase_table(results)
    panels = list(dict.fromkeys(table.panel))
    with canvas("phase", ax, panels, 2, height=2.5, sharey=True) as grid:
        for panel, axes in zip(panels, grid.axes, strict=True):
            part = table[table.panel == panel]
            draw_cells(axes, part)
            for name, (style, _) in LINES.items():
                line = part.drop_duplicates(DEPTH).dropna(subset=name)
                axes.plot(line[DEPTH], line[name], color="black", linestyle=style, linewidth=1.3, label=f"_{name}")
            ylabel = "std of the weights" if axes in grid.row_starts else None
            finish(axes, "" if panel == ALL else panel, "depth (weight layers)", ylabel)
            axes.grid(False)
        seeds = table.seeds.max()
        note = "1 seed per cell" if seeds == 1 else f"{seeds} seeds per cell; one with several verdicts is split"
        # Verdicts go down a column, from the best to the worst.
        handles: list[Patch | Line2D] = [Patch(**fill, label=name) for name, fill in FILLS.items() if table[name].any()]
        for name, (style, label) in LINES.items():
            if table[name].notna().any():
                handles.append(Line2D([], [], color="black", linestyle=style, linewidth=1.3, label=label))
        add_legend(grid, handles, note, by_rows=False)
    return grid.figure


def draw_cells(ax: Axes, part: pd.DataFrame) -> None:
    """The cells of a panel, their borders half way to the next depth and std (on a log axis)."""
    depths, stds = np.sort(part[DEPTH].unique()).astype(float), np.sort(part[STD].unique())
    lefts, bottoms = edges(depths), np.exp(edges(np.log(stds)))
    for row in part.to_dict("records"):
        i, j = np.searchsorted(depths, row[DEPTH]), np.searchsorted(stds, row[STD])
        x, width, height = lefts[i], lefts[i + 1] - lefts[i], bottoms[j + 1] - bottoms[j]
        for name, fill in FILLS.items():
            if row[name]:
                ax.add_patch(Rectangle((x, bottoms[j]), row[name] * width, height, **fill, linewidth=0.4))
                x += row[name] * width
    ax.set_yscale("log")
    ax.set_xlim(lefts[0], lefts[-1])
    ax.set_ylim(bottoms[0], bottoms[-1])
    ax.set_xticks(depths, [f"{depth:g}" for depth in depths])
    ax.set_yticks(stds, [f"{std:.3g}" for std in stds])
    ax.yaxis.set_minor_locator(NullLocator())


def edges(centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Borders between centres, and as far outside: 1, 2, 4 gives 0.5, 1.5, 3, 5."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    between = (centres[1:] + centres[:-1]) / 2
    return np.array([2 * centres[0] - between[0], *between, 2 * centres[-1] - between[-1]])
