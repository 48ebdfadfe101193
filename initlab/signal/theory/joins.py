"""Mean field of sums, concatenations, scalings, dropout and changes of shape."""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from initlab.signal.theory.field import NONE, Field, NoRule, Pairs
from initlab.signal.theory.meanfield import Context, Gradient, Result, Signal, mixed, on_map
from initlab.signal.theory.trace import Operation

DIFFERENCES = {torch.sub, Tensor.sub, Tensor.sub_, Tensor.__sub__, Tensor.__isub__}
QUOTIENTS = {torch.div, Tensor.div, Tensor.div_, Tensor.__truediv__, Tensor.__itruediv__}


def total(context: Context, op: Operation, *inputs: Signal) -> Result:
    """A sum, of a residual's branch and its skip or with a constant: second moments add.

    Branches that end in a weight layer are independent of the skip; two that both have a mean share its square.
    """
    if op.kwargs.get("alpha", 1) != 1:
        raise NoRule(op.function, f"alpha = {op.kwargs['alpha']}")
    sign = -1.0 if op.function in DIFFERENCES else 1.0
    if len(inputs) == 1:
        square = float(constant(op, default=0.0).square().mean())
        f = inputs[0].field
        share = f.level / (f.level + square) if f.level + square > 0 else 1.0
        c = (share * f.c + 1 - share).clipped()
        noise = mixed((share, inputs[0].noise))
        signal = Signal(replace(f, q=f.q + square, c=c, mean=f.mean * math.sqrt(share)), noise, inputs[0].fresh)
        return signal, lambda g: [g]
    a, b = inputs[0].field, inputs[1].field
    same = op.inputs[0] == op.inputs[1]
    mean = math.sqrt(a.level) * a.mean + sign * math.sqrt(b.level) * b.mean
    cross = sign * (math.sqrt(a.level * b.level) * (1.0 if same else a.mean * b.mean))
    q = (a.q + b.q if a.q.shape == b.q.shape or not (a.q.dim() and b.q.dim()) else a.q + b.q.mean()) + 2 * cross
    level = float(q.mean())
    c = ((a.level * a.c + b.level * b.c + 2 * cross) / level).clipped() if level > 0 else a.c
    weights = [f.level / (a.level + b.level) if a.level + b.level > 0 else 0.5 for f in (a, b)]
    larger = a if a.positions >= b.positions else b
    mean = min(abs(mean) / math.sqrt(level), 1.0) if level > 0 else 0.0
    field = replace(larger, q=q, c=c, mean=mean)

    def pull(g: Gradient) -> list[Gradient]:
        """A sum hands its gradient to both inputs."""
        return [replace(g, q=on_map(g.q, f.q.shape), fresh=None) for f in (a, b)]

    return Signal(field, mixed((weights[0], inputs[0].noise), (weights[1], inputs[1].noise))), pull


def constant(op: Operation, default: float) -> Tensor:
    """What a sum or product has beside the model's signal, float64."""
    values = (v for v in (*op.args, *op.kwargs.values()) if isinstance(v, (Tensor, int, float)))
    return torch.as_tensor(next(values, default), dtype=torch.float64).detach()


def join(context: Context, op: Operation, *inputs: Signal) -> Result:
    """A concatenation: averages over its parts, by size."""
    dim = op.argument(1, "dim", 0)
    sizes = np.array([shape[dim] for shape in op.in_shapes], dtype=float)
    shares = sizes / sizes.sum()
    fields = [signal.field for signal in inputs]
    alike = all(f.q.shape == fields[0].q.shape for f in fields)
    maps = [f.q if alike else f.q.mean() for f in fields]
    q = torch.stack([m * share for m, share in zip(maps, shares, strict=True)]).sum(0)
    weights = shares * np.array([f.level for f in fields])
    weights = weights / weights.sum() if weights.sum() > 0 else shares
    c = sum((w * f.c for w, f in zip(weights.tolist(), fields, strict=True)), start=NONE).clipped()
    mean = math.sqrt(sum(w * f.mean**2 for w, f in zip(weights, fields, strict=True)))
    positions = op.shape[1] if len(op.shape) == 3 else max(f.positions for f in fields)
    channels = op.shape[-1] if len(op.shape) <= 3 else op.shape[1]
    along_channels = dim == 1 and len(op.shape) != 3
    parts = tuple(zip(shares.tolist(), fields, strict=True)) if along_channels else ()
    joined = Field(q, c, mean, positions, channels)
    noise = mixed(*zip(weights.tolist(), (signal.noise for signal in inputs), strict=True))
    signal = Signal(joined, noise, parts=parts)

    def pull(g: Gradient) -> list[Gradient]:
        """Each part gets its own channels' gradient."""
        levels = g.parts or (1.0,) * len(fields)
        maps = [level * on_map(g.q, f.q.shape) for f, level in zip(fields, levels, strict=True)]
        return [replace(g, q=q, fresh=None, parts=()) for q in maps]

    return signal, pull


def times(context: Context, op: Operation, x: Signal) -> Result:
    """A product with, or quotient by, something that does not depend on the input."""
    if op.kwargs.get("rounding_mode"):
        raise NoRule(op.function, f"rounding_mode = {op.kwargs['rounding_mode']!r}")
    values = constant(op, default=1.0)
    factor = float((1 / values if op.function in QUOTIENTS else values).square().mean())
    signal = replace(x, field=replace(x.field, q=x.field.q * factor), response=None, normals=None)
    return signal, lambda g: [replace(g, q=g.q * factor)]


def dropout(context: Context, op: Operation, x: Signal) -> Result:
    """Dropout in training: second moments over 1 - p, in both directions; nothing where it is off."""
    if not context.dropout:
        return x, lambda g: [g]
    p = float(op.argument(1, "p", 0.5))
    c = (x.field.c * (1 - p)).clipped()
    signal = Signal(replace(x.field, q=x.field.q / (1 - p), c=c, mean=x.field.mean * math.sqrt(1 - p)), x.noise)
    return signal, lambda g: [replace(g, q=g.q / (1 - p), c=(g.c * (1 - p)).clipped(), spread=g.spread * (1 - p) ** 2)]


def reshaped(context: Context, op: Operation, x: Signal) -> Result:
    """A change of shape: maps that become vectors have one position, whose pairs average over the map's."""
    f, out, in_shape = x.field, op.shape, op.in_shapes[0]
    # The gradient of a part is none for the rest, those of copies add up.
    gradient = math.prod(out) / math.prod(in_shape)
    if out == in_shape or (f.q.dim() and out[2:] == in_shape[2:]):
        same = replace(x, field=replace(f, channels=out[1] if len(out) > 3 else out[-1]))
        return same, lambda g: [replace(g, q=g.q * gradient)]
    dims = len(out)
    positions = 1 if dims <= 2 else out[1] if dims == 3 else math.prod(out[2:])
    channels = out[1] if dims >= 4 else out[-1]
    c = f.c
    if positions == 1 and f.positions > 1 and math.prod(out) == math.prod(in_shape):
        # A unit's only partners now are the same place of other examples.
        c = Pairs.alike(f.c.same_place, f.c.itself)
    signal = Signal(Field(f.q.mean(), c, f.mean, positions, channels, f.spread), x.noise)

    def pull(g: Gradient) -> list[Gradient]:
        """The gradient is shared out alike over the positions."""
        c = g.c
        # Each position meets other weights, so that no two have gradients alike.
        if positions == 1 and f.positions > 1:
            c = replace(NONE, itself=c.itself, same_place=c.same_place)
        return [Gradient((g.q.mean() * gradient).expand(f.q.shape), c, g.spread, g.noise, g.fresh)]

    return signal, pull
