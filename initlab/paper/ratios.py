"""Ratios of the epochs that two schemes need to reach an error, over seeds, some of which never reach it.

Seeds are compared one by one, so each gives a ratio, or a bound of it where a scheme did not reach the error within its
budget; the interval of their median lies between order statistics, and assumes nothing of how they are distributed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Span:
    """Lowest and highest; `high` is infinite where only a bound from below is known."""

    low: float
    high: float

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"at least {self.low:.3g}"
        if self.low == 0:
            return f"at most {self.high:.3g}"
        low, high = f"{self.low:.3g}", f"{self.high:.3g}"
        return low if low == high else f"{low}–{high}"

    def meets(self, other: "Span") -> bool:
        """Whether some value lies in both."""
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class Crossing:
    """When a curve first fell to a level: `epoch`, infinite where it did not within `budget` epochs."""

    epoch: float
    budget: float


@dataclass(frozen=True)
class LevelRatio:
    """Xavier's epochs over He's to one level: over `seeds` pairs the median and an interval of it."""

    level: float
    share: float  # of chance
    he: float  # median epoch; infinite where most seeds never reach the level
    xavier: float
    ratio: Span  # the median; a span where censoring leaves it open
    interval: Span
    coverage: float  # probability that the interval holds the median over seeds
    seeds: int


def level_ratio(level: float, share: float, pairs: Sequence[Sequence[Crossing]]) -> LevelRatio | None:
    """The ratios of one level over seeds, None where no seed has one."""
    spans = [span for he, xavier in pairs if (span := pair_ratio(he, xavier))]
    if not spans:
        return None
    lows, highs = sorted(span.low for span in spans), sorted(span.high for span in spans)
    skipped, coverage = order_statistics(len(spans))
    he, xavier = (median(pair[arm].epoch for pair in pairs) for arm in (0, 1))
    ratio, interval = Span(median(lows), median(highs)), Span(lows[skipped], highs[-1 - skipped])
    return LevelRatio(level, share, he, xavier, ratio, interval, coverage, len(spans))


def pair_ratio(he: Crossing, xavier: Crossing) -> Span | None:
    """Xavier's epochs over He's, as far as it is known; None where neither reached the level, or one began below it."""
    if (math.isinf(he.epoch) and math.isinf(xavier.epoch)) or 0 in (he.epoch, xavier.epoch):
        return None
    if math.isinf(xavier.epoch):
        return Span(xavier.budget / he.epoch, math.inf)
    if math.isinf(he.epoch):
        return Span(0.0, xavier.epoch / he.budget)
    return Span(xavier.epoch / he.epoch, xavier.epoch / he.epoch)


def order_statistics(count: int) -> tuple[int, float]:
    """How many of the smallest and largest of `count` values the interval leaves out, and the median's coverage.

    The most that keep 95 %; none below six values, where the range covers less: (0, 0.75) of 3, (1, 0.961) of 9.
    """

    def coverage(skipped: int) -> float:
        """Probability that the median lies between the values that are left."""
        return float(1 - 2 * sum(math.comb(count, i) for i in range(skipped + 1)) / 2**count)

    return max((k, coverage(k)) for k in range((count + 1) // 2) if k == 0 or coverage(k) >= CONFIDENCE)
