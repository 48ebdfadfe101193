"""`Field`: what mean field keeps of a tensor, its second moments over channels, and how it is measured."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
KINDS = ("self", "near", "within", "same place", "elsewhere")
SELF, NEAR, WITHIN, SAME, ELSEWHERE = range(5)  # pairs of numbers of one channel, in the order of `KINDS`
FEW_CHANNELS = 4


@dataclass(frozen=True)
class Field:
    """Second moments of a tensor over its channels: what mean field keeps of it.

    `c` holds the mean products of pairs of numbers of one channel over the mean square: of a number with itself (1),
    of neighbouring positions, of different positions of one example, and of two examples at the same position and at
    different ones.
    """

    q: Tensor  # mean square at each position, float64: the map's shape, or () where there is none
    c: Array
    mean: float  # root of the mean product of two channels' means, over that of q
    positions: int
    channels: int
    spread: Array = field(
        default_factory=lambda: np.zeros(5)
    )  # variance of each correlation, over draws of the weights

    @property
    def level(self) -> float:
        """Mean square over all positions."""
        return float(self.q.mean())


def field_of(x: Tensor) -> Field:
    """Measure a tensor (N, C, *map), (N, positions, C) or (N, C)."""
    x = x.detach().double() if x.is_floating_point() else torch.zeros(x.shape, dtype=torch.float64)
    if x.dim() < 2:
        x = x.reshape(1, -1) if x.dim() else x.reshape(1, 1)
    maps = x.dim() > 3
    x_NCP = x.flatten(2) if x.dim() > 3 else x.reshape(len(x), -1, x.shape[-1]).transpose(1, 2)
    level, c = pair_means(x_NCP)
    if maps and x.shape[-1] > 1 and level > 0:
        c[1] = float((x[..., 1:] * x[..., :-1]).mean() / level)
    _, channels, positions = x_NCP.shape
    means = x_NCP.mean((0, 2))
    common = float((means.sum().square() - means.square().sum()).clamp(min=0)) / max(channels * (channels - 1), 1)
    q = x_NCP.square().mean((0, 1)).reshape(x.shape[2:]) if maps else x_NCP.square().mean()
    mean = math.sqrt(common / level) if level > 0 else 0.0
    return Field(q.cpu(), c, mean, positions, channels, spread_of(x_NCP, level, c))


def pair_means(x_NCP: Tensor) -> tuple[float, Array]:
    """(mean square, mean products of pairs of positions and examples over it), in the order of `KINDS`."""
    n, _, positions = x_NCP.shape
    total = x_NCP.square().sum()
    by_example, by_place = x_NCP.sum(2).square().sum(), x_NCP.sum(0).square().sum()
    elsewhere = x_NCP.sum((0, 2)).square().sum() - by_example - by_place + total
    within = ratio(by_example - total, total, positions - 1)
    same = ratio(by_place - total, total, n - 1)
    apart = ratio(elsewhere, total, (n - 1) * (positions - 1))
    return float(total) / x_NCP.numel(), np.clip(np.array([1.0, within, within, same, apart]), -1, 1)


def spread_of(x_NCP: Tensor, level: float, c: Array) -> Array:
    """Variance of the pairs' correlations: measured for images, 1/channels as of independent ones for wider tensors."""
    n, channels, positions = x_NCP.shape
    if channels > FEW_CHANNELS or level == 0:
        return np.asarray((1 - c**2) / channels)
    products = (x_NCP[:, :, None] * x_NCP[:, None]).reshape(n, channels**2, positions)
    square, pairs = pair_means(products)  # the squared inner product of two pixels is that of their outer products
    return np.maximum(pairs * square / level**2 - c**2, 0) * np.array([0.0, 1.0, 1.0, 1.0, 1.0])


def ratio(products: Tensor, total: Tensor, partners: int) -> float:
    """Mean product over pairs in units of the mean square; 0 where there are no pairs."""
    return float(products / (total * partners)) if partners > 0 and total > 0 else 0.0
