"""Ratios of times by hand, with arms that never come, and the coverage of their interval by enumeration."""

import itertools
import math

import pytest

from initlab.paper.ratios import Crossing, Span, level_ratio, order_statistics, pair_ratio

NEVER = math.inf


@pytest.mark.parametrize(
    ("he", "xavier", "ratio"),
    [
        (Crossing(2, 10), Crossing(3, 10), Span(1.5, 1.5)),
        (Crossing(2, 10), Crossing(NEVER, 10), Span(5, NEVER)),
        (Crossing(NEVER, 10), Crossing(4, 10), Span(0, 0.4)),
        (Crossing(NEVER, 10), Crossing(NEVER, 10), None),
        (Crossing(0, 10), Crossing(4, 10), None),
    ],
)
def test_one_seeds_ratio_is_known_as_far_as_the_budget_goes(he: Crossing, xavier: Crossing, ratio: Span | None) -> None:
    assert pair_ratio(he, xavier) == ratio


def test_three_seeds_give_the_median_and_their_range() -> None:
    pairs = [[Crossing(1, 9), Crossing(x, 9)] for x in (4, 2, 3)]
    ratio = level_ratio(0.5, 0.55, pairs)
    assert ratio is not None
    assert (ratio.ratio, ratio.interval, ratio.coverage, ratio.he, ratio.xavier) == (Span(3, 3), Span(2, 4), 0.75, 1, 3)


def test_a_seed_that_never_comes_opens_the_interval_but_not_the_median() -> None:
    pairs = [[Crossing(2, 10), Crossing(x, 10)] for x in (4, 6, NEVER)]
    ratio = level_ratio(0.5, 0.55, pairs)
    assert ratio is not None
    assert (ratio.ratio, ratio.interval) == (Span(3, 3), Span(2, NEVER))
    assert str(ratio.interval) == "at least 2"


@pytest.mark.parametrize("count", range(1, 13))
def test_the_coverage_is_that_of_all_ways_the_seeds_can_fall_around_the_median(count: int) -> None:
    skipped, coverage = order_statistics(count)

    def share(left_out: int) -> float:
        below = [sum(falls) for falls in itertools.product((0, 1), repeat=count)]
        return sum(left_out < number < count - left_out for number in below) / 2**count

    assert coverage == pytest.approx(share(skipped))
    assert skipped == 0 or coverage >= 0.95
    assert share(skipped + 1) < 0.95


def test_spans_in_words() -> None:
    assert [str(s) for s in (Span(1, 1), Span(1, 2), Span(3, math.inf), Span(0, 2))] == [
        "1",
        "1–2",
        "at least 3",
        "at most 2",
    ]
