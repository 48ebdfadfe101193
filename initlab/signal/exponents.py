"""The two exponents of a trunk: how fast its tokens drift together per block, and how fast its gradient grows.

Cowsik et al. (2024, arXiv 2403.02579) describe a deep transformer at its start by them. In a trunk of equal blocks the
distance between the tokens of a sequence, 1 - cos of the angle between two, goes with exp(angle * block): below 0
tokens drift together until all are one, above 0 they drift apart. The mean square of the gradient goes with
exp(gradient * block) from the output towards the input: above 0 it explodes, below 0 it vanishes. There they are
derived, for wide nets of many blocks; here they are measured, on the blocks that there are.
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class Exponents(NamedTuple):
    """Rates of change per block in nats: of the blocks' own rates the median, and half the range of the middle half.

    The median, since the first block often takes embeddings of another scale, and the head's norm shapes the gradient
    behind the last. NaN where nothing was measured; an `angle` of -inf where one block makes all tokens equal.
    """

    angle: float  # of 1 - cos, from the input on
    gradient: float  # of the gradient's mean square, from the output on
    blocks: int
    angle_spread: float
    gradient_spread: float


def exponents_of(table: pd.DataFrame) -> Exponents:
    """The two exponents of a trunk.

    A trunk of identities has 0 and 0, one whose every block doubles the signal 0 and 2 ln 2 = 1.386.

    Args:
        table: as `initlab.signal.trunk.Trunk.table` gives it.
    """
    distance, gradient = table.distance.to_numpy(float), table.gradient_square.to_numpy(float)
    (angle, angle_spread), (growth, growth_spread) = rate(distance), rate(gradient[::-1])
    if math.isnan(angle) and (distance == 0).any():
        angle = -math.inf
    return Exponents(angle, growth, max(len(table) - 1, 0), angle_spread, growth_spread)


def rate(values: NDArray[np.float64]) -> tuple[float, float]:
    """(median, half the interquartile range) of the changes of ln from one to the next that are finite and not 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        changes = np.diff(np.log(values))
    changes = changes[np.isfinite(changes)]
    if not len(changes):
        return math.nan, math.nan
    low, median, high = np.quantile(changes, [0.25, 0.5, 0.75])
    return float(median), float(high - low) / 2
