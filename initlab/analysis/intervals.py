"""Intervals and tests that hold for few seeds, and how many seeds would do.

A bootstrap's percentiles are too narrow below 20 seeds (of 5 they hold the mean in 81 % of cases where they say 95 %),
so means have t intervals and counts exact ones. Below `FEWEST_SEEDS` seeds there is no p-value: of three seeds a side
the most telling outcome has p = 0.1.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from initlab.paper.ratios import CONFIDENCE

LEVEL = 1 - CONFIDENCE
FEWEST_SEEDS = 5
# The chance of showing a difference that is there, for `seeds_needed`; and beyond how many seeds it gives up.
POWER, MOST_SEEDS = 0.8, 1000
Floats = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate between the ends of its 95 % interval, infinite where there is none."""

    estimate: float
    low: float
    high: float


def t_interval(values: Sequence[float] | Floats) -> Interval:
    """The mean of independent values; of one value there is no interval, of none nothing.

    `t_interval([1, 2, 3])` is 2 [-0.484, 4.484]: 2 -+ 4.303 / sqrt(3).
    """
    x = np.asarray(values, float)
    if len(x) < 2:
        return Interval(float(x[0]) if len(x) else math.nan, -math.inf, math.inf)
    half = float(stats.t.ppf(1 - LEVEL / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return Interval(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half)


def bounded_t_interval(values: Floats, lows: Floats, highs: Floats) -> Interval:
    """The mean of values of which only bounds are known: from the lower end of the lows' to the upper of the highs'.

    So that values which look alike only because they were read coarsely get no interval of width zero.
    """
    return Interval(t_interval(values).estimate, t_interval(lows).low, t_interval(highs).high)


def share_interval(count: int, of: int) -> Interval:
    """A share and its exact interval (Clopper and Pearson 1934): 5 of 5 is 1 [0.478, 1]."""
    low = float(stats.beta.ppf(LEVEL / 2, count, of - count + 1)) if count else 0.0
    high = float(stats.beta.ppf(1 - LEVEL / 2, count + 1, of - count)) if count < of else 1.0
    return Interval(count / of if of else math.nan, low, high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values: the k-th smallest of m times m - k + 1, and no smaller than the one before it.

    NaN, where nothing was tested, stays NaN and does not count. `holm([0.01, 0.04, 0.03])` is [0.03, 0.06, 0.06].
    """
    adjusted = [math.nan] * len(p_values)
    tested = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    highest = 0.0
    for rank, (p, place) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p))
        adjusted[place] = highest
    return adjusted


def smallest_p(seeds: int) -> float:
    """The smallest two-sided p of a permutation test between two arms of so many seeds: 2 of all relabelings."""
    return 2 / math.comb(2 * seeds, seeds)


def seeds_needed(differences: Floats, comparisons: int) -> float:
    """Seeds that show a mean difference as large as the one seen, at the spread seen, four times in five.

    By the power of a paired t test at 5 %, and as many as `comparisons` permutation tests need to be significant at all
    after Holm. Infinite beyond 1,000; NaN where fewer than two differences, or none at all, were seen.
    """
    mean, spread = t_interval(differences).estimate, differences.std(ddof=1) if len(differences) > 1 else math.nan
    if math.isnan(spread) or mean == 0:
        return math.nan
    seeds = np.arange(FEWEST_SEEDS, MOST_SEEDS + 1)
    floor = np.array([smallest_p(int(n)) * comparisons <= LEVEL for n in seeds])
    if spread > 0:
        shift = np.sqrt(seeds) * abs(mean) / spread
        power = stats.nct.sf(stats.t.ppf(1 - LEVEL / 2, seeds - 1), seeds - 1, shift)
        # Far beyond the critical value the distribution is computed as NaN, where the power is 1.
        floor &= np.where(np.isnan(power), 1.0, power) >= POWER
    return float(seeds[floor][0]) if floor.any() else math.inf
