"""Intervals hold the truth 92 to 98 times in 100 at 5, 10 and 20 seeds; counts exactly; Holm by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from initlab.analysis.effects import epochs_saved, time_ratio
from initlab.analysis.intervals import Interval, holm, seeds_needed, share_interval, smallest_p, t_interval

SEEDS = [5, 10, 20]


def arms(times: np.ndarray, grid: float, budget: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two arms (2, seeds) validated every `grid` epochs."""
    seen = np.ceil(times / grid) * grid
    return tuple(
        pd.DataFrame(
            {
                "seed": range(len(row)),
                "reached": row <= budget,
                "epoch": np.minimum(row, budget),
                "after": np.where(row <= budget, row - grid, budget),
                "budget": budget,
            }
        )
        for row in seen
    )


def holds(interval: Interval, truth: float) -> bool:
    """Whether the truth lies in the interval."""
    return interval.low <= truth <= interval.high


def drawn(seeds: int, repeats: int) -> np.ndarray:
    """(repeats, 2, seeds) log-normal times, correlated by seed; medians 2 and 5 epochs."""
    generator = np.random.default_rng(seeds)
    shared = generator.normal(size=(repeats, 1, seeds)) * 0.2
    return np.exp(shared + generator.normal(size=(repeats, 2, seeds)) * 0.2) * np.array([[2.0], [5.0]])


@pytest.mark.parametrize("seeds", SEEDS)
def test_the_t_interval_holds_the_mean_95_times_in_100(seeds: int) -> None:
    draws = np.random.default_rng(seeds).normal(3.0, 2.0, size=(2000, seeds))
    assert 0.935 <= np.mean([holds(t_interval(values), 3.0) for values in draws]) <= 0.965


@pytest.mark.parametrize("seeds", SEEDS)
def test_the_ratio_and_the_epochs_saved_are_covered(seeds: int) -> None:
    # The mean of exp(N(0, 0.04 + 0.04)) is exp(0.04).
    truth, ratios, saved = 3 * math.exp(0.04), [], []
    # Of 500 the share has a standard error of 0.01, a third of what is allowed.
    for times in drawn(seeds, 500):
        a, b = arms(times, grid=1e-4, budget=100.0)
        ratios.append(holds(time_ratio(a, b)[0], 2.5))
        saved.append(holds(epochs_saved(a, b, 100.0), truth))
    assert 0.92 <= np.mean(ratios) <= 0.98
    assert 0.92 <= np.mean(saved) <= 0.98


@pytest.mark.parametrize("seeds", SEEDS)
def test_they_are_covered_where_half_the_runs_of_an_arm_are_censored(seeds: int) -> None:
    # 5 epochs is the median of the slower arm, and 2.5 of the ratios, of which half are known by a bound alone: that
    # can only widen the interval, which is why it holds the ratio more often.
    many = np.minimum(drawn(99, 4000), 5.0)
    truth, ratios, saved = (many[:, 1] - many[:, 0]).mean(), [], []
    for times in drawn(seeds, 400):
        a, b = arms(times, grid=1e-4, budget=5.0)
        ratios.append(holds(time_ratio(a, b)[0], 2.5))
        saved.append(holds(epochs_saved(a, b, 5.0), truth))
    assert np.mean(ratios) >= 0.92
    assert 0.92 <= np.mean(saved) <= 0.98


def test_a_coarse_validation_only_widens_the_interval() -> None:
    for times in drawn(5, 50):
        fine, coarse = (time_ratio(*arms(times, grid, budget=100.0))[0] for grid in (1e-4, 0.25))
        assert coarse.low < fine.low and fine.high < coarse.high


@pytest.mark.parametrize("seeds", SEEDS)
def test_the_interval_of_a_count_is_exact(seeds: int) -> None:
    # Of every true share, the counts whose interval holds it have 95 % of the probability or more: computed, not drawn.
    intervals = [share_interval(count, seeds) for count in range(seeds + 1)]
    for share in np.linspace(0.01, 0.99, 99):
        holding = [count for count, one in enumerate(intervals) if holds(one, share)]
        assert stats.binom.pmf(holding, seeds, share).sum() >= 0.95
    # Rule of three, exactly: (1 - p)^n = 0.025 at the upper end of none.
    assert (1 - intervals[0].high) ** seeds == pytest.approx(0.025)
    assert intervals[0].low == 0 and intervals[seeds].high == 1


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.02, math.nan, 0.5, 0.9])[0] == pytest.approx(0.06)
    assert math.isnan(holm([0.02, math.nan])[1])
    assert holm([0.8, 0.9]) == [1.0, 1.0]


def test_one_value_has_no_interval() -> None:
    assert t_interval([2.0]) == (2.0, -math.inf, math.inf)
    assert math.isnan(t_interval([]).estimate)


def test_the_seeds_needed_have_the_power_in_a_simulation() -> None:
    differences = np.array([0.2, 1.2, 0.7, -0.4, 0.9, 0.3])
    seeds = int(seeds_needed(differences, 1))
    draws = np.random.default_rng(1).normal(differences.mean(), differences.std(ddof=1), size=(4000, seeds))
    assert (stats.ttest_1samp(draws, 0.0, axis=1).pvalue <= 0.05).mean() == pytest.approx(0.8, abs=0.05)


def test_seeds_needed_where_the_spread_says_little() -> None:
    # No spread: as many as the permutation test needs. 2 / C(10, 5) = 0.0079, which 7 comparisons take beyond 0.05.
    assert smallest_p(5) == pytest.approx(0.0079, abs=1e-4)
    assert seeds_needed(np.array([1.0, 1.0]), 1) == 5
    assert seeds_needed(np.array([1.0, 1.0]), 7) == 6
    assert math.isinf(seeds_needed(np.array([-1.0, 1.001]), 1))
    assert math.isnan(seeds_needed(np.array([1.0]), 1))
