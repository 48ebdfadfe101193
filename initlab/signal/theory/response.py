"""Gaussian statistics of a nonlinearity, as mean field needs them: what it makes of signals, pairs and gradients.

Two pre-activations with correlation c leave phi with E[phi(u) phi(v)] and E[phi^2(u) phi^2(v)], and their slopes
likewise. For rectifiers all of them are closed forms; for any other function they are Hermite series
(E[f(u) g(v)] = sum of f_k g_k c^k, Mehler's formula), whose coefficients one grid of points gives.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch

from initlab.init.expectations import Elementwise, Rectifier
from initlab.signal.theory.field import Array, NoRule

Phi = Rectifier | Elementwise
T = TypeVar("T")
# Second moments: squares of those below the smallest underflow, and ratios of a signal of 0 are those at this one;
# squares of those above the largest overflow.
SMALLEST, LARGEST = 1e-100, 1e150
TINY = 1e-300

# Offset, so that a kink at 0 lies between two points.
POINTS = np.arange(-12.0, 12.0, 0.005) + 0.0025
WEIGHTS = 0.005 * np.exp(-(POINTS**2) / 2) / math.sqrt(2 * math.pi)
TERMS = 200


@dataclass(frozen=True)
class Response:
    """phi of jointly normal pre-activations of second moment q and mean `mean` sqrt(q); c is their E[u v] / q.

    `Response(resolve("relu"), 1.0).pair(np.zeros(1))` is 1/(2 pi).
    """

    phi: Phi
    q: float
    mean: float = 0.0

    @property
    def closed(self) -> Rectifier | None:
        """phi where closed forms hold: a rectifier of zero-mean normals."""
        return self.phi if isinstance(self.phi, Rectifier) and self.mean == 0 else None

    @cached_property
    def levels(self) -> tuple[Array, Array]:
        """(phi, phi') on the grid."""
        return self.at(POINTS)

    def at(self, z: Array) -> tuple[Array, Array]:
        """(phi, phi') where the normals are z standard deviations from their mean; z of any shape."""
        x = math.sqrt(self.q) * (self.mean + math.sqrt(1 - self.mean**2) * z)
        if isinstance(self.phi, Rectifier):
            # Pooled over the slopes: exact for every first power, close for squares.
            a = self.phi.a
            return np.where(x > 0, x, a * x), np.where(x > 0, 1.0, a)
        phi, slope = (covered(self.phi, self.phi.finite, x.ravel(), order).reshape(x.shape) for order in (0, 1))
        return phi, slope

    def first(self) -> float:
        """E[phi]."""
        return covered(self.phi, self.phi.mean, self.q) if self.closed else float(WEIGHTS @ self.levels[0])

    def second(self, order: int = 0) -> float:
        """E[phi^2], or E[phi'^2] for order 1."""
        if self.mean == 0:
            return covered(self.phi, self.phi.slope_second if order else self.phi.second, self.q)
        return float(WEIGHTS @ self.levels[order] ** 2)

    def growth(self) -> tuple[float, float]:
        """d ln E[phi^2] / d ln q, the mean being kept, and that of phi': (1, 0) for a rectifier of mean 0.

        Less than 1 where phi saturates. Where the slope is 0 so is its growth.
        """
        if self.closed:
            return 1.0, 0.0
        step = 1e-4
        above, below = (self.wider(math.exp(change)) for change in (step, -step))
        growths = []
        for order in (0, 1):
            # Both on the grid, so that its small error cancels.
            high, low = (float(WEIGHTS @ response.levels[order] ** 2) for response in (above, below))
            growths.append(math.log(high / low) / (2 * step) / (1 - self.mean**2) if low > 0 else 0.0)
        return growths[0], growths[1]

    def tilt(self, order: int = 0) -> float:
        """E[z phi^2] / E[phi^2], how the square follows the normal z itself, or that of phi'; 1.5958 for ReLU."""
        square = self.levels[order] ** 2
        return float((WEIGHTS * POINTS) @ square / (WEIGHTS @ square))

    def bend(self, variance: float) -> tuple[float, float]:
        """Means of E[phi^2] and E[phi'^2] over lognormal levels of a relative variance, over those at their mean."""
        if self.closed or variance <= 0:
            return 1.0, 1.0
        nodes, weights = np.polynomial.hermite_e.hermegauss(5)
        log = math.log1p(variance)
        responses = [self.wider(math.exp(math.sqrt(log) * node - log / 2)) for node in nodes]
        means = []
        for order in (0, 1):
            levels = np.array([WEIGHTS @ response.levels[order] ** 2 for response in responses])
            here = float(WEIGHTS @ self.levels[order] ** 2)
            means.append(float(weights @ levels / weights.sum()) / here if here > 0 else 1.0)
        return means[0], means[1]

    def wider(self, factor: float) -> "Response":
        """The response to normals of so many times the variance."""
        q = self.q * (self.mean**2 + (1 - self.mean**2) * factor)
        return Response(self.phi, q, self.mean * math.sqrt(self.q / q))

    def pair(self, c: Array, order: int = 0) -> Array:
        """E[phi(u) phi(v)] (Cho and Saul 2009, n = 1, for ReLU), or E[phi'(u) phi'(v)] for order 1."""
        if not self.closed:
            return self.series(self.levels[order], c)
        closed_form = self.closed.slope_pair if order else self.closed.pair
        return np.array([closed_form(self.q, r) for r in c])

    def square_pair(self, c: Array, order: int = 0) -> Array:
        """E[phi^2(u) phi^2(v)], or that of slopes for order 1.

        For ReLU 3/2 at c = 1 and 1/4 at 0, in units of q^2; its slopes have 1/2 and 1/4.
        """
        if not self.closed:
            return self.series(self.levels[order] ** 2, c)
        # phi^2 = even x^2 + odd x |x|, and phi'^2 = even + odd sign(x), pooled over the slopes.
        even, odd = (1 + self.closed.a_squared) / 2, (1 - self.closed.a_squared) / 2
        if order:
            return np.asarray(even**2 + odd**2 * np.arcsin(c) * 2 / math.pi)
        # E[u |u| v |v|]
        arc = (3 * c * np.sqrt(1 - c**2) + (1 + 2 * c**2) * np.arcsin(c)) * 2 / math.pi
        return np.asarray(self.q**2 * (even**2 * (1 + 2 * c**2) + odd**2 * arc))

    def cube_pair(self, c: Array) -> Array:
        """E[phi^3(u) phi(v)]: 3/2 q^2 for ReLU at c = 1, and 1/pi q^2 at 0."""
        if not self.closed:
            return self.series(self.levels[0] ** 3, c, self.levels[0])
        # phi = even x + odd |x|
        even, odd = (1 + self.closed.a) / 2, (1 - self.closed.a) / 2
        # E[|u|^3 |v|]
        arc = ((2 + c**2) * np.sqrt(1 - c**2) + 3 * c * np.arcsin(c)) * 2 / math.pi
        cube = (even**3 + 3 * even * odd**2) * even * 3 * c + (3 * even**2 * odd + odd**3) * odd * arc
        return np.asarray(self.q**2 * cube)

    def cross_pair(self, c: Array) -> Array:
        """E[phi^2(u) phi'^2(v)]: q/2 for ReLU at c = 1, and q/4 at 0."""
        if not self.closed:
            return self.series(self.levels[0] ** 2, c, self.levels[1] ** 2)
        even, odd = (1 + self.closed.a_squared) / 2, (1 - self.closed.a_squared) / 2
        # E[u |u| sign v]
        arc = (np.arcsin(c) + c * np.sqrt(1 - c**2)) * 2 / math.pi
        return np.asarray(self.q * (even**2 + odd**2 * arc))

    def inner(self, c: Array) -> Array:
        """The correlation of what is normal, without the common mean."""
        variance = 1 - self.mean**2
        return np.clip((c - self.mean**2) / variance, -1, 1) if variance > 1e-12 else np.ones_like(c)

    def series(self, f: Array, c: Array, g: Array | None = None) -> Array:
        """Mehler's sum for E[f(u) g(v)], g being f by default; what the coefficients leave goes with a power beyond."""
        g = f if g is None else g
        first = HERMITE @ f
        products = first * (first if g is f else HERMITE @ g)
        inner = self.inner(c)
        powers = inner[:, None] ** np.arange(TERMS)
        return np.asarray(powers @ products + (float(WEIGHTS @ (f * g)) - products.sum()) * inner ** (2 * TERMS))


def covered(phi: Phi, expectation: Callable[..., T], *arguments: Any) -> T:
    """An expectation or value of phi; NoRule where phi is not finite on the signal or its quadrature fails there."""
    try:
        return expectation(*arguments)
    except ValueError as error:
        raise NoRule(phi.name, str(error)) from error


def hermite() -> Array:
    """Rows k of normalised Hermite polynomials times the weights: `HERMITE @ f` gives f's coefficients."""
    rows = np.empty((TERMS, len(POINTS)))
    rows[0], rows[1] = 1.0, POINTS
    for k in range(1, TERMS - 1):
        rows[k + 1] = (POINTS * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1)
    return rows * WEIGHTS


HERMITE = hermite()


def second_map(phi: Phi, q: torch.Tensor, order: int = 0) -> torch.Tensor:
    """E[phi^2] (or E[phi'^2]) for every second moment of a map: exact for few, between 33 of them in logs for many."""
    moment = phi.slope_second if order else phi.second
    if isinstance(phi, Rectifier):
        return torch.full_like(q, moment(1.0)) if order else q * moment(1.0)
    flat = np.maximum(q.flatten().numpy(), SMALLEST)
    knots = np.unique(flat)
    if len(knots) > 33:
        # Positions that are always 0, as an image's corner, are a knot by themselves.
        zero, signal = knots[knots == SMALLEST], knots[knots != SMALLEST]
        knots = np.append(zero, np.exp(np.linspace(math.log(signal[0]), math.log(signal[-1]), 33)))
    values = np.maximum([covered(phi, moment, knot) for knot in knots], TINY)
    return torch.from_numpy(np.exp(np.interp(np.log(flat), np.log(knots), np.log(values)))).reshape(q.shape)
