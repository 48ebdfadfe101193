"""How the levels and correlations of units scatter in narrow layers, and what that does to the means of pairs."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torch import Tensor

from initlab.signal.theory.field import Array, Field, Pairs


def evenness(q: Tensor) -> float:
    """Mean product of the roots of two positions' mean squares over the mean square: 1 where all are the same."""
    return float(q.sqrt().mean() ** 2 / q.mean()) if q.mean() > 0 else 1.0


def over_places(value: float) -> Pairs:
    """A factor of pairs of positions that may lie anywhere."""
    return Pairs(1.0, 1.0, value, 1.0, value)


def roots_of_levels(f: Field) -> Pairs:
    """Mean product of the roots of two units' lognormal levels over their mean level, the more alike the nearer to 1.

    The levels of units with the correlation r at one level follow each other with r^2; c is r times this product.
    """
    roots = Pairs.alike(1.0)
    for _ in range(4):
        alike = ((f.c / roots).clipped() ** 2).array
        roots = Pairs(*np.exp(-math.log1p(f.spread.itself) * (1 - alike) / 4))
    return roots


def over_spread(expectation: Callable[[Array], Array], f: Field, roots: Pairs) -> Pairs:
    """An expectation of pairs of one level, averaged over how their correlations scatter."""
    far = replace(f.spread.within_limits(0, math.inf) ** 0.5, itself=0.0)
    above, below = ((f.c / roots + sign * far).clipped().each(expectation) for sign in (1.0, -1.0))
    return (above + below) / 2


def sampled(c: Pairs, itself: float = 0.0) -> Pairs:
    """Variance of the correlation of n pairs of normals, times n (Fisher 1915), and that of a unit with itself."""
    return replace((1 - c**2) ** 2, itself=itself)


def crossing(a: Pairs, b: Pairs, c: Pairs, alike: float) -> Pairs:
    """Variance that the products of two independent signals of n channels add to their sum's correlations c.

    Times n, in units of the product of their mean squares: that of (x.y' + x'.y) - c (x.y + x'.y') for correlations a
    of x and b of y, 0 where all are alike; of a unit with itself that of 2 x.y without what all have in common.
    """
    pairs = (2 * ((1 + c**2) * (1 + a * b) - 2 * c * (a + b))).within_limits(0, math.inf)
    return replace(pairs, itself=4 * (1 - alike))
