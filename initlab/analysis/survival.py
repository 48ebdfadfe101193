"""Time to an error as survival analysis has it: a run that never gets there is censored at its budget, not dropped."""

import itertools
import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betainc

from initlab.analysis.intervals import LEVEL, Floats, Interval

# Relabelings that are all gone through; of more, so many are drawn.
ALL_RELABELINGS, DRAWN_RELABELINGS = 200_000, 20_000
Flags = NDArray[np.bool_]


def kaplan_meier(epochs: Floats, reached: Flags) -> pd.DataFrame:
    """The share of runs that are still above the threshold after each epoch, with its pointwise 95 % interval.

    The interval is the mid-p version of the beta product (Fay, Brittain and Proschan 2013; Fay and Brittain 2016): made
    for small samples, where Greenwood's has no width as long as nothing or everything has happened. Without censoring
    it is the mid-p interval of a count.

    Args:
        epochs: (runs,) when a run reached the threshold, or was last seen above it.
        reached: (runs,) which of the two.

    Returns:
        A row at 0 and at every epoch in which something happens: epoch, at_risk (just before), reached, survival, low,
        high.
    """
    rows, survival, mean, square = [], 1.0, 1.0, 1.0
    for epoch in [-math.inf, *np.unique(epochs)]:
        at_risk, here = int((epochs >= epoch).sum()), int((reached & (epochs == epoch)).sum())
        after = int((epochs > epoch).sum())
        survival *= 1 - here / at_risk
        # The product of the survival's factors, each distributed as Beta(stay, here), by its two moments.
        stay = at_risk - here + 1
        mean *= stay / (at_risk + 1)
        square *= stay * (stay + 1) / ((at_risk + 1) * (at_risk + 2))
        upper = beta_of(mean, square)
        lower = beta_of(mean * after / (after + 1), square * after / (after + 2))
        rows.append([max(epoch, 0.0), at_risk, here, survival, mid_quantile(lower, upper, LEVEL / 2)])
        rows[-1].append(mid_quantile(lower, upper, 1 - LEVEL / 2))
    return pd.DataFrame(rows, columns=["epoch", "at_risk", "reached", "survival", "low", "high"])


def beta_of(mean: float, square: float) -> tuple[float, float]:
    """The parameters of the beta distribution with this mean and mean square; all of it at 0 is (0, 1), at 1 (1, 0)."""
    if mean in (0, 1):
        return mean, 1 - mean
    size = mean * (1 - mean) / (square - mean**2) - 1
    return mean * size, (1 - mean) * size


def mid_quantile(lower: tuple[float, float], upper: tuple[float, float], share: float) -> float:
    """The quantile of the even mixture of two beta distributions."""

    def excess(x: float) -> float:
        """What of the mixture lies below x, beyond `share`."""
        return (below(lower, x) + below(upper, x)) / 2 - share

    if excess(0.0) >= 0:
        return 0.0
    return float(brentq(excess, 0.0, 1.0, xtol=1e-9)) if excess(np.nextafter(1, 0)) > 0 else 1.0


def below(parameters: tuple[float, float], x: float) -> float:
    """The share of a beta distribution at or below x."""
    a, b = parameters
    if 0 in (a, b):
        return float(x >= a)
    return float(betainc(a, b, x))


def median_epoch(curve: pd.DataFrame) -> Interval:
    """The median of `kaplan_meier`'s curve, and where 1/2 lies in its interval; infinite where most never get there.

    Of five runs that all do, the interval goes from the first to the last: it holds the median with probability 0.94.
    """

    def first(column: str) -> float:
        """The first epoch at which so few are left."""
        epochs = curve.epoch[curve[column] <= 0.5]
        return float(epochs.iloc[0]) if len(epochs) else math.inf

    return Interval(first("survival"), first("low"), first("high"))


def logrank_p(epochs: Floats, reached: Flags, first: Flags) -> float:
    """The two-sided p of the log-rank statistic (observed less expected) over relabelings of the runs.

    All relabelings of two arms where there are at most 200,000 (up to 10 seeds each), else 20,000 drawn from a fixed
    seed. Runs are relabeled without regard to pairs, since the sign flips of five pairs could not get below 0.06; runs
    that share a seed go together if anything, and then this test errs on the safe side. NaN where nothing happened.

    Args:
        first: (runs,) whether a run is of the first arm.
    """
    if not reached.any():
        return math.nan
    scores, size = logrank_scores(epochs, reached), int(first.sum())
    seen = abs(scores[first].sum())
    if math.comb(len(epochs), size) <= ALL_RELABELINGS:
        arms = np.array(list(itertools.combinations(range(len(epochs)), size)))
        return float((np.abs(scores[arms].sum(axis=1)) >= seen - 1e-9).mean())
    generator = np.random.default_rng(0)
    drawn = generator.permuted(np.tile(scores, (DRAWN_RELABELINGS, 1)), axis=1)[:, :size].sum(axis=1)
    return float((1 + (np.abs(drawn) >= seen - 1e-9).sum()) / (1 + DRAWN_RELABELINGS))


def logrank_scores(epochs: Floats, reached: Flags) -> Floats:
    """What each run adds to its arm's observed less expected number: 1 if it got there, less the hazard until then.

    The hazard is that of all runs together (Nelson and Aalen). The scores sum to 0.
    """
    times = np.unique(epochs[reached])
    hazard = np.array([(reached & (epochs == time)).sum() / (epochs >= time).sum() for time in times])
    cumulative = np.concatenate([[0.0], np.cumsum(hazard)])
    scores: Floats = reached - cumulative[np.searchsorted(times, epochs, side="right")]
    return scores
