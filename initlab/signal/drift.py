"""Drift: where between two layers a signal changes by more than chance and harmless constants explain.

A change is the logarithm of a ratio of second moments. What a scheme keeps depends on how it counts: He's fan_in keeps
the mean square of the responses forward, and backward the sum of squares over an example; fan_out the other way round;
a max-pool keeps the gradient's sum, an average over positions neither. So a signal is looked at in several
conventions, and a change is the least of them, 0 where they disagree on its sign: unequal fans and pooling cost
nothing. What remains is allowed up to `HARMLESS` and `SIGMAS` standard deviations of chance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from initlab.signal.theory.width import relu_layer

# A net trains to a depth of about 6 depth scales (Schoenholz et al. 2017, sec. 5), so a drift of e^6 = 403 in the
# second moment is left: it covers zero padding too (e^-3 over 27 layers on 7x7 maps).
HARMLESS = 6.0
# On top of HARMLESS: together 5.8 standard deviations at width 64 and depth 30, 3.8 at width 16.
SIGMAS = 2.0
# Rows on either side of a moving median, on a path of 32 or more, and half as many from 16 on: the layers of a block
# may differ there.
SMOOTHING = 2

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Drift:
    """The change of one signal that is furthest from what is allowed, along one path."""

    direction: str  # forward, from the input on, or backward, from the output on
    rows: tuple[int, ...]  # of the table, those on the path from the first to the last
    measured: float  # ln of the ratio of mean squares, in this direction
    change: float  # the part of it that is judged: the least of all conventions, less what is typical of these widths
    factor: float  # of the second moment per layer, in this direction: the median over pairs of layers
    allowed: float  # |ln| that is still allowed between these layers
    chance: float  # standard deviation of the ln between these layers over draws of a healthy net

    @property
    def first(self) -> int:
        """The row where the change begins, nearest to the input."""
        return self.rows[0]

    @property
    def last(self) -> int:
        """The row where it ends."""
        return self.rows[-1]

    @property
    def excess(self) -> float:
        """The change over what is allowed: above 1 it is none of chance's."""
        return abs(self.change) / self.allowed

    @property
    def healthy(self) -> bool:
        """Whether the change stays within what is allowed."""
        return abs(self.change) <= self.allowed

    @property
    def steady(self) -> bool:
        """Whether the change goes on from layer to layer rather than in a few steps."""
        steps = len(self.rows) - 1
        share = math.log(self.factor) * steps / self.change if self.change else 1.0
        return steps > 1 and share > 0.5


def second_moments(table: pd.DataFrame, direction: str) -> Array:
    """E[y^2] of each layer, or of its gradient: variance plus squared mean."""
    mean, variance = (table[f"{direction}_{what}"].to_numpy(dtype=float) for what in ("mean", "var"))
    with np.errstate(over="ignore"):
        return np.asarray(variance + mean**2)


def drift(table: pd.DataFrame, direction: str, path: Sequence[int] | None = None) -> Drift | None:
    """The change in this direction that is furthest from what is allowed, healthy or not.

    Args:
        path: rows of the table, in order; None is all but the last one, which may be of small or zero weights: it gets
            its own gradient in full and opens by itself.

    None where fewer than two layers have a second moment above 0.
    """
    moments = second_moments(table, direction)
    rows = np.array(range(len(table) - 1) if path is None else path, dtype=int)
    rows = rows[np.isfinite(moments[rows]) & (moments[rows] > 0)]
    if len(rows) < 2:
        return None
    sign = 1 if direction == "forward" else -1
    level = np.log(moments[rows])
    curves = np.array([smooth(curve) for curve in conventions(table.iloc[rows], level, direction)])
    steps = curves[:, None, :] - curves[:, :, None]  # [convention, from, to]
    lowest, highest = steps.min(axis=0), steps.max(axis=0)
    changes = sign * np.where(lowest > 0, lowest, np.where(highest < 0, highest, 0.0))
    typical, variance = chance(table.iloc[rows], direction)
    # A typical net lies below the mean of all, e^-1.2 at width 64 and depth 30, so a fall by that much is none.
    changes = np.where(changes < 0, np.minimum(changes - (typical[None, :] - typical[:, None]), 0.0), changes)
    spreads = np.sqrt(np.abs(variance[None, :] - variance[:, None]))
    limits = HARMLESS + SIGMAS * spreads
    excess = np.where(np.triu(np.ones_like(spreads), 1) > 0, np.abs(changes) - limits, -np.inf)
    first, last = divmod(int(np.argmax(excess)), len(rows))
    if excess[first, last] <= 0:
        first, last = 0, len(rows) - 1
    change, allowed, deviation = (float(matrix[first, last]) for matrix in (changes, limits, spreads))
    measured, factor = float(sign * (level[last] - level[first])), math.exp(sign * slope(level[first : last + 1]))
    return Drift(direction, tuple(rows[first : last + 1].tolist()), measured, change, factor, allowed, deviation)


def conventions(rows: pd.DataFrame, level: Array, direction: str) -> list[Array]:
    """ln of the signal's size in each of the conventions, one of which every healthy net keeps."""
    outputs, width = (rows[column].to_numpy(dtype=float) for column in ("outputs", "width"))
    if direction == "forward":
        return [level, level + np.log(width)]
    positions = np.log(np.maximum(outputs / width, 1.0))
    total = level + positions + np.log(width)
    # Before a global average every position has the same part of the gradient, and their sum is constant.
    averaged = total.copy()
    (spatial,) = np.nonzero(positions > 0)
    if len(spatial):
        averaged[: spatial[-1] + 1] += positions[spatial[-1]]
    return [level, total, averaged]


def chance(rows: pd.DataFrame, direction: str) -> tuple[Array, Array]:
    """Typical ln of a healthy net's signal, which falls in both directions, and its variance, by layer.

    The variance is that of the theory's band where the table has one, else that of a ReLU net of these widths.
    """
    layers = [relu_layer(int(width)) for width in rows.width]
    typical = np.cumsum([layer.mean for layer in layers])
    bounds = [f"{direction}_low", f"{direction}_high"]
    if set(bounds) <= set(rows.columns):
        low, high = (rows[bound].to_numpy(dtype=float) for bound in bounds)
        if np.isfinite(low).all() and np.isfinite(high).all() and (low > 0).all():
            return typical, (np.log(high / low) / (2 * 1.96)) ** 2
    return typical, np.cumsum([layer.variance for layer in layers])


def smooth(curve: Array) -> Array:
    """Moving median over the rows nearby, so that a layer that stands alone does not count; none in a short net."""
    reach = min(SMOOTHING, len(curve) // 16)
    return pd.Series(curve).rolling(2 * reach + 1, center=True, min_periods=1).median().to_numpy(dtype=float)


def slope(curve: Array) -> float:
    """Median slope over all pairs of points (Theil 1950; Sen 1968): a few steps and outliers don't move it."""
    i, j = np.triu_indices(len(curve), 1)
    return float(np.median((curve[j] - curve[i]) / (j - i)))
