"""Initialisation schemes: the standard deviation that each gives a weight, from its fans.

Fixed Gaussian, Xavier and He as He et al. 2015 compare them (sec. 2.2). All are zero-mean; biases are 0. Xavier is
the paper's Gaussian one-sided form, 1/fan, not Glorot and Bengio's average of both fans (footnote 3 there).
"""

import math
from collections.abc import Sequence

SCHEMES = ("gaussian", "xavier", "he")


def fans(weight_shape: Sequence[int]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (out, in, *kernel): the paper's n = k^2 c and n-hat = k^2 d.

    `fans((128, 64, 3, 3))` is (576, 1152). Stride, pooling and groups are ignored, as in the paper.

    Raises:
        ValueError: fewer than two dimensions.
    """
    if len(weight_shape) < 2:
        raise ValueError(
            f"fans: a weight needs at least 2 dimensions (got shape {tuple(weight_shape)}); biases have no fan"
        )
    receptive = math.prod(weight_shape[2:])
    return weight_shape[1] * receptive, weight_shape[0] * receptive


def scheme_std(
    scheme: str, weight_shape: Sequence[int], *, mode: str = "fan_in", negative_slope: float = 0.0, std: float = 0.01
) -> float:
    """Standard deviation of one weight under a scheme.

    gaussian: `std` (the paper's fixed 0.01). xavier: sqrt(1/fan). he: sqrt(2 / ((1 + a^2) fan)) with a the negative
    slope of the rectifier (eq. 10 with fan_in, 14 with fan_out, 15 for a != 0).

    `scheme_std("he", (128, 64, 3, 3))` is sqrt(2/576) = 0.05893.

    Raises:
        ValueError: unknown scheme or mode.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"init: unknown scheme (got {scheme!r}); allowed: {', '.join(SCHEMES)}")
    if scheme == "gaussian":
        return std
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"init: unknown mode (got {mode!r}); allowed: fan_in, fan_out")
    fan_in, fan_out = fans(weight_shape)
    fan = fan_in if mode == "fan_in" else fan_out
    gain = 1.0 if scheme == "xavier" else math.sqrt(2 / (1 + negative_slope**2))
    return gain / math.sqrt(fan)
