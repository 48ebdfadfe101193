"""What the rules of mean field take and give: a `Signal` going forward, a `Gradient` going back, and their `Context`.

A rule takes an operation and its input `Signal`s; it gives the output's, and a function that carries a `Gradient` of
the output to each input. Weights are independent, zero-mean draws; second moments are exact for bias-free linear maps
and homogeneous activations at any width, the rest holds for wide layers. `passes.py` runs the rules over a trace.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from initlab.signal.theory.field import Field, Pairs
from initlab.signal.theory.kernels import Steps
from initlab.signal.theory.response import Response
from initlab.signal.theory.scatter import Noise, mixed
from initlab.signal.theory.width import LogMoments, gamma_factor, product


@dataclass(frozen=True)
class Signal:
    """A tensor's field, with the scatter of its mean square at finite width."""

    field: Field
    noise: Noise
    fresh: int | None = None  # the source of the weight layer that gave this, while nothing else has touched it
    given: Pairs | None = None  # the field's spread less what the draw of that layer added
    cosine: Pairs | None = None  # the mean cosine of one draw, where rules have followed it
    response: Response | None = None  # where this is phi of normals
    normals: Pairs | None = None  # correlations of those normals
    parts: tuple[tuple[float, Field], ...] = ()  # of channels that were joined: each part's share and field
    axis: int = -1  # the tensor's dimension of channels, counted from the end
    steps: Steps | None = None  # where a recurrent layer gave this, and nothing else has touched it
    balanced: float = 0.0  # share of it whose channels sum to 0 at each position, as behind a LayerNorm


@dataclass(frozen=True)
class Radial:
    """Mean square of (x . gradient) of an example, beyond that of a gradient that does not follow the signal x.

    It is what moves the loss when all of x grows, and for that the same before and behind a homogeneous layer (Euler).
    """

    square: float = 0.0
    noise: Noise = field(default_factory=Noise)

    def times(self, factor: float) -> "Radial":
        """With the square times a factor."""
        return Radial(self.square * factor, self.noise)


@dataclass(frozen=True)
class Gradient:
    """Mean square of the gradient at each position; `c` and `spread` are mean and variance of pairs' correlations."""

    q: Tensor
    c: Pairs
    spread: Pairs
    noise: Noise
    fresh: int | None = None
    parts: tuple[float, ...] = ()  # of joined channels: each part's mean square over that of all
    basis: str = "theory"  # what stands behind it
    mean: float | None = None  # its mean over everything over the root of q, where that is known
    steps: Steps | None = None  # of a gradient at some of a recurrent layer's steps
    radial: Radial = Radial()
    centred: float = 0.0  # share of it that sums to 0 over the channels of a position, as behind a LayerNorm

    @property
    def level(self) -> float:
        """Mean square over all positions."""
        return float(self.q.mean())

    def along(self, f: Field) -> float:
        """Share of its square that lies along a signal f, beyond chance."""
        units = f.channels * f.positions
        square = units**2 * f.level * self.level
        return self.radial.square / square if square > 0 else 0.0

    def with_more_along(self, context: "Context", share: float, x: Signal) -> "Gradient":
        """With so much more of its square, all of it along a signal."""
        if share == 0:
            return self
        beyond = mixed((1.0, self.radial.noise), (-1.0, x.noise))
        # Powers of factors of mean 1 have other means.
        log = context.scatter(beyond)
        mean = log.mean + log.variance / 2
        share *= math.exp(mean)
        noise = mixed((1 / (1 + share), self.noise), (share / (1 + share), beyond.shifted(-mean)))
        return replace(self, q=self.q * (1 + share), noise=noise)


# For each input its gradient, or None where none goes there.
Pull = Callable[[Gradient], Sequence[Gradient | None]]
Result = tuple[Signal, Pull]


@dataclass
class GateRow:
    """A gate of a recurrent layer: its pre-activation, which both of its weights share, and the gradient there."""

    names: list[str]
    op: str
    field: Field
    noise: Noise
    gradient: Gradient | None = None


@dataclass
class Context:
    """What all rules share."""

    examples: int
    dropout: bool
    weight_moments: dict[int, float]  # id of a weight -> second moment that its scheme gives it
    names: dict[int, str] = field(default_factory=dict)  # id of a parameter -> its name
    reasons: list[str] = field(default_factory=list)  # why a gradient's rule holds only roughly
    gates: dict[int, list[GateRow]] = field(default_factory=dict)  # id of a recurrent call's arguments -> its gates
    mixing: list[int] = field(default_factory=list)  # sources of layers that mix all channels
    rows: dict[int, int] = field(default_factory=dict)  # source of a grouped layer -> the weights in each of its rows
    stretched: dict[int, float] = field(default_factory=dict)  # such a source -> what a norm adds to the gradient there
    unequal: dict[int, float] = field(default_factory=dict)  # source of a grouped layer -> how unequal its groups are
    variances: list[float] = field(default_factory=list)  # of the sources of scatter
    factors: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 3)))  # `LogMoments` of the first of them

    def source(self, variance: float) -> int:
        """A new independent factor of mean 1 and this variance."""
        self.variances.append(max(variance, 0.0))
        return len(self.variances) - 1

    def replaced(self, noise: Noise, fresh: int | None, variance: float, power: float = 1.0) -> Noise:
        """Every factor to a power, and a new one of this variance; it takes a fresh layer's in, which drops out."""
        if fresh is not None:
            variance += (power * noise[fresh]) ** 2 * self.variances[fresh]
        return noise.without(fresh).scaled(power).having(self.source(variance))

    def scatter(self, noise: Noise) -> LogMoments:
        """Logarithm of the product of all factors."""
        # Arrays, since every layer adds up the sources of all layers before it.
        new = self.variances[len(self.factors) :]
        self.factors = np.concatenate([self.factors, np.array([*map(gamma_factor, new)]).reshape(-1, 3)])
        return product(self.factors[: len(noise.powers)], noise.powers, noise.shift)

    def partners(self, positions: int) -> NDArray[np.float64]:
        """The share of each kind among all pairs of units of one channel, of a batch of maps of so many positions."""
        others, examples = positions - 1, self.examples - 1
        return np.array([1.0, 0.0, others, examples, examples * others]) / (self.examples * positions)

    def average(self, values: Pairs, positions: int) -> float:
        """Mean over all pairs of units of one channel, of a batch of maps with so many positions."""
        return float(self.partners(positions) @ values.array)


def on_map(q: Tensor, shape: Sequence[int]) -> Tensor:
    """Mean squares at each position of a map of this shape: as they are, or their mean everywhere."""
    return q if q.shape == torch.Size(shape) else q.mean().expand(torch.Size(shape))
