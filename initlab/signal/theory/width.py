"""Finite width: how far one draw of a net's weights strays from the mean field, in logarithms.

Each layer multiplies the mean square of the signal by the average of its n channels, which is 1 on average over draws
and has variance v = k/n, k = 5 for ReLU and one input (Hanin and Rolnick 2018). Logarithms add up over layers, so the
spread grows with the sum of 1/n and the typical draw lies below the average one.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammaln, ndtri, polygamma


class LogMoments(NamedTuple):
    """Mean, variance and third cumulant of the logarithm of a positive factor whose own mean is 1."""

    mean: float = 0.0
    variance: float = 0.0
    third: float = 0.0

    def quantile(self, share: float) -> float:
        """Quantile of the logarithm, the normal one corrected for skewness (Cornish and Fisher 1938)."""
        if self.variance == 0:
            return self.mean
        z, sd = normal_quantile(share), math.sqrt(self.variance)
        return self.mean + sd * (z + (z**2 - 1) / 6 * self.third / sd**3)


def product(factors: NDArray[np.float64], powers: NDArray[np.float64], shift: float = 0.0) -> LogMoments:
    """Logarithm of a product of independent factors, each to its power, whose logarithm is moved by `shift`.

    Args:
        factors: (n, 3), the `LogMoments` of each.
        powers: (n,).
    """
    cumulants = (factors * powers[:, None] ** np.arange(1, 4)).sum(0)
    return LogMoments(float(cumulants[0]) + shift, float(cumulants[1]), float(cumulants[2]))


@lru_cache(maxsize=64)
def normal_quantile(share: float) -> float:
    """Quantile of the standard normal."""
    return float(ndtri(share))


@lru_cache(maxsize=4096)
def gamma_factor(variance: float) -> LogMoments:
    """Logarithm of a Gamma variable of mean 1: exact for a linear layer and one input, where it is chi^2_n / n."""
    if variance <= 0:
        return LogMoments()
    k = 1 / variance
    return LogMoments(float(digamma(k)) - math.log(k), float(polygamma(1, k)), float(polygamma(2, k)))


@lru_cache(maxsize=4096)
def relu_layer(width: int) -> LogMoments:
    """ln |x_l|^2 / |x_{l-1}|^2 of one input through one He layer of ReLUs, exactly, given that any unit is active.

    With k ~ Binomial(n, 1/2) active units the factor is (2/n) chi^2_k: mean ln(4/n) + E digamma(k/2) and variance
    E trigamma(k/2) + Var digamma(k/2). 30 layers of width 64 have -1.203258 and 2.489921: half of all such nets keep
    less than 0.30.
    """
    if width < 1:
        raise ValueError(f"relu_layer: width is out of range (got {width}); allowed: from 1 on")
    k = np.arange(1, width + 1)
    log_p = -gammaln(k + 1) - gammaln(width - k + 1)
    p = np.exp(log_p - log_p.max())
    p = p / p.sum()
    psi, psi_1, psi_2 = digamma(k / 2), polygamma(1, k / 2), polygamma(2, k / 2)
    mean = float(p @ psi)
    variance = float(p @ psi_1 + p @ (psi - mean) ** 2)
    third = float(p @ (psi_2 + 3 * psi_1 * (psi - mean) + (psi - mean) ** 3))
    return LogMoments(math.log(4 / width) + mean, variance, third)
