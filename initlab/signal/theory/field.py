"""`Field`: what mean field keeps of a tensor, its second moments over channels, and how it is measured."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
FEW_CHANNELS = 4
# Standard errors within which a mean may be chance.
CHANCE = 4.0


class NoRule(Exception):
    """A call that the theory can't follow; `initlab.predict` then falls back on the local law and says so."""

    def __init__(self, function: Any, reason: str) -> None:
        name = function if isinstance(function, str) else getattr(function, "__name__", str(function))
        super().__init__(f"{name.strip('_')}: {reason}")


def kind_by_kind(operation: Callable[[Any, Any], Array]) -> Callable[["Pairs", "Pairs | float"], "Pairs"]:
    """An operator of `Pairs` with other pairs, or with one number for all kinds."""

    def operator(left: "Pairs", right: "Pairs | float") -> "Pairs":
        """The operation on the numbers of all kinds."""
        return Pairs(*operation(left.array, right.array if isinstance(right, Pairs) else right).tolist())

    return operator


@dataclass(frozen=True)
class Pairs:
    """A number, as a correlation, for each kind of pair of units of one channel in a batch of maps.

    Arithmetic goes kind by kind: `1 - Pairs.alike(0.25)` has 0 for a unit with itself and 0.75 for all other pairs.
    """

    itself: float  # a unit with itself
    near: float  # neighbouring positions of one example; of tokens behind a causal mask the pairs that they attend to
    within: float  # different positions of one example
    same_place: float  # two examples at one position
    elsewhere: float  # two examples at different positions

    @classmethod
    def alike(cls, value: float, itself: float = 1.0) -> "Pairs":
        """The same for all pairs of different units."""
        return cls(itself, value, value, value, value)

    @property
    def array(self) -> Array:
        """All kinds, in the order of the fields."""
        return np.array([self.itself, self.near, self.within, self.same_place, self.elsewhere])

    def each(self, function: Callable[..., Array], *arguments: Any) -> "Pairs":
        """A function of each kind's number."""
        return Pairs(*function(self.array, *arguments).tolist())

    def within_limits(self, low: float, high: float) -> "Pairs":
        """Every kind's number, or the limit beyond which it lies."""
        return self.each(np.clip, low, high)

    def clipped(self) -> "Pairs":
        """As correlations, without what rounding adds."""
        return replace(self.within_limits(-1, 1), itself=1.0)

    # Numpy's own numbers leave the arithmetic to this class.
    __array_ufunc__ = None
    __add__ = __radd__ = kind_by_kind(np.add)
    __sub__ = kind_by_kind(np.subtract)
    __rsub__ = kind_by_kind(lambda pairs, number: np.subtract(number, pairs))
    __mul__ = __rmul__ = kind_by_kind(np.multiply)
    __truediv__ = kind_by_kind(np.true_divide)
    __pow__ = kind_by_kind(lambda pairs, power: pairs**power)


NONE = Pairs.alike(0.0, itself=0.0)


@dataclass(frozen=True)
class Field:
    """Second moments of a tensor over its channels: what mean field keeps of it."""

    q: Tensor  # mean square at each position, float64: the map's shape, (positions,), or () where there is none
    c: Pairs  # mean products of pairs over the mean square
    mean: float  # the mean that all units have in common, over the root of q
    positions: int
    channels: int
    spread: Pairs = NONE  # variance of each correlation, over draws of the weights

    @property
    def level(self) -> float:
        """Mean square over all positions."""
        return float(self.q.mean())

    def on(self, positions: int) -> "Field":
        """The field at so many positions, where it is the same number at all of them."""
        if self.positions > 1 or positions == 1:
            return self
        c, spread = (Pairs(p.itself, p.itself, p.itself, p.same_place, p.same_place) for p in (self.c, self.spread))
        return replace(self, c=c, spread=spread, positions=positions)


def levelled(f: Field) -> Pairs:
    """Correlations once every position has the same mean square, which uneven positions have in unlike measure."""
    if f.q.shape != (f.positions,) or f.positions < 2 or f.level == 0:
        return f.c
    root = (f.q / f.level).sqrt()
    # Rows 0, 1, ... that attend alike to all positions up to their own see position j as often as 1/(i + 1) adds up.
    seen = (1 / torch.arange(f.positions, 0, -1).double()).cumsum(0).flip(0)
    near = root.mean() if f.c.near == f.c.within else seen @ root / seen.sum()
    kinds = Pairs(1.0, float(near), float(root.mean()), 1.0, float(root.mean()))
    return (f.c * kinds**-2).clipped()


def channel_axis(shape: Sequence[int]) -> int:
    """Where a tensor (N, C, *map), (N, positions, C) or (N, C) has its channels, counted from the end."""
    return 1 - len(shape) if len(shape) > 3 else -1


def field_of(x: Tensor, axis: int | None = None, fixed: bool = False) -> Field:
    """Measure a tensor (N, C, *map), (N, positions, C) or (N, C), or one with its channels at `axis`.

    `fixed` is a constant, the same for all examples; its first dimension counts as one of 1 then.
    """
    x = x.detach().double() if x.is_floating_point() or x.dtype == torch.bool else torch.zeros(x.shape).double()
    if x.dim() < 2:
        x = x.reshape(1, -1) if x.dim() else x.reshape(1, 1)
    axis = channel_axis(x.shape) if axis is None else axis
    maps = x.dim() > 3 or axis < -1
    x = x.movedim(axis, 1)
    x_NCP = x.flatten(2) if x.dim() > 2 else x[..., None]
    level, c = pair_means(x_NCP)
    _, channels, positions = x_NCP.shape
    if maps and x.shape[-1] > 1 and level > 0:
        c = replace(c, near=float((x[..., 1:] * x[..., :-1]).mean() / level))
    if fixed:
        c = replace(c, same_place=1.0, elsewhere=c.within)
    means = x_NCP.mean((0, 2))
    common = common_square(means)
    q = x_NCP.square().mean((0, 1)).reshape(x.shape[2:])
    mean = math.copysign(math.sqrt(common / level), float(means.sum())) if level > 0 else 0.0
    return Field(q.cpu(), c, mean, positions, channels, NONE if fixed else spread_of(x_NCP, level, c))


def common_square(means: Tensor) -> float:
    """The mean product of two channels' means: the square of what they have in common, without their scatter."""
    if len(means) == 1:
        return float(means.square())
    return float((means.sum().square() - means.square().sum()).clamp(min=0)) / (len(means) * (len(means) - 1))


def common(values: Tensor | None) -> float:
    """The mean that the units' biases or weights have in common; 0 where it may be chance."""
    if values is None:
        return 0.0
    flat = values.detach().double().flatten()
    mean, square = float(flat.mean()), float(flat.square().mean())
    by_chance = CHANCE * math.sqrt(max(square - mean**2, 0.0) / len(flat))
    return mean if abs(mean) > by_chance else 0.0


def even(value: float, positions: int, channels: int) -> Field:
    """The field of one number, the same everywhere."""
    q = torch.tensor(value**2, dtype=torch.float64)
    return Field(q, Pairs.alike(1.0), math.copysign(1.0, value), positions, channels)


def pair_means(x_NCP: Tensor) -> tuple[float, Pairs]:
    """(mean square, mean products of pairs of positions and examples over it); neighbours count as any positions."""
    n, _, positions = x_NCP.shape
    square = x_NCP.square().sum()
    by_example, by_place = x_NCP.sum(2).square().sum(), x_NCP.sum(0).square().sum()
    across = x_NCP.sum((0, 2)).square().sum() - by_example - by_place + square
    within = ratio(by_example - square, square, positions - 1)
    same_place = ratio(by_place - square, square, n - 1)
    elsewhere = ratio(across, square, (n - 1) * (positions - 1))
    c = Pairs(1.0, within, within, same_place, elsewhere).clipped()
    return float(square) / x_NCP.numel(), c


def spread_of(x_NCP: Tensor, level: float, c: Pairs) -> Pairs:
    """Variance of the pairs' correlations: measured for images, 1/channels as of independent ones for wider tensors."""
    n, channels, positions = x_NCP.shape
    if level == 0:
        return NONE
    squares = x_NCP.square().mean(1)
    # What positions differ by on average is in their own mean squares.
    itself = max(float(squares.square().mean() - squares.mean(0).square().mean()) / level**2, 0.0)
    if channels > FEW_CHANNELS:
        return replace((1 - c**2) / channels, itself=itself)
    # The squared inner product of two pixels is that of their outer products.
    products = (x_NCP[:, :, None] * x_NCP[:, None]).reshape(n, channels**2, positions)
    square, pairs = pair_means(products)
    return replace((pairs * square / level**2 - c**2).within_limits(0, math.inf), itself=itself)


def unevenness(q: Tensor) -> float:
    """Variance of a mean square over positions, over its squared mean."""
    return float(q.var(correction=0) / q.mean().square().clamp(min=1e-300)) if q.numel() > 1 else 0.0


def ratio(products: Tensor, square: Tensor, partners: int) -> float:
    """Mean product over pairs in units of the mean square; 0 where there are no pairs."""
    return float(products / (square * partners)) if partners > 0 and square > 0 else 0.0
