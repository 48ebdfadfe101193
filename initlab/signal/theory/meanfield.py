"""Mean field, operation by operation: what each does to signals going forward and to gradients going back.

A rule takes the operation and its input `Signal`s; it gives the output's, and a function that carries a `Gradient` of
the output to each input. Weights are independent, zero-mean draws; second moments are exact for bias-free linear maps
and homogeneous activations at any width, the rest holds for wide layers. `passes.py` runs the rules over a trace.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from initlab.signal.theory.field import Field, NoRule, Pairs, common
from initlab.signal.theory.kernels import Steps
from initlab.signal.theory.response import Response, second_map
from initlab.signal.theory.scatter import Noise, mixed
from initlab.signal.theory.spread import evenness, over_places, over_spread, roots_of_levels, sampled
from initlab.signal.theory.trace import Operation
from initlab.signal.theory.width import LogMoments, gamma_factor, product


@dataclass(frozen=True)
class Signal:
    """A tensor's field, with the scatter of its mean square at finite width."""

    field: Field
    noise: Noise
    fresh: int | None = None  # the source of the weight layer that gave this, while nothing else has touched it
    given: Pairs | None = None  # the field's spread less what the draw of that layer added
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

    def with_more_along(self, share: float, x: Signal) -> "Gradient":
        """With so much more of its square, all of it along a signal."""
        if share == 0:
            return self
        beyond = mixed((1.0, self.radial.noise), (-1.0, x.noise))
        noise = mixed((1 / (1 + share), self.noise), (share / (1 + share), beyond))
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

    def average(self, values: Pairs, positions: int) -> float:
        """Mean over all pairs of units of one channel, of a batch of maps with so many positions."""
        others, examples = positions - 1, self.examples - 1
        partners = Pairs(1.0, near=0.0, within=others, same_place=examples, elsewhere=examples * others)
        return float(partners.array @ values.array / (self.examples * positions))


def weighted(context: Context, op: Operation, x: Signal) -> Result:
    """A convolution or linear layer: q is summed over the taps that exist, pairs keep their correlation.

    The output has n Var[w] E[x^2] + E[b^2] (He et al. 2015, eq. 7), the gradient of the input n-hat Var[w] E[dy^2]
    (eq. 12). Over draws of the weights a map's border has fewer taps, and positions are as correlated as before.
    Rows of weights that sum to 0 do not see what all inputs have in common: of the mean m, P of a row's N inputs being
    there, Var[w] P m^2 is left less Var[w] (P m)^2 / N.
    """
    linear, bias = taps(context, op), op.argument(2, "bias")
    bias_second = 0.0 if bias is None else float(bias.detach().double().square().mean())
    x = along(x, op.in_shapes[0], 1 - len(op.in_shapes[0]) if linear.spatial else -1)
    ins = on_map(x.field.q, op.in_shapes[0][2:]) if linear.spatial else x.field.q
    products, transposed = torch.func.vjp(linear.map, ins)[:2]
    seen, c = products, x.field.c * linear.overlap(products) * over_places(1 / evenness(ins))
    if linear.centred and x.field.mean:
        unseen = linear.map(ins.sqrt()) ** 2 / linear.map(torch.ones_like(ins)).max() * x.field.mean**2
        seen = (products - unseen).clamp(min=0)
        share = float(unseen.mean() / products.mean())
        # Pairs share less of it than a unit with itself: see `activation`.
        common_share = share * evenness(ins) * roots_of_levels(x.field)
        c = ((c - common_share) / max(1 - share, 1e-12)).clipped()
    level = float(seen.mean())
    share = level / (level + bias_second) if level + bias_second > 0 else 1.0
    c = (share * c + (1 - share)).clipped()
    spread = share**2 * x.field.spread / linear.taps
    channels, positions = linear.outputs, products.numel() if linear.spatial else x.field.positions
    mean = common(bias) / math.sqrt(level + bias_second) if bias_second else 0.0
    # A dead layer's output is its bias alone.
    moving = max(1 - mean**2, 1e-12)
    alike = context.average(((c - mean**2) / moving) ** 2 + spread, positions)
    apart = sampled((c - mean**2) / moving, 2 * (1 - alike))
    given, spread = spread, spread + linear.radial * moving**2 * apart / channels
    source = context.source(2 * linear.radial * alike / channels)
    noise = x.noise.scaled(share).having(source, moving)
    field = Field(seen + bias_second, c, mean, positions, channels, spread)
    signal = Signal(field, noise, source, given, axis=1 - len(op.shape) if linear.spatial else -1)

    def pull(g: Gradient) -> list[Gradient | None]:
        """The gradient through the transposed operator, with the scatter that the weights add to it."""
        (back,) = transposed(on_map(g.q, products.shape))
        spread = g.spread / linear.taps
        alike = context.average(g.c**2 + spread, x.field.positions)
        spread = spread + linear.radial_back * sampled(g.c, 2 * (1 - alike)) / linear.inputs
        source = context.source(2 * linear.radial_back * alike / linear.inputs)
        q = back * (linear.outputs / linear.inputs)
        chance = Gradient(q, g.c, spread, g.noise.having(source), source, radial=g.radial.times(share**2))
        # Along the signal the weights are those that gave the logits, which the gradient follows.
        return [chance.with_more_along(chance.along(x.field), x)]

    return signal, pull


def along(x: Signal, shape: Sequence[int], axis: int) -> Signal:
    """The signal with its channels along another dimension, where positions are channels now and channels positions."""
    if x.axis == axis or len(shape) < 3:
        return x
    f, common = x.field, x.field.mean**2
    pairs = Pairs(f.c.itself, common, common, f.c.same_place, common)
    positions = math.prod(shape[1:]) // shape[axis]
    spread = f.spread * max(f.channels / shape[axis], 1.0)
    f = Field(f.q.mean(), pairs, f.mean, positions, shape[axis], spread)
    return replace(x, field=f, axis=axis)


@dataclass(frozen=True)
class Taps:
    """A weight as mean field sees it: a linear map of second moments."""

    map: Callable[[Tensor], Tensor]
    inputs: int
    outputs: int
    spatial: bool
    taps: int
    overlap: Callable[[Tensor], Pairs]  # of the taps of two positions: see `shared_taps`
    centred: bool  # whether each row's weights sum to 0
    radial: float  # scatter of |Wx| relative to independent draws: 1, or 0 for a square orthogonal weight
    radial_back: float


# Squared sum of a row's weights over the sum of their squares, which is 1 on average for independent ones.
CENTRED = 1e-6
# As many rows tell whether all are centred, or orthogonal to each other.
SAMPLE = 64
CONV = ("stride", "padding", "dilation", "groups")
TRANSPOSED = ("stride", "padding", "output_padding", "groups", "dilation")


def taps(context: Context, op: Operation) -> Taps:
    """The map of second moments of a convolution's or linear layer's weight."""
    parameter, in_shape = op.argument(1, "weight"), op.in_shapes[0]
    if parameter.is_complex():
        raise NoRule(op.function, "a complex weight")
    weight, drawn = parameter.detach().double(), context.weight_moments.get(id(parameter))
    if weight.dim() < 2:
        raise NoRule(op.function, f"a weight of {weight.dim()} dimensions")
    if weight.dim() == 2:
        outputs, inputs = weight.shape
        factor = (float(weight.square().mean()) if drawn is None else drawn) * inputs
        rows = (rows_are_centred(weight), *orthogonality(weight))
        return Taps(lambda q: q * factor, inputs, outputs, False, 1, lambda _: Pairs.alike(1.0), *rows)
    if len(in_shape) != weight.dim():
        raise NoRule(op.function, f"an input without a batch (got shape {in_shape})")
    transposed = "transpose" in op.function.__name__
    names = TRANSPOSED if transposed else CONV
    options = dict(zip(names, op.args[3:], strict=False)) | {k: v for k, v in op.kwargs.items() if k in names}
    groups = options.pop("groups", 1)
    first, second = weight.shape[0], weight.shape[1] * groups
    inputs, outputs = (first, second) if transposed else (second, first)
    kernel = weight.square().mean((0, 1)) if drawn is None else torch.full(weight.shape[2:], drawn, dtype=torch.float64)
    kernel = (kernel * (inputs / groups)).cpu()[None, None]
    radial, back = orthogonality(weight.flatten(1)) if groups == 1 and not transposed else (1.0, 1.0)

    through = partial(op.function, bias=None, **options)
    each = torch.diag(kernel.flatten().sqrt()).reshape(-1, *kernel.shape[1:])
    each = each.transpose(0, 1) if transposed else each
    overlap = partial(shared_taps, through(torch.ones((1, 1, *in_shape[2:]), dtype=torch.float64), each)[0])
    sizes = (inputs, outputs, True, kernel.numel())
    centred = not transposed and rows_are_centred(weight.flatten(1))
    return Taps(lambda q: through(q[None, None], kernel)[0, 0], *sizes, overlap, centred, radial, back)


def rows_are_centred(weight: Tensor) -> bool:
    """Whether every row sums to 0, as under weight standardisation, and not by chance."""
    rows = weight[:SAMPLE]
    return rows.shape[1] > 1 and float(rows.sum(1).square().sum()) < CENTRED * float(rows.square().sum())


def shared_taps(present: Tensor, q: Tensor) -> Pairs:
    """Cosine of the taps of two positions, averaged over neighbours and over all pairs of (at most 256) positions.

    `present` holds each tap's weight at each output position, 0 where it meets the padding: at opposite corners of a
    small map hardly any tap is common, so their correlation falls layer by layer. Positions count by their level.
    """
    unit = present / present.norm(dim=0).clamp(min=1e-300) * q.sqrt()
    near = 1.0
    if unit.shape[-1] > 1:
        near = float((unit[..., 1:] * unit[..., :-1]).sum() / (q[..., 1:] * q[..., :-1]).sqrt().sum())
    flat, levels = unit.flatten(1), q.flatten()
    # An odd step, since a transposed convolution's even and odd columns share no taps.
    step = -(-len(levels) // 256) | 1
    flat, levels = flat[:, ::step], levels[::step]
    pairs = float(levels.sum() * (len(levels) - 1))
    within = float(flat.sum(1).square().sum() - flat.square().sum()) / pairs if pairs > 0 else 1.0
    return Pairs(1.0, near, within, same_place=1.0, elsewhere=within)


def orthogonality(weight: Tensor) -> tuple[float, float]:
    """Scatter of |Wx| and of |W^T g| for isotropic x and g, over that of independent draws (1, 1).

    Rows or columns, whichever are fewer, that are orthogonal keep all or a share of the norm: (1 - m/n or 0).
    """
    rows, columns = weight.shape
    fewer = weight if rows <= columns else weight.T
    sample = fewer[:SAMPLE]
    sample = sample / sample.norm(dim=1, keepdim=True).clamp(min=1e-300)
    cosines = (sample @ sample.T).fill_diagonal_(0.0)
    pairs = len(sample) * (len(sample) - 1)
    if pairs == 0 or float(cosines.square().sum()) / pairs > 0.1 / fewer.shape[1]:
        return 1.0, 1.0
    return max(1 - rows / columns, 0.0), max(1 - columns / rows, 0.0)


def activation(context: Context, response: Response, x: Signal) -> Result:
    """phi of normals: its closed forms or quadrature at each position, its correlation map for pairs.

    The average over n channels scatters by (E[phi^2(u) phi^2(v)] over pairs / E[phi^2]^2 - 1) / n.
    """
    f = x.field
    second = response.second()
    if second == 0:
        raise NoRule(response.phi.name, "gives 0 wherever its signal lies")
    growth, slope_growth = response.growth()
    # Levels of single examples scatter about that of the batch, which scatters over draws; correlations do as well.
    # Units are normal whatever a fresh layer drew: what it takes in is what scatters.
    given = f if x.given is None else replace(f, spread=x.given)
    variance = 0.0 if response.closed else context.scatter(x.noise.without(x.fresh)).variance
    bend, slope_bend = response.bend(given.spread.itself + variance)
    squares = f.c.each(response.square_pair) / second**2
    # Pairs have the mean product of two roots of levels, which is less than their mean level.
    roots = over_places(evenness(f.q)) * roots_of_levels(given)
    pair = over_spread(response.pair, given, roots) / second
    mean = response.first() / math.sqrt(second)
    c = (pair * roots**growth**2).clipped()
    # What the correlation of as many normals adds is in their own spread already.
    follow = (f.c.each(response.pair, 1) * response.q / second) ** 2
    linear = 2 * growth**2 * (f.c - f.mean**2) ** 2
    if x.balanced == 1:
        linear = linear + response.tilt() ** 2 * f.c
    rest = context.average(squares - 1 - linear, f.positions)
    beyond = (squares - pair**2) * (1 - c**2) - follow * sampled(f.c)
    beyond = replace(beyond, itself=(squares - 1 - linear).itself - rest)
    follow = replace(follow, itself=growth**2)
    spread = follow * f.spread + beyond.within_limits(0, math.inf) / f.channels
    noise = context.replaced(x.noise, x.fresh, rest / f.channels, growth)
    source = len(context.variances) - 1
    # A power of a factor of mean 1 has another mean, which the level has already.
    noise = noise.shifted(growth * (1 - growth) * variance / 2)
    q = bend * (second_map(response.phi, f.q) if response.mean == 0 else f.q * (second / response.q))
    field = Field(q, c, mean, f.positions, f.channels, spread)
    signal = Signal(field, noise, None, None, response, f.c, axis=x.axis)

    def pull(g: Gradient) -> list[Gradient | None]:
        """The gradient times the second moment of the slope."""
        slope = response.second(order=1)
        if slope == 0:
            return [Gradient(torch.zeros_like(f.q), g.c, g.spread, g.noise)]
        ratio = (over_spread(partial(response.pair, order=1), given, roots) / slope).clipped()
        masks = f.c.each(response.square_pair, 1) / slope**2
        square = g.c**2 + g.spread
        chosen = masks * (1 + 2 * square) - 1 - 2 * square
        if x.balanced == 1:
            chosen = chosen - response.tilt(order=1) ** 2 * f.c
        rest = context.average(chosen, f.positions)
        beyond = masks * (1 - square).within_limits(0, 1) - ratio**2 * sampled(g.c)
        beyond = replace(beyond, itself=chosen.itself - rest)
        spread = ratio**2 * g.spread + beyond.within_limits(0, math.inf) / f.channels
        # The slopes follow the signal's own scatter, and the same units that give much let much gradient through.
        follows = x.noise.scaled(slope_growth) if slope_growth else Noise()
        crossed = f.c.each(response.cross_pair) / (second * slope)
        both = context.average(crossed, f.positions) - 1
        both -= growth * slope_growth * 2 * context.average((f.c - f.mean**2) ** 2, f.positions)
        if x.balanced == 1:
            both -= response.tilt() * response.tilt(order=1) * context.average(f.c, f.positions)
        variance = context.variances[source]
        shared = both / f.channels / variance if variance > 0 else 0.0
        own = context.replaced(g.noise, g.fresh, rest / f.channels - shared**2 * variance)
        # The shift keeps the product's mean at 1, which the power of a factor alone has not.
        noise = mixed((1.0, own), (1.0, follows.having(source, shared))).shifted(shared * (1 - shared) * variance / 2)
        factor = second_map(response.phi, f.q, order=1) if response.mean == 0 else torch.full_like(f.q, slope)
        # What follows the signal lies where phi is large, hence where its slope is.
        chance = Gradient(g.q * factor * slope_bend, g.c * ratio, spread, noise, radial=g.radial.times(growth**2))
        return [chance.with_more_along(g.along(field) * (crossed.itself - 1), signal)]

    return signal, pull


def on_map(q: Tensor, shape: Sequence[int]) -> Tensor:
    """Mean squares at each position of a map of this shape: as they are, or their mean everywhere."""
    return q if q.shape == torch.Size(shape) else q.mean().expand(torch.Size(shape))
