"""How much sooner one arm reaches the threshold than another, seed by seed, and how sure that is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from initlab.analysis.intervals import FEWEST_SEEDS, LEVEL, Floats, Interval, bounded_t_interval, holm, seeds_needed
from initlab.analysis.panels import SEED
from initlab.analysis.survival import logrank_p
from initlab.paper.ratios import order_statistics


@dataclass(frozen=True)
class Effect:
    """An arm beside another over the seeds that both have finished."""

    seeds: int
    unpaired: int  # finished trials whose seed the other arm has not
    reached: tuple[int, int]
    budget: float  # epochs that every trial was given, or got
    ratio: Interval  # epochs of the other arm over epochs of this one
    coverage: float  # probability that the interval holds the ratio
    saved: Interval  # restricted mean time of the other arm less that of this one, in epochs
    p: float  # log-rank; NaN where there are too few seeds, or nobody reached the threshold
    differences: Floats  # logarithms of the seeds' ratios; none where a run did not get there
    p_adjusted: float = math.nan
    seeds_needed: float = math.nan

    def shows_sooner(self, times: float = 1.0) -> bool | None:
        """Whether this arm is more than `times` as fast; None where the seeds are too few to say.

        Both must hold: the interval of the ratio lies above, and the adjusted p-value is at most 0.05.
        """
        if self.seeds < FEWEST_SEEDS:
            return None
        return self.ratio.low > times and self.p_adjusted <= LEVEL


def effect(arm: pd.DataFrame, other: pd.DataFrame) -> Effect:
    """One arm beside another, paired by seed, for trials of one seed share their random numbers.

    The ratio's interval is a t interval of the logarithms where every run got there (its estimate the geometric mean),
    widened by what lies between two validations. Else a run that did not get there gives a bound of its seed's ratio,
    and the interval lies between order statistics of these, which for 2 to 5 seeds is their range; it holds the median
    with probability 1 - 2^(1 - n), 0.94 for 5. Restricted times end at the budget that all runs had, so all are known.
    """
    seeds = sorted({*arm[SEED]} & {*other[SEED]})
    a, b = (trials.set_index(SEED).loc[seeds] for trials in (arm, other))
    runs = pd.concat([a, b])
    budget = float(runs.budget.min()) if seeds else math.nan
    ratio, coverage, differences = time_ratio(a, b)
    first = np.arange(len(runs)) < len(a)
    enough = len(seeds) >= FEWEST_SEEDS
    p = logrank_p(runs.epoch.to_numpy(float), runs.reached.to_numpy(bool), first) if enough else math.nan
    unpaired = len(arm) + len(other) - len(runs)
    counts = (int(a.reached.sum()), int(b.reached.sum()))
    saved = epochs_saved(a, b, budget)
    return Effect(len(seeds), unpaired, counts, budget, ratio, coverage, saved, p, differences)


def epochs_saved(a: pd.DataFrame, b: pd.DataFrame, budget: float) -> Interval:
    """The mean time of b less that of a, both cut off at the budget."""
    high, low = ([trials[name].clip(upper=budget).to_numpy(float) for trials in (a, b)] for name in ("epoch", "after"))
    return bounded_t_interval(high[1] - high[0], low[1] - high[0], high[1] - low[0])


def time_ratio(a: pd.DataFrame, b: pd.DataFrame) -> tuple[Interval, float, Floats]:
    """The ratio of the times of b to those of a with its interval, that interval's coverage, and the log ratios."""
    if len(a) == 0:
        return Interval(math.nan, 0.0, math.inf), 0.0, np.array([])
    latest = [trials.epoch.where(trials.reached, math.inf) for trials in (a, b)]
    # A time of 0 is below the first validation: what it leaves open is anything.
    with np.errstate(divide="ignore", invalid="ignore"):
        lows = np.nan_to_num((b.after / latest[0]).to_numpy(float), nan=0.0)
        highs = np.nan_to_num((latest[1] / a.after).to_numpy(float), nan=math.inf, posinf=math.inf)
        ratios = np.nan_to_num((b.epoch / a.epoch).to_numpy(float), nan=1.0, posinf=math.inf)
        logs = np.log(ratios) if a.reached.all() and b.reached.all() else np.array([])
    if lows.min() > 0 and np.isfinite(highs).all():
        interval = bounded_t_interval(logs, np.log(lows), np.log(highs))
        return Interval(*(float(np.exp(end)) for end in interval)), 1 - LEVEL, logs
    skipped, coverage = order_statistics(len(a))
    low, high = np.sort(lows)[skipped], np.sort(highs)[-1 - skipped]
    ends = (float(low), float(high)) if len(a) > 1 else (0.0, math.inf)
    return Interval(float(np.median(ratios)), *ends), coverage, logs[np.isfinite(logs)]


def adjusted(effects: Sequence[Effect]) -> list[Effect]:
    """The effects with Holm's p-values over all of them, and the seeds that such a difference would need."""
    p_values = holm([one.p for one in effects])
    tested = sum(any(one.reached) for one in effects)
    return [
        replace(one, p_adjusted=p, seeds_needed=seeds_needed(one.differences, max(tested, 1)))
        for one, p in zip(effects, p_values, strict=True)
    ]
