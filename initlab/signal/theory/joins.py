"""Mean field of sums, products, concatenations and dropout, of signals with each other and with constants."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from initlab.signal.theory.chains import DIFFERENCES, QUOTIENTS
from initlab.signal.theory.field import NONE, Field, NoRule, Pairs, even, field_of
from initlab.signal.theory.meanfield import Context, Gradient, Result, Signal, on_map
from initlab.signal.theory.scatter import Noise, mixed
from initlab.signal.theory.spread import crossing
from initlab.signal.theory.trace import LIVE, Operation

# A term or factor: its signal, and its place among the call's inputs; None for a constant.
Operand = tuple[Signal, int | None]


def total(context: Context, op: Operation, *inputs: Signal) -> Result:
    """A sum or difference, of a residual's branch and its skip or with a constant: second moments add.

    Branches that end in a weight layer are independent of the skip; what two have in common is the product of means.
    """
    (x, left), (y, right) = operands(op, inputs)
    weight = float(op.kwargs.get("alpha", 1)) * (-1.0 if op.function in DIFFERENCES else 1.0)
    positions = max(x.field.positions, y.field.positions)
    a, b = x.field.on(positions), times_constant(y.field, weight).on(positions)
    cross = a.mean * b.mean * math.sqrt(a.level * b.level)
    q = maps(torch.add, a.q, b.q) + 2 * cross
    level = max(float(q.mean()), 1e-300)
    c = ((a.level * a.c + b.level * b.c + 2 * cross) / level).clipped()
    spread = (a.level / level) ** 2 * a.spread + (b.level / level) ** 2 * b.spread
    channels = max(a.channels, b.channels)
    mean = (a.mean * math.sqrt(a.level) + b.mean * math.sqrt(b.level)) / math.sqrt(level)
    noise = mixed(((a.level + cross) / level, x.noise), ((b.level + cross) / level, y.noise))
    if left is not None and right is not None:
        both = a.level * b.level / level**2 / channels
        common = a.mean**2 * b.mean**2
        alike = context.average(a.c * b.c, positions) - common
        noise = noise.having(context.source(4 * both * alike))
        spread = spread + both * crossing(a.c, b.c, c, alike)
    field = Field(q, c, float(np.clip(mean, -1, 1)), positions, channels, spread)
    axis, balanced = leading(op, x, left, y, right), (a.level * x.balanced + b.level * y.balanced) / level
    signal = Signal(field, noise, *fresh_beside(x, left, y, right), axis=axis, balanced=balanced)

    def pull(g: Gradient) -> list[Gradient | None]:
        """A sum hands its gradient to both."""
        first = replace(g, radial=g.radial.times((a.level / level) ** 2))
        second = replace(g, q=g.q * weight**2, radial=g.radial.times((b.level / level) ** 2))
        ends = [(first, x, left), (second, y, right)]
        return by_place([(place, gathered(context, op, h, s, place)) for h, s, place in ends if place is not None])

    return signal, pull


def times(context: Context, op: Operation, *inputs: Signal) -> Result:
    """A product of independent signals, as of a gate, or with a constant, or a quotient by one: moments multiply."""
    if op.kwargs.get("rounding_mode"):
        raise NoRule(op.function, f"rounding_mode = {op.kwargs['rounding_mode']!r}")
    (x, left), (y, right) = operands(op, inputs, reciprocal=op.function in QUOTIENTS)
    positions = max(x.field.positions, y.field.positions)
    a, b = x.field.on(positions), y.field.on(positions)
    spread = a.c**2 * b.spread + b.c**2 * a.spread + a.spread * b.spread
    q, channels = maps(torch.mul, a.q, b.q), max(a.channels, b.channels)
    field = Field(q, (a.c * b.c).clipped(), a.mean * b.mean, positions, channels, spread)
    noise = mixed((1.0, x.noise), (1.0, y.noise))
    if left is not None and right is not None:
        # Beyond the scatter of each: E[a^2 a'^2] is 1 + 2 c^2 for normals.
        both = context.average(4 * a.c**2 * b.c**2, positions) / channels
        noise = noise.having(context.source(both))
    signal = Signal(field, noise, *fresh_beside(x, left, y, right), axis=leading(op, x, left, y, right))

    def pull(g: Gradient) -> list[Gradient | None]:
        """The gradient times the other factor."""
        parts: list[tuple[int, Gradient]] = []
        for s, other, noise, place in ((x, b, y.noise, left), (y, a, x.noise, right)):
            if place is not None:
                q, spread = maps(torch.mul, g.q, other.q), g.spread * other.c**2
                h = Gradient(q, g.c * other.c, spread, mixed((1.0, g.noise), (1.0, noise)), g.fresh, radial=g.radial)
                parts.append((place, gathered(context, op, h, s, place)))
        return by_place(parts)

    return signal, pull


def operands(op: Operation, inputs: Sequence[Signal], reciprocal: bool = False) -> tuple[Operand, Operand]:
    """Left and right of a sum or product; constants as signals, the right one's `reciprocal` in a quotient."""
    sides: list[Operand] = []
    place = 0
    for value in (op.argument(0, "input"), op.argument(1, "other")):
        if value is LIVE:
            sides.append((inputs[place], place))
            place += 1
        else:
            number = torch.as_tensor(value, dtype=torch.float64).detach()
            field = constant(1 / number if reciprocal else number, op, inputs[0].axis)
            sides.append((Signal(field, Noise()), None))
    left, right = reversed(sides) if op.function.__name__.startswith(("__r", "rsub")) else sides
    return left, right


def constant(numbers: Tensor, op: Operation, axis: int) -> Field:
    """The field of a number, or of a tensor that is spread over what the call gives."""
    if numbers.numel() == 1:
        return even(float(numbers), 1, 1)
    rank = len(op.shape)
    numbers = numbers.reshape((1,) * (rank - numbers.dim()) + numbers.shape)
    fixed = rank < 2 or numbers.shape[0] == 1
    return field_of(numbers.expand(numbers.shape[:1] + op.shape[1:]), axis if rank > 1 else None, fixed)


def times_constant(f: Field, factor: float) -> Field:
    """A field times a number."""
    return f if factor == 1 else replace(f, q=f.q * factor**2, mean=math.copysign(1.0, factor) * f.mean)


def fresh_beside(x: Signal, left: int | None, y: Signal, right: int | None) -> tuple[int | None, Pairs | None]:
    """The source of a fresh layer that has only a constant beside it, and the spread that was given to it."""
    fresh = x if right is None else y if left is None else None
    return (fresh.fresh, fresh.given) if fresh else (None, None)


def leading(op: Operation, x: Signal, left: int | None, y: Signal, right: int | None) -> int:
    """The channels' dimension of a result: that of the operand with more dimensions."""
    if left is None or right is None:
        return y.axis if left is None else x.axis
    return y.axis if len(op.in_shapes[right]) > len(op.in_shapes[left]) else x.axis


def maps(operation: Any, a: Tensor, b: Tensor) -> Tensor:
    """A sum or product of mean squares at each position; of maps of unlike shape the mean of the second."""
    alike = a.dim() == 0 or b.dim() == 0 or a.shape == b.shape
    spread_out = a.dim() == b.dim() and (a.numel() == 1 or b.numel() == 1)
    result: Tensor = operation(a, b if alike or spread_out else b.mean())
    return result


def by_place(parts: list[tuple[int, Gradient]]) -> list[Gradient | None]:
    """Gradients in the order of the call's inputs."""
    return [part for _, part in sorted(parts, key=lambda pair: pair[0])]


def gathered(context: Context, op: Operation, g: Gradient, x: Signal, place: int) -> Gradient:
    """The gradient at an operand: where it was spread over positions, channels or examples, the sum over them."""
    shape, out = op.in_shapes[place], op.shape
    shape = (1,) * (len(out) - len(shape)) + tuple(shape)
    if shape == out:
        return replace(g, q=on_map(g.q, x.field.q.shape), fresh=None)
    ratios = [n // m for n, m in zip(out, shape, strict=True)]
    channels = ratios.pop(x.axis)
    examples = context.examples if len(ratios) and ratios[0] > 1 else 1
    return summed(g, x, math.prod(ratios[1:]), examples, channels)


def summed(g: Gradient, x: Signal, positions: int, examples: int = 1, channels: int = 1) -> Gradient:
    """The sum of a gradient over so many positions, examples and channels, at a signal that has one for all."""
    c, others = g.c, positions - 1
    pairs = 1 + others * c.within + (examples - 1) * (c.same_place + others * c.elsewhere)
    pairs = max(pairs, 1e-12)
    same = 1.0 if examples > 1 else (c.same_place + others * c.elsewhere) / pairs
    level = (g.q.mean() * (pairs * positions * examples * channels)).expand(x.field.q.shape)
    left = Pairs(1.0, c.near, c.within, same, same).clipped()
    return Gradient(level, left, g.spread, g.noise, radial=g.radial)


def negated(context: Context, op: Operation, x: Signal) -> Result:
    """The same with the other sign."""
    return replace(x, field=times_constant(x.field, -1.0), response=None, normals=None), lambda g: [g]


def join(context: Context, op: Operation, *inputs: Signal) -> Result:
    """A concatenation, constants among its parts: averages over them, by size; positions of two share their means."""
    rank, axis = len(op.shape), inputs[0].axis
    dim = int(op.argument(1, "dim", op.kwargs.get("axis", 0)))
    dim = dim if dim < 0 else dim - rank
    live = iter(zip(inputs, op.in_shapes, strict=True))
    fields, sizes, places = [], [], []
    noises: list[Noise] = []
    for part in op.argument(0, "tensors"):
        if part is LIVE:
            signal, shape = next(live)
            fields.append(signal.field)
            sizes.append(shape[dim])
            noises.append(signal.noise)
            places.append(len(fields) - 1)
        else:
            fields.append(field_of(part, axis, fixed=rank < 2 or bool((part == part[:1]).all())))
            sizes.append(part.shape[dim])
            noises.append(Noise())
    shares = np.array(sizes, dtype=float) / sum(sizes)
    alike = all(f.q.shape == fields[0].q.shape for f in fields) and dim in (axis, -rank)
    q = sum((f.q if alike else f.q.mean()) * share for f, share in zip(fields, shares.tolist(), strict=True))
    in_turn = rank == 3 and dim not in (axis, -rank)
    if in_turn:
        q = torch.cat([on_map(f.q, (size,)) for f, size in zip(fields, sizes, strict=True)])
    roots = shares * np.sqrt([f.level for f in fields])
    weights = shares * np.array([f.level for f in fields])
    level = weights.sum()
    weights = weights / level if level > 0 else shares
    means = roots * np.array([f.mean for f in fields])
    mean = float(means.sum() / math.sqrt(level)) if level > 0 else 0.0
    c = sum((w * f.c for w, f in zip(weights.tolist(), fields, strict=True)), start=NONE).clipped()
    along_channels, positions = dim == axis, max(f.positions for f in fields)
    if not along_channels and dim != -rank:
        positions = sum(sizes) * max(f.positions // size for f, size in zip(fields, sizes, strict=True))
        c = beside(fields, sizes, weights, mean**2 - float((means**2).sum()) / level if level > 0 else 0.0, c)
    channels = sum(f.channels for f in fields) if along_channels else fields[0].channels
    joined = Field(torch.as_tensor(q), c, float(np.clip(mean, -1, 1)), positions, channels)
    parts = tuple(zip(shares.tolist(), fields, strict=True)) if along_channels else ()
    noise = mixed(*zip(weights.tolist(), noises, strict=True))

    def pull(g: Gradient) -> list[Gradient | None]:
        """Each part gets its own channels' gradient."""
        levels = g.parts or (1.0,) * len(fields)
        if in_turn:
            parts = on_map(g.q, (sum(sizes),)).split(sizes)
            return [replace(g, q=on_map(parts[place], fields[place].q.shape), fresh=None) for place in places]
        maps = [levels[place] * on_map(g.q, fields[place].q.shape) for place in places]
        radials = [g.radial.times(float(weights[place]) ** 2) for place in places]
        return [replace(g, q=q, fresh=None, parts=(), radial=r) for q, r in zip(maps, radials, strict=True)]

    return Signal(joined, noise, parts=parts, axis=axis), pull


def beside(fields: list[Field], sizes: list[int], weights: Any, across: float, c: Pairs) -> Pairs:
    """Correlations of positions, some of which belong to one part and some to two; `across` is that of two parts."""
    counts = np.array(sizes, dtype=float)
    total = counts.sum()
    # The partners of a position within its own part, as a share of all its partners.
    own = (counts - 1) / max(total - 1, 1.0)
    within = float(sum(w * o * f.c.within for w, o, f in zip(weights, own, fields, strict=True))) + across
    elsewhere = float(sum(w * o * f.c.elsewhere for w, o, f in zip(weights, own, fields, strict=True))) + across
    return Pairs(1.0, c.near, within, c.same_place, elsewhere).clipped()


def dropout(context: Context, op: Operation, x: Signal) -> Result:
    """Dropout in training: second moments over 1 - p, in both directions; nothing where it is off."""
    if not context.dropout:
        return x, lambda g: [g]
    p = float(op.argument(1, "p", 0.5))
    field = replace(
        x.field, q=x.field.q / (1 - p), c=(x.field.c * (1 - p)).clipped(), mean=x.field.mean * math.sqrt(1 - p)
    )
    signal = Signal(field, x.noise, axis=x.axis)
    return signal, lambda g: [replace(g, q=g.q / (1 - p), c=(g.c * (1 - p)).clipped(), spread=g.spread * (1 - p) ** 2)]


def stopped(context: Context, op: Operation, x: Signal) -> Result:
    """`detach`: the signal goes on, the gradient does not come back."""
    return x, lambda g: [None]
