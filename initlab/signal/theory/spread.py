"""How the levels and angles of units scatter in narrow layers, and what that does to the means of pairs.

The product of a pair is the root of its two levels times a cosine. Layer by layer levels walk apart while angles close:
behind 20 layers of 32 ReLUs two examples have a cosine of 0.95 and a mean product of 0.76. Masks see the angle alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from torch import Tensor

from initlab.signal.theory.field import Array, Pairs
from initlab.signal.theory.meanfield import Context


class Products(Protocol):
    """A signal's field, or a gradient: mean squares at each position, mean products of pairs and their variance."""

    @property
    def q(self) -> Tensor: ...
    @property
    def c(self) -> Pairs: ...
    @property
    def spread(self) -> Pairs: ...


@dataclass(frozen=True)
class Angles:
    """Pairs as two levels and a cosine."""

    cosine: Pairs
    scatter: Pairs  # variance of the cosine
    levels: Pairs  # mean product of the two levels over the squared mean level
    roots: Pairs  # mean product of their roots

    def of_one_draw(self, cosine: Pairs | None) -> "Angles":
        """With the mean cosine of a draw, where that is known.

        Mean products are those over draws, to which loud draws with closer angles give more than their share.
        """
        if cosine is None:
            return self
        return replace(self, cosine=cosine, scatter=self.scatter.each(np.minimum, (1 - cosine**2).array))

    def average(self, expectation: Callable[..., Array], *arguments: int) -> Pairs:
        """An expectation of pairs of one level over how their cosines scatter: at two points, none above 1."""
        up = self.scatter.each(np.sqrt).each(np.minimum, (1 - self.cosine).array)
        down = self.scatter.each(np.divide, np.maximum(up.array, 1e-12))
        above, below = ((self.cosine + by).clipped().each(expectation, *arguments) for by in (up, -1 * down))
        share = down.each(np.divide, np.maximum((up + down).array, 1e-300))
        return replace(share * above + (1 - share) * below, itself=above.itself)


def angles(context: Context, f: Products, positions: int) -> Angles:
    """The angles behind mean products, and their scatter that is left of the products' without that of levels."""
    at = split(context, f.q, f.c, f.spread.itself, positions)
    scatter = ((f.c**2 + f.spread) / at.levels - at.cosine**2).within_limits(0, 1)
    scatter = scatter.each(np.minimum, (1 - at.cosine**2).array)
    return replace(at, scatter=replace(scatter, itself=0.0))


def split(context: Context, q: Tensor, c: Pairs, variance: float, positions: int) -> Angles:
    """Cosines of pairs with the mean products c whose lognormal levels have this relative variance.

    Levels are those beside their mean over the batch, so that two follow each other with the square of the cosine as
    far as it exceeds that of all pairs.
    """
    # Arrays, since every layer asks several times.
    flat, shares, products = over_places(evenness(q)).array, context.partners(positions), c.array
    roots = flat
    for _ in range(4):
        square = np.clip(products / roots, -1, 1) ** 2
        square[0] = 1.0
        mean = float(shares @ square)
        alike = np.clip((square - mean) / max(1 - mean, 1e-12), -1, 1)
        alike[0] = 1.0
        roots = flat * np.exp(-math.log1p(variance) * (1 - alike) / 4)
    levels = Pairs(*np.maximum(1 + variance * alike, 1e-12).tolist())
    both = Pairs(*roots.tolist())
    return Angles((c / both).clipped(), Pairs.alike(0.0, itself=0.0), levels, both)


def spread_from(context: Context, q: Tensor, c: Pairs, variance: float, scatter: Pairs, positions: int) -> Pairs:
    """The variance of products with the means c, of levels with this variance and cosines with this scatter."""
    at = split(context, q, c, variance, positions)
    return replace(((at.cosine**2 + scatter) * at.levels - c**2).within_limits(0, math.inf), itself=variance)


def walked(context: Context, variance: float, by: float, positions: int) -> float:
    """The variance of levels behind factors that scatter by so much more than their batch's mean does.

    It ends where a single example of the batch outweighs all others: lognormal levels of relative variance v have
    E[l^3]/E[l^2] = (1 + v)^2, so that of N the mean follows the loudest with 1/N of that.
    """
    square, units = 1 + variance, context.examples * positions
    slower = (1 - 2 * square**2 / units + square / units) / max(1 - square / units, 1e-12)
    return variance + square * max(by, 0.0) * min(max(slower, 0.0), 1.0)


def evenness(q: Tensor) -> float:
    """Mean product of the roots of two positions' mean squares over the mean square: 1 where all are the same."""
    # All layers that are no maps have one number.
    return float(q.sqrt().mean() ** 2 / q.mean()) if q.numel() > 1 and q.mean() > 0 else 1.0


def over_places(value: float) -> Pairs:
    """A factor of pairs of positions that may lie anywhere."""
    return Pairs(1.0, 1.0, value, 1.0, value)


def sampled(product: Pairs, square: Pairs, cube: Pairs) -> Pairs:
    """Variance of the correlation of n pairs (a, b) of mean square 1, times n, to first order.

    `product` is E[a b], `square` E[a^2 b^2] and `cube` E[a^3 b]: (1 - c^2)^2 of normals (Fisher 1915).
    """
    variance = square * (1 + product**2 / 2) + product**2 * square.itself / 2 - 2 * product * cube
    return replace(variance.within_limits(0, math.inf), itself=0.0)


def sampled_normals(c: Pairs) -> Pairs:
    """That of normals."""
    return sampled(c, 1 + 2 * c**2, 3 * c)


def crossing(a: Pairs, b: Pairs, c: Pairs, alike: float) -> Pairs:
    """Variance that the products of two independent signals of n channels add to their sum's correlations c.

    Times n, in units of the product of their mean squares: that of (x.y' + x'.y) - c (x.y + x'.y') for correlations a
    of x and b of y, 0 where all are alike; of a unit with itself that of 2 x.y without what all have in common.
    """
    pairs = (2 * ((1 + c**2) * (1 + a * b) - 2 * c * (a + b))).within_limits(0, math.inf)
    return replace(pairs, itself=4 * (1 - alike))
