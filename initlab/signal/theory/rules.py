"""The rules of mean field by torch function, and what was measured on the spot where there is none."""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from initlab.init.activations import by_name, resolve
from initlab.init.expectations import Rectifier
from initlab.signal.probe import ACTIVATIONS
from initlab.signal.theory.joins import DIFFERENCES, QUOTIENTS, dropout, join, reshaped, times, total
from initlab.signal.theory.meanfield import Context, Gradient, Result, Signal, activation, weighted
from initlab.signal.theory.norms import norm
from initlab.signal.theory.pooling import POOLS, pool
from initlab.signal.theory.response import SMALLEST, Phi, Response
from initlab.signal.theory.trace import Operation, Ref

WEIGHTED = {F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d}
RECTIFIERS = {F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}
LEAKY, PRELU = {F.leaky_relu, F.leaky_relu_}, {F.prelu, torch.prelu}
SUMS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}
PRODUCTS = {torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__}
SHAPES = {
    torch.flatten, Tensor.flatten, Tensor.view, Tensor.reshape, torch.reshape, Tensor.permute, torch.permute,
    Tensor.transpose, torch.transpose, Tensor.contiguous, Tensor.squeeze, torch.squeeze, Tensor.unsqueeze,
    torch.unsqueeze, Tensor.to, Tensor.float, Tensor.double, Tensor.half, Tensor.clone, torch.clone, Tensor.detach,
    Tensor.__getitem__, Tensor.chunk, torch.chunk, Tensor.split, torch.split, Tensor.unbind, torch.unbind,
    Tensor.expand, torch.roll, Tensor.roll, Tensor.type, Tensor.requires_grad_,
}  # fmt: skip
JOINS = {torch.cat, torch.concat, torch.concatenate}
DROPOUTS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout}
NORMS = {F.batch_norm, F.layer_norm, F.group_norm, F.rms_norm}
ONE_INPUT = (
    WEIGHTED | ACTIVATIONS | RECTIFIERS | LEAKY | PRELU | SHAPES | DROPOUTS | NORMS | POOLS | PRODUCTS | QUOTIENTS
)


def known(function: Any, live: int) -> bool:
    """Whether a rule holds for this function with so many inputs that depend on the model's."""
    several = SUMS | DIFFERENCES | JOINS
    return function in several or (live == 1 and function in ONE_INPUT)


def apply(rule: Context, op: Operation, inputs: list[Signal], shapes: list[tuple[int, ...]]) -> Result:
    """The rule of an operation; `shapes` are its inputs'."""
    function, x = op.function, inputs[0]
    if op.after is not None:
        return measured(op, inputs)
    if function in WEIGHTED:
        return weighted(rule, op, x, shapes[0])
    if function in POOLS:
        return pool(op, x, shapes[0])
    if function in NORMS:
        return norm(rule, op, x)
    if function in SUMS | DIFFERENCES:
        return total(op, inputs)
    if function in JOINS:
        return join(op, inputs, shapes)
    if function in PRODUCTS | QUOTIENTS:
        return times(op, x)
    if function in DROPOUTS:
        return dropout(rule, op, x)
    if function in SHAPES:
        return reshaped(op, x, shapes[0])
    level = max(x.field.level, SMALLEST)
    return activation(rule, Response(phi_of(op), level, min(x.field.mean, 1 - 1e-6)), x)


def phi_of(op: Operation) -> Phi:
    """The activation of a call, with its arguments."""
    function, rest = op.function, op.args[1:]
    if function in RECTIFIERS:
        return by_name("relu")
    if function in LEAKY:
        slope = rest[0] if rest else op.kwargs.get("negative_slope", 0.01)
        return Rectifier("leaky_relu", (float(slope),))
    if function in PRELU:
        weight = rest[0] if rest else op.kwargs["weight"]
        return Rectifier("prelu", tuple(weight.detach().double().flatten().tolist()))
    options = {key: value for key, value in op.kwargs.items() if key != "inplace" and not isinstance(value, Ref)}
    return elementwise(function, tuple(rest), tuple(sorted(options.items())))


def elementwise(function: Any, rest: tuple[Any, ...], options: tuple[tuple[str, Any], ...]) -> Phi:
    """The expectations of a function with these further arguments, kept for the next layer."""
    key = (function, rest, options)
    if key not in KEPT:
        KEPT[key] = resolve(lambda x: function(x, *rest, **dict(options)))
    return KEPT[key]


KEPT: dict[Any, Phi] = {}


def measured(op: Operation, inputs: list[Signal]) -> Result:
    """An operation without a rule: what the recorder measured of it, relative to its first input."""
    assert op.before is not None and op.after is not None
    x, before = inputs[0], op.before.level
    scale = x.field.level / before if before > 0 else 1.0
    signal = Signal(replace(op.after, q=op.after.q * scale), x.noise)

    def pull(g: Gradient) -> list[Gradient]:
        return [
            Gradient((g.q.mean() * factor).expand(s.field.q.shape), g.c, g.spread, g.noise)
            for s, factor in zip(inputs, op.pulls, strict=True)
        ]

    return signal, pull
