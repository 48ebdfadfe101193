"""What figures of variances over layers share: the rows that they draw, their panels, lines, bands and axes."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, NullLocator

from initlab.analysis.panels import SCHEME
from initlab.plots.style import Canvas, Look, Target, Width, canvas, draw_band, frame_numbers, margin_text

NAMES = {"forward": "variance of pre-activation,\nforward_var", "backward": "variance of its gradient,\nbackward_var"}
# Height of the row of zeros, a fraction of the panel.
ZERO_ROW = 0.045


def variances(rows: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The finite variances of rows of moments, one row per direction, with these columns beside them."""
    directions = rows.rename(columns={f"{direction}_var": direction for direction in NAMES})
    points = directions.melt(id_vars=columns, value_vars=[*NAMES], var_name="direction", value_name="variance")
    finite: pd.DataFrame = points[np.isfinite(points.variance.to_numpy(dtype=float))]
    return finite


def over_seeds(table: pd.DataFrame, line: list[str]) -> pd.DataFrame:
    """Geometric mean and range over the seeds of each line and layer; zeros are counted, for they have no logarithm."""
    positive = table.variance.where(table.variance > 0)
    table = table.assign(log=np.log(positive), positive=positive, zero=table.variance == 0)
    over_seeds = {"epoch": ("epoch", "mean"), "mean": ("log", "mean"), "low": ("positive", "min")}
    over_seeds |= {"high": ("positive", "max"), "seeds": ("trial", "nunique"), "zeros": ("zero", "sum")}
    summary = table.groupby(line, sort=False, dropna=False).agg(**over_seeds).reset_index()
    # Where all seeds agree, rounding of exp(log v) would leave the range by a last digit.
    summary["mean"] = np.exp(summary["mean"]).clip(summary.low, summary.high)
    return summary


@contextmanager
def direction_panels(
    figure: str, ax: Target, table: pd.DataFrame, width: Width | None
) -> Iterator[tuple[Canvas, list[tuple[Axes, str, str, pd.DataFrame]]]]:
    """A row of axes per panel, forward left and backward right; and each with its panel, direction and points."""
    parts = [
        (panel, direction, table[(table.panel == panel) & (table.direction == direction)])
        for panel in dict.fromkeys(table.panel)
        for direction in NAMES
    ]
    parts = [part for part in parts if len(part[2])]
    titles = [f"{panel}, {direction}" for panel, direction, _ in parts]
    with canvas(figure, ax, titles, table.direction.nunique(), height=2.2, width=width) as grid:
        yield grid, [(axes, *part) for axes, part in zip(grid.axes, parts, strict=True)]


def moment_style(place: int, count: int) -> tuple[float, bool]:
    """(opacity, filled markers): the first moment is full and filled, later ones are paler and hollow."""
    return (1.0, True) if place == 0 else (0.8 - 0.45 * (place - 1) / max(1, count - 2), False)


def draw_bands(ax: Axes, bands: pd.DataFrame, styles: dict[str, Look]) -> None:
    """The theory's median and band of each scheme, in its colour."""
    for scheme, band in bands.groupby(SCHEME, sort=False):
        number, color = band.layer + 1, styles[str(scheme)].color
        draw_band(ax, number, band.low, band.high, color)
        ax.plot(number, band["median"], color=color, linestyle="--", linewidth=1.0, zorder=2, label=f"_{scheme} theory")


def draw_line(ax: Axes, points: pd.DataFrame, look: Look, place: int, count: int, seeds: bool = True) -> None:
    """One scheme at one moment: the line over layers, the range over seeds, and a marker where it is 0."""
    scheme, moment = points[SCHEME].iloc[0], points.moment.iloc[0]
    opacity, filled = moment_style(place, count)
    points = points.sort_values("layer")
    number = points.layer + 1
    if seeds and (points.seeds > 1).any():
        draw_band(ax, number, points.low, points.high, look.color, opacity)
    spacing = math.ceil(len(points) / 12)
    style = {**look.style, "markersize": 3.2, "markerfacecolor": look.color if filled else "white", "alpha": opacity}
    weight = {"linewidth": 1.4, "zorder": 3} if filled else {"linewidth": 0.9, "zorder": 2, "linestyle": "-"}
    markers = (place * spacing // 2 % spacing, spacing)
    ax.plot(number, points["mean"], **style | weight, markevery=markers, label=f"{scheme} {moment}")
    draw_zeros(ax, points.layer[points.zeros > 0], **style, label=f"_{scheme} {moment} zero")


def draw_zeros(ax: Axes, layers: pd.Series, **style: Any) -> None:
    """A marker for each layer whose variance is 0, in the row at the bottom; nothing where there is none."""
    if len(layers):
        style = {**style, "linestyle": "none", "transform": ax.get_xaxis_transform(), "clip_on": False}
        ax.plot(layers + 1, [ZERO_ROW] * len(layers), **style)


def frame_layers(ax: Axes, part: pd.DataFrame) -> None:
    """A log axis with few decades named, whole layers, and the row of zeros where there is one."""
    ax.set_yscale("log")
    low, high = part.low.min(), part.high.max()
    has_zeros = bool((part.zeros > 0).any())
    if math.isnan(low):
        low, high = 1.0, 10.0
    bottom, top = math.log10(low), math.log10(high)
    decades = max(2.0, top - bottom)
    lowest, top = bottom - decades * 0.06, top + decades * 0.06
    bottom = bottom - decades * 0.2 if has_zeros else lowest
    # Float64 ends at 1e-308, and a limit of 0 has no place on a log axis.
    ax.set_ylim(10 ** max(bottom, -307.0), 10 ** min(top, 308.0))
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if decades / step <= 7)
    ax.yaxis.set_major_locator(FixedLocator([10.0**e for e in range(-300, 301, step) if lowest <= e <= top]))
    ax.yaxis.set_minor_locator(NullLocator())
    frame_numbers(ax, int(part.layer.max()) + 1)
    if has_zeros:
        ax.add_patch(Rectangle((0, 0), 1, 2 * ZERO_ROW, transform=ax.transAxes, color="#EFEFEF", zorder=0, linewidth=0))
        margin_text(ax, "0", ZERO_ROW, "axes fraction")
