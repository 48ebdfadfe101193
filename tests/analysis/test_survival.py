"""Kaplan-Meier by hand and covered; the log-rank test against every relabeling, and its size where nothing differs."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from initlab.analysis.survival import kaplan_meier, logrank_p, median_epoch

YES, NO = True, False


def test_kaplan_meier_by_hand_with_ties_and_censoring() -> None:
    # 6 runs: two reach it at 1, one is last seen at 1, one reaches it at 2, one is last seen at 3, one reaches it at 4.
    epochs, reached = np.array([1.0, 1.0, 1.0, 2.0, 3.0, 4.0]), np.array([YES, YES, NO, YES, NO, YES])
    curve = kaplan_meier(epochs, reached)
    assert curve.epoch.to_list() == [0, 1, 2, 3, 4]
    assert curve.at_risk.to_list() == [6, 6, 3, 2, 1]
    assert curve.reached.to_list() == [0, 2, 1, 0, 1]
    assert curve.survival.to_list() == pytest.approx([1, 4 / 6, 4 / 6 * 2 / 3, 4 / 9, 0])
    assert (curve.low <= curve.survival).all() and (curve.survival <= curve.high).all()
    assert median_epoch(curve).estimate == 2
    theirs = stats.ecdf(stats.CensoredData(uncensored=epochs[reached], right=epochs[~reached])).sf
    assert theirs.evaluate(curve.epoch) == pytest.approx(curve.survival.to_numpy())


@pytest.mark.parametrize("runs", [5, 10, 20])
def test_kaplan_meiers_interval_is_covered_where_the_budget_alone_censors(runs: int) -> None:
    # Before the budget the interval depends on the count alone, so the coverage is a sum over counts.
    curve = kaplan_meier(np.arange(1.0, runs + 1), np.ones(runs, bool))
    covered = []
    for left in np.linspace(0.2, 0.8, 25):
        holding = [row.epoch for row in curve.itertuples() if row.low <= left <= row.high]
        covered.append(stats.binom.pmf(holding, runs, 1 - left).sum())
    assert min(covered) >= 0.92 and 0.94 <= np.mean(covered) <= 0.98


def test_kaplan_meiers_interval_is_covered_where_runs_are_censored_all_along() -> None:
    generator, covered = np.random.default_rng(0), []
    for _ in range(300):
        times, ends = generator.exponential(size=10), generator.exponential(2.0, size=10)
        curve = kaplan_meier(np.minimum(times, ends), times <= ends)
        row = curve[curve.epoch <= math.log(2)].iloc[-1]
        covered.append(row.low <= 0.5 <= row.high)
    assert 0.92 <= np.mean(covered) <= 0.985


def test_the_median_of_five_lies_within_their_range_and_of_none_nowhere() -> None:
    assert median_epoch(kaplan_meier(np.array([3.0, 1, 2, 5, 4]), np.ones(5, bool))) == (3, 1, 5)
    assert median_epoch(kaplan_meier(np.full(5, 6.0), np.zeros(5, bool))).estimate == math.inf


def observed_less_expected(epochs: np.ndarray, reached: np.ndarray, first: set[int]) -> float:
    """The log-rank numerator as textbooks have it: at each event time, observed less the first arm's share of all."""
    total = 0.0
    for time in set(epochs[reached]):
        at_risk = [i for i, epoch in enumerate(epochs) if epoch >= time]
        events = [i for i in at_risk if epochs[i] == time and reached[i]]
        total += len(first & {*events}) - len(events) * len(first & {*at_risk}) / len(at_risk)
    return total


def test_the_permutation_test_agrees_with_every_relabeling() -> None:
    epochs = np.array([1.0, 2.0, 2.0, 4.0, 2.0, 3.0, 4.0])
    reached = np.array([YES, YES, NO, YES, YES, YES, NO])
    first = np.array([YES, YES, NO, YES, NO, NO, NO])
    seen = abs(observed_less_expected(epochs, reached, {0, 1, 3}))
    all_of_them = [abs(observed_less_expected(epochs, reached, {*arm})) for arm in itertools.combinations(range(7), 3)]
    expected = np.mean([value >= seen - 1e-9 for value in all_of_them])
    assert logrank_p(epochs, reached, first) == pytest.approx(expected)


def test_five_against_five_apart_is_2_of_252() -> None:
    epochs, first = np.arange(10.0) + 1, np.arange(10) < 5
    assert logrank_p(epochs, np.ones(10, bool), first) == pytest.approx(2 / 252)
    assert math.isnan(logrank_p(epochs, np.zeros(10, bool), first))


def test_many_runs_are_relabeled_at_random_and_always_alike() -> None:
    generator, first = np.random.default_rng(0), np.arange(24) < 12
    epochs, reached = generator.exponential(size=24), np.ones(24, bool)
    p = logrank_p(epochs, reached, first)
    assert p == logrank_p(epochs, reached, first)
    ours = stats.CensoredData(uncensored=epochs[first]), stats.CensoredData(uncensored=epochs[~first])
    assert p == pytest.approx(stats.logrank(*ours).pvalue, abs=0.03)


@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_its_size_where_nothing_differs(shared: float) -> None:
    # With a third of the runs censored; and where runs of one seed go together, it errs on the safe side.
    generator, first, p_values = np.random.default_rng(3), np.arange(10) < 5, []
    for _ in range(1000):
        seed = np.tile(generator.normal(size=5), 2)
        times = np.exp(generator.normal(size=10) + shared * seed)
        p_values.append(logrank_p(np.minimum(times, 1.5), times <= 1.5, first))
    assert np.mean([p <= 0.05 for p in p_values if not math.isnan(p)]) <= 0.065
    if not shared:
        assert np.mean([p <= 0.05 for p in p_values]) >= 0.025
