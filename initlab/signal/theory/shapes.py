"""Mean field of changes of shape: which dimension holds the channels, and what becomes of pairs of positions."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from initlab.signal.theory.chains import variants
from initlab.signal.theory.field import NONE, Field, Pairs, unevenness
from initlab.signal.theory.joins import summed
from initlab.signal.theory.meanfield import Context, Gradient, Result, Signal, on_map
from initlab.signal.theory.trace import Operation

TURNED = variants("permute transpose swapaxes swapdims movedim moveaxis t adjoint")
TURNED |= {Tensor.mT.__get__, Tensor.T.__get__}  # type: ignore[attr-defined]
COPIED = variants("expand expand_as repeat tile broadcast_to")
REGROUPED = variants("flatten view view_as reshape reshape_as squeeze unsqueeze unflatten roll flip")
PICKED = variants("getitem chunk split tensor_split unbind select narrow index_select")
SHAPES: set[Any] = TURNED | COPIED | REGROUPED | PICKED | {torch.roll, Tensor.__getitem__}


def reshaped(context: Context, op: Operation, x: Signal) -> Result:
    """Any change of shape."""
    axis, shape, out = x.axis, op.in_shapes[0], op.shape
    if op.function in TURNED:
        return replace(x, axis=turned(op, axis)), lambda g: [g]
    if math.prod(out) > math.prod(shape):
        return copied(context, op, x)
    if math.prod(out) < math.prod(shape):
        return picked(context, op, x)
    return regrouped(x, shape, out)


def turned(op: Operation, axis: int) -> int:
    """Where the channels are after a permutation: found by permuting the numbers of the dimensions."""
    rank = len(op.shape)
    sizes = torch.empty([1 + n for n in range(rank)])
    args = tuple(sizes if place == 0 else value for place, value in enumerate(op.args))
    kwargs = {key: sizes if key in ("input", "self") else value for key, value in op.kwargs.items()}
    order = [size - 1 for size in op.function(*args, **kwargs).shape]
    return order.index(axis % rank) - rank


def regrouped(x: Signal, shape: Sequence[int], out: Sequence[int]) -> Result:
    """The same numbers in other dimensions: as they were, unless channels and positions become one dimension."""
    f, place = x.field, channels_in(x, shape, out)
    if place is not None:
        kept = f.q.shape in (torch.Size(out[2:]), (f.positions,))
        same = replace(x, field=replace(f, q=f.q if kept else f.q.mean()), axis=place - len(out))
        return same, lambda g: [replace(g, q=on_map(g.q, f.q.shape))]
    # A unit's only partners now are the same place of other examples.
    merged = len(out) == 2
    axis = -1 if len(out) <= 3 else 1 - len(out)
    c = Pairs.alike(f.c.same_place, f.c.itself) if merged else f.c
    positions = 1 if merged else math.prod(out[1:]) // out[axis]
    # Of fewer channels, where units become positions.
    spread = f.spread * max(f.channels / out[axis], 1.0)
    signal = Signal(Field(f.q.mean(), c, f.mean, positions, out[axis], spread), x.noise, axis=axis)

    def pull(g: Gradient) -> list[Gradient | None]:
        """The gradient is shared out alike over the positions."""
        # Each position meets other weights, so that no two have gradients alike.
        c = replace(NONE, itself=g.c.itself, same_place=g.c.same_place) if merged and f.positions > 1 else g.c
        return [Gradient(g.q.mean().expand(f.q.shape), c, g.spread, g.noise, g.fresh, radial=g.radial)]

    return signal, pull


def channels_in(x: Signal, shape: Sequence[int], out: Sequence[int]) -> int | None:
    """The dimension in which the channels are now; of heads, which are channels in several dimensions, the last."""
    first = len(shape) + x.axis
    upto = before = math.prod(shape[:first])
    upto *= shape[first]
    # Heads, where they stand side by side with their channels.
    while first > 1 and upto // before < x.field.channels:
        first -= 1
        before //= shape[first]
    if upto // before != x.field.channels:
        before = math.prod(shape[: x.axis])
    for place, size in enumerate(out):
        ahead = math.prod(out[:place])
        if ahead * size == upto and ahead % before == 0:
            return place
    return None


def picked(context: Context, op: Operation, x: Signal) -> Result:
    """A part of the positions or channels; the gradient of the rest is 0."""
    f, shape, share = x.field, op.in_shapes[0], math.prod(op.shape) / math.prod(op.in_shapes[0])
    lost, channels, places = len(shape) - len(op.shape), f.channels, None
    split = channels // shape[x.axis]
    # Channels are picked where their number is no longer found in its place, or some of their heads.
    keeps = [d for d in (x.axis, x.axis + lost) if -len(op.shape) <= d < 0 and op.shape[d] == shape[x.axis]]
    if keeps and not (split > 1 and split % round(1 / share) == 0):
        axis, positions = keeps[0], max(round(f.positions * share), 1)
        places = picked_positions(op, x, axis)
        q = f.q if f.q.shape == torch.Size(op.shape[2:]) else f.q.mean()
        q = q if places is None else f.q[places]
        left = (positions - 1) / max(f.positions - 1, 1)
    else:
        axis, positions, left = (keeps[0] if keeps else x.axis if lost == 0 else -1), f.positions, 1.0
        q, channels = f.q, round(channels * share) or 1
    field = replace(f, q=q, positions=positions, channels=channels)
    signal = replace(x, field=field, axis=axis, response=None if lost else x.response, parts=())
    if x.fresh is not None and channels < f.channels:
        # Some of a layer's rows scatter by themselves, more than all do together.
        few, own = f.channels / channels, x.noise[x.fresh]
        source = context.source(few * context.variances[x.fresh])
        added = f.spread - (f.spread if x.given is None else x.given)
        field = replace(field, spread=f.spread + (few - 1) * added)
        noise = x.noise.without(x.fresh).having(source, own)
        signal = replace(signal, field=field, noise=noise, fresh=source)

    def pull(g: Gradient) -> list[Gradient | None]:
        """The mean over all positions, of which pairs are in the part as often as chance has it."""
        c = replace(g.c, near=g.c.near * left, within=g.c.within * left, elsewhere=g.c.elsewhere * left)
        if places is None:
            return [replace(g, q=(g.q.mean() * share).expand(f.q.shape), c=c, parts=())]
        q = torch.zeros_like(f.q).index_add(0, places.reshape(-1), on_map(g.q, places.reshape(-1).shape))
        # Where most positions have none, the rest have squares that are larger than their mean is.
        same = (c.same_place**2 + g.spread.same_place) / share - c.same_place**2
        return [replace(g, q=q, c=c, spread=replace(g.spread, itself=unevenness(q), same_place=same), parts=())]

    return signal, pull


def picked_positions(op: Operation, x: Signal, axis: int) -> Tensor | None:
    """Which positions an index picks, found by picking their numbers; None where that is not one tensor of them."""
    f, shape = x.field, op.in_shapes[0]
    sides = [d for d in range(1, len(shape)) if d != x.axis % len(shape) and shape[d] == f.positions]
    if f.q.shape != (f.positions,) or len(sides) != 1 or math.prod(shape[1:]) != f.positions * shape[x.axis]:
        return None
    numbers = torch.arange(f.positions).reshape([-1 if d == sides[0] else 1 for d in range(len(shape))]).expand(shape)
    part = op.function(numbers, *op.args[1:], **{key: value for key, value in op.kwargs.items() if key != "input"})
    return part.select(axis, 0)[0] if isinstance(part, Tensor) and part.dim() > 1 and len(part) == shape[0] else None


def copied(context: Context, op: Operation, x: Signal) -> Result:
    """The same numbers several times: their gradients add up."""
    copies = math.prod(op.shape) // math.prod(op.in_shapes[0])
    f = x.field
    same = Pairs(1.0, 1.0, 1.0, f.c.same_place, f.c.same_place)
    c = same if f.positions == 1 else f.c
    signal = replace(x, field=replace(f, q=f.q.mean(), c=c, positions=f.positions * copies), response=None)
    return signal, lambda g: [summed(g, x, copies)]
