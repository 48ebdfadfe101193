"""Mean field of convolutions and linear layers, and a weight as mean field sees it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from initlab.signal.theory.field import Field, NoRule, Pairs, common
from initlab.signal.theory.meanfield import Context, Gradient, Result, Signal, on_map
from initlab.signal.theory.spread import angles, evenness, over_places, sampled_normals, spread_from, walked
from initlab.signal.theory.trace import Operation

# Squared sum of a row's weights over the sum of their squares, which is 1 on average for independent ones.
CENTRED = 1e-6
# As many rows tell whether all are centred, or orthogonal to each other.
SAMPLE = 64
CONV = ("stride", "padding", "dilation", "groups")
TRANSPOSED = ("stride", "padding", "output_padding", "groups", "dilation")


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
        common_share = share * angles(context, x.field, x.field.positions).roots
        c = ((c - common_share) / max(1 - share, 1e-12)).clipped()
    level = float(seen.mean())
    share = level / (level + bias_second) if level + bias_second > 0 else 1.0
    c = (share * c + (1 - share)).clipped()
    cosine = None
    if x.cosine is not None and not linear.centred:
        cosine = (share * x.cosine * linear.overlap(torch.ones_like(products)) + (1 - share)).clipped()
    spread = share**2 * x.field.spread / linear.taps
    channels, positions = linear.outputs, products.numel() if linear.spatial else x.field.positions
    mean = common(bias) / math.sqrt(level + bias_second) if bias_second else 0.0
    # A dead layer's output is its bias alone.
    moving = max(1 - mean**2, 1e-12)
    own = (c - mean**2) / moving
    alike = context.average(own**2 + spread, positions)
    given = Field(seen + bias_second, c, mean, positions, channels, spread)
    spread = drawn(context, given, own, alike, linear.radial * moving**2 / channels, positions)
    source = context.source(2 * linear.radial * alike / channels)
    noise = x.noise.scaled(share).having(source, moving)
    axis = 1 - len(op.shape) if linear.spatial else -1
    signal = Signal(replace(given, spread=spread), noise, source, given.spread, cosine, axis=axis)

    def pull(g: Gradient) -> list[Gradient | None]:
        """The gradient through the transposed operator, with the scatter that the weights add to it."""
        (back,) = transposed(on_map(g.q, products.shape))
        given = replace(g, spread=g.spread / linear.taps)
        alike = context.average(g.c**2 + given.spread, x.field.positions)
        spread = drawn(context, given, g.c, alike, linear.radial_back / linear.inputs, x.field.positions)
        source = context.source(2 * linear.radial_back * alike / linear.inputs)
        q = back * (linear.outputs / linear.inputs)
        chance = Gradient(q, g.c, spread, g.noise.having(source), source, radial=g.radial.times(share**2))
        # Along the signal the weights are those that gave the logits, which the gradient follows.
        return [chance.with_more_along(context, chance.along(x.field), x)]

    return signal, pull


def drawn(context: Context, given: Field | Gradient, c: Pairs, alike: float, share: float, positions: int) -> Pairs:
    """The spread behind normal weights of 1/share channels: cosines and levels scatter as those of so many normals."""
    before = angles(context, given, positions)
    variance = walked(context, given.spread.itself, share * 2 * (1 - alike), positions)
    cosines = before.scatter + share * sampled_normals(before.cosine)
    return spread_from(context, given.q, given.c, variance, cosines, positions)


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
