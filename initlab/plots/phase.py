"""Phase diagram: the verdict over two fields of a grid, as depth and standard deviation, with theory's lines.

Two lines, both from step 0. `critical`, wherever an axis is the std: fan std^2 (1 + a^2) / 2 = 1, where the signal
neither grows nor fades (He et al. 2015, eq. 10 and 14). `decay`, over depth and std: where the loss gradient of a
weight is as small as its weight decay. By homogeneity every weight gradient goes with (std / critical)^(depth - 1). So
with G what it would be at the critical std (geometric mean over the panel's probes, scaled back) the line solves
weight_decay * std = G (std / critical)^(depth - 1).
"""

import math
from dataclasses import dataclass
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
from pandas.api.types import is_bool_dtype, is_integer_dtype, is_numeric_dtype

from initlab.analysis.panels import ALL, DEPTH, NotStudied, Shown, rows_of, shown_trials, states, with_panels
from initlab.errors import UserError
from initlab.nets.architecture import Activation, Conv, Linear
from initlab.plan.dimensions import describe
from initlab.plots.legend import add_legend
from initlab.plots.style import Target, Width, canvas, finish
from initlab.study.paths import TRIAL_PATHS
from initlab.study.spec import TrialSpec
from initlab.study.study import no_such_path
from initlab.user_code import is_code

STD = "init.std"
NAMES = {DEPTH: "depth (weight layers)", STD: "std of the weights", "train.lr": "learning rate"}
# They differ in lightness too, and one is hatched, for a grey print.
COLORS = {"converged": "#1F7A5C", "slow": "#8CCFAE", "stalled": "#D9DCE1", "diverged": "#D0624F"}
FILLS: dict[str, dict[str, Any]] = {name: {"facecolor": color, "edgecolor": "white"} for name, color in COLORS.items()}
FILLS["diverged"]["hatch"] = "//////"
LINES: dict[str, tuple[Any, str]] = {
    "critical": ("-", "critical std (He et al., eq. 10)"),
    "decay": ("--", "gradient as small as weight decay"),
}


def phase_table(results: Shown, x: str = DEPTH, y: str = STD) -> pd.DataFrame:
    """One row per cell of the finished trials: panel, its fields, the fields `x` and `y`, how many `seeds`, and the
    share of them with each verdict; `critical` and `decay` are the stds of theory's lines there.

    `critical` is NaN for a net of your own and where no axis is init.std, `decay` also without weight decay or probes
    and over another axis than net.depth. Where several fields vary beside x and y, each of their settings is a panel.

    Raises:
        UserError: no finished trial, an unknown field or one that does not vary, or too many panels.
    """
    trials, fields = shown_trials(results)
    varying = [path for path in fields if trials[path].nunique(dropna=False) > 1]
    for path in (x, y):
        if path not in TRIAL_PATHS:
            raise UserError(f"phase: {no_such_path(path, TRIAL_PATHS)}")
        if path != DEPTH and path not in varying:
            hint = (
                f"run a study that varies it, or give x= and y= of those that vary here: {', '.join(varying) or 'none'}"
            )
            raise NotStudied(f"plot: no phase figure (got one {path}); {hint}")
    if x == y:
        raise UserError(f"phase: x and y are the same field (got {x}); give two")
    finished = trials[trials.verdict.notna()]
    if finished.empty:
        raise UserError(f"plot: no phase figure (got {states(trials)}); run the study until a trial has finished")
    finished, settings = with_panels("phase", finished, fields, [], shown=(x, y))
    finished = finished.assign(critical=math.nan, decay=math.nan)
    if STD in (x, y):
        finished["critical"] = finished.spec.map(critical_std)
    if {x, y} == {DEPTH, STD}:
        finished["weight_decay"] = [spec.train.weight_decay for spec in finished.spec]
        finished = with_decay(finished, rows_of(results, finished, "signals"))
    shares = {name: (finished.verdict == name).astype(float) for name in COLORS}
    cell = ["panel", *settings, x, y]
    grouped = finished.assign(**shares, seeds=1).groupby(cell, sort=False, dropna=False)
    table = grouped.agg({"seeds": "sum", **dict.fromkeys(COLORS, "mean"), "critical": "mean", "decay": "mean"})
    # Numbers by size, all else in the study's order.
    return table.reset_index().sort_values(
        [*settings, x, y],
        key=lambda values: values if is_numeric_dtype(values) else pd.factorize(values)[0],
        kind="stable",
        ignore_index=True,
    )


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


def phase(results: Shown, ax: Target = None, *, x: str = DEPTH, y: str = STD, width: Width | None = None) -> Figure:
    """Draw `phase_table`: a cell per value of `x` and `y`, split by the share of seeds with each verdict.

    Args:
        ax: one Axes per panel; None makes a figure.
        x: dotted path of the field along the panel.
        y: dotted path of the field up the panel.
        width: of the figure, a paper's "column" (3.25 in) or its "text" (6.75 in).

    Raises:
        UserError: nothing to draw, another number of axes than panels, or an unknown width.
    """
    table = phase_table(results, x, y)
    panels = list(dict.fromkeys(table.panel))
    scales = Scale.of(table[x]), Scale.of(table[y])
    with canvas("phase", ax, panels, 2, height=2.5, sharey=True, width=width) as grid:
        for panel, axes in zip(panels, grid.axes, strict=True):
            part = table[table.panel == panel]
            draw_cells(axes, part, (x, y), scales)
            draw_theory(axes, part, (x, y), scales)
            ylabel = NAMES.get(y, y) if axes in grid.row_starts else None
            finish(axes, "" if panel == ALL else panel, NAMES.get(x, x), ylabel)
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


@dataclass(frozen=True)
class Scale:
    """Where the values of a field lie on an axis."""

    kind: str  # linear or log
    values: list[Any]
    centres: NDArray[np.float64]
    borders: NDArray[np.float64]

    @classmethod
    def of(cls, column: "pd.Series[Any]") -> "Scale":
        """Fractions, and integers over more than a decade, on a log axis; what is no number side by side."""
        values = list(dict.fromkeys(column))
        if not is_numeric_dtype(column) or is_bool_dtype(column):
            centres = np.arange(len(values), dtype=float)
            return cls("linear", values, centres, edges(centres))
        values.sort()
        centres = np.array(values, dtype=float)
        if centres[0] > 0 and (not is_integer_dtype(column) or centres[-1] > 10 * centres[0]):
            return cls("log", values, centres, np.exp(edges(np.log(centres))))
        return cls("linear", values, centres, edges(centres))

    def ticks(self) -> tuple[NDArray[np.float64], list[str]]:
        """A tick at each value, with its name."""
        return self.centres, [f"{value:.3g}" if isinstance(value, float) else str(value) for value in self.values]


def draw_cells(ax: Axes, part: pd.DataFrame, fields: tuple[str, str], scales: tuple[Scale, Scale]) -> None:
    """The cells of a panel, their borders half way to the next value."""
    across, up = scales
    for row in part.to_dict("records"):
        i, j = (scale.values.index(row[field]) for field, scale in zip(fields, scales, strict=True))
        # The parts of a cell are as wide as they look, on a log axis too.
        widths = np.cumsum([0.0, *(row[name] for name in FILLS)])
        left, right = across.borders[i : i + 2]
        bottom, top = up.borders[j : j + 2]
        splits = left * (right / left) ** widths if across.kind == "log" else left + (right - left) * widths
        for k, (name, fill) in enumerate(FILLS.items()):
            if row[name]:
                corner, width = (splits[k], bottom), splits[k + 1] - splits[k]
                ax.add_patch(Rectangle(corner, width, top - bottom, **fill, linewidth=0.4))
    ax.set(xscale=across.kind, yscale=up.kind, xlim=across.borders[[0, -1]], ylim=up.borders[[0, -1]])
    ax.set_xticks(*across.ticks())
    ax.set_yticks(*up.ticks())
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())


def draw_theory(ax: Axes, part: pd.DataFrame, fields: tuple[str, str], scales: tuple[Scale, Scale]) -> None:
    """Theory's stds over the other field, whichever axis is which."""
    if STD not in fields:
        return
    up = fields.index(STD)
    other, scale = fields[1 - up], scales[1 - up]
    for name, (style, _) in LINES.items():
        line = part.drop_duplicates(other).dropna(subset=name)
        along = [scale.centres[scale.values.index(value)] for value in line[other]]
        points = (along, line[name]) if up else (line[name], along)
        ax.plot(*points, color="black", linestyle=style, linewidth=1.3, label=f"_{name}")


def edges(centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Borders between centres, and as far outside: 1, 2, 4 gives 0.5, 1.5, 3, 5."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    between = (centres[1:] + centres[:-1]) / 2
    return np.array([2 * centres[0] - between[0], *between, 2 * centres[-1] - between[-1]])
