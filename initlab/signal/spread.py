"""Chance: how far a healthy rectifier net of finite width strays from its expectation, layer by layer."""

from functools import lru_cache

import numpy as np
from scipy.special import polygamma, psi
from scipy.stats import binom


@lru_cache(maxsize=4096)
def log_step(width: int) -> tuple[float, float]:
    """Mean and variance of ln(|x_l|^2 / |x_(l-1)|^2) over draws of one He layer of `width` units after ReLU.

    Given k ~ Binomial(width, 1/2) active units the ratio is (2/width) chi^2_k, independent from layer to layer, so the
    mean is ln(4/width) + E psi(k/2) and the variance E psi_1(k/2) + Var psi(k/2); about -2.5/width and 5/width
    (Hanin and Rolnick 2018, who have the leading order). Draws with k = 0 are left out.

    30 layers of width 64 have mean -1.203258 and variance 2.489921: half of all such nets keep less than 0.30.

    Raises:
        ValueError: a width below 1.
    """
    if width < 1:
        raise ValueError(f"log_step: width is out of range (got {width}); allowed: from 1 on")
    active = np.arange(1, width + 1)
    chance = binom.pmf(active, width, 0.5)
    chance /= chance.sum()
    centre = float(chance @ psi(active / 2))
    variance = float(chance @ polygamma(1, active / 2) + chance @ (psi(active / 2) - centre) ** 2)
    return float(np.log(4 / width)) + centre, variance
