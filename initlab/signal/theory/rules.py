"""The rules of mean field by torch function, and what was measured on the spot where there is none."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from initlab.init.activations import by_name, resolve
from initlab.init.expectations import Rectifier
from initlab.signal.probe import ACTIVATIONS
from initlab.signal.theory.field import NoRule
from initlab.signal.theory.joins import DIFFERENCES, QUOTIENTS, dropout, join, reshaped, times, total
from initlab.signal.theory.meanfield import Context, Gradient, Result, Signal, activation, weighted
from initlab.signal.theory.norms import PLACES, norm
from initlab.signal.theory.pooling import POOLS, pool
from initlab.signal.theory.response import LARGEST, SMALLEST, Phi, Response
from initlab.signal.theory.trace import LIVE, Operation

Rule = Callable[..., Result]
RECTIFIERS = {F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}
LEAKY, PRELU = {F.leaky_relu, F.leaky_relu_}, {F.prelu, torch.prelu}
SHAPES: set[Any] = {
    torch.flatten, Tensor.flatten, Tensor.view, Tensor.reshape, torch.reshape, Tensor.permute, torch.permute,
    Tensor.transpose, torch.transpose, Tensor.contiguous, Tensor.squeeze, torch.squeeze, Tensor.unsqueeze,
    torch.unsqueeze, Tensor.to, Tensor.float, Tensor.double, Tensor.half, Tensor.clone, torch.clone, Tensor.detach,
    Tensor.__getitem__, Tensor.chunk, torch.chunk, Tensor.split, torch.split, Tensor.unbind, torch.unbind,
    Tensor.expand, torch.roll, Tensor.roll, Tensor.type, Tensor.requires_grad_,
}  # fmt: skip
WEIGHTED = (F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
SUMS = (torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__)
PRODUCTS = (torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__)
JOINS = (torch.cat, torch.concat, torch.concatenate)
DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout)


def activation_call(context: Context, op: Operation, x: Signal) -> Result:
    """The rule of an activation, at the level and mean of its input."""
    level = max(x.field.level, SMALLEST)
    if not level <= LARGEST:
        raise NoRule(op.function, f"a signal of mean square {level:.3g}")
    return activation(context, Response(phi_of(op), level, min(x.field.mean, 1 - 1e-6)), x)


SEVERAL_INPUTS = {*SUMS, *DIFFERENCES, *JOINS}
# By function; each takes the context, the operation and the signals that go in.
RULES: dict[Any, Rule] = {
    **dict.fromkeys(ACTIVATIONS | RECTIFIERS | LEAKY | PRELU, activation_call),
    **dict.fromkeys(WEIGHTED, weighted),
    **dict.fromkeys(POOLS, pool),
    **dict.fromkeys(PLACES, norm),
    **dict.fromkeys((*PRODUCTS, *QUOTIENTS), times),
    **dict.fromkeys(DROPOUTS, dropout),
    **dict.fromkeys(SHAPES, reshaped),
    **dict.fromkeys((*SUMS, *DIFFERENCES), total),
    **dict.fromkeys(JOINS, join),
}


def known(function: Any, live: int, leads: bool) -> bool:
    """Whether a rule holds for this function with so many inputs that depend on the model's, the first among them."""
    return function in SEVERAL_INPUTS or (live == 1 and function in RULES and (leads or function in PRODUCTS))


def phi_of(op: Operation) -> Phi:
    """The activation of a call, with its arguments."""
    if op.function in RECTIFIERS:
        return by_name("relu")
    if op.function in LEAKY:
        return Rectifier("leaky_relu", (float(op.argument(1, "negative_slope", 0.01)),))
    if op.function in PRELU:
        return Rectifier("prelu", tuple(op.argument(1, "weight").detach().double().flatten().tolist()))
    options = {key: value for key, value in op.kwargs.items() if key != "inplace" and value is not LIVE}
    return elementwise(op.function, op.args[1:], tuple(sorted(options.items())))


@cache
def elementwise(function: Any, rest: tuple[Any, ...], options: tuple[tuple[str, Any], ...]) -> Phi:
    """The expectations of a function with these further arguments, kept for the next layer."""

    def phi(x: Tensor) -> Any:
        """The function of its first argument alone."""
        return function(x, *rest, **dict(options))

    phi.__name__ = function.__name__.strip("_")
    try:
        return resolve(phi)
    # With these arguments it is random, as `rrelu` in training, or not elementwise.
    except ValueError as error:
        raise NoRule(function, str(error)) from error


def measured(context: Context, op: Operation, *inputs: Signal) -> Result:
    """An operation without a rule: what the recorder measured of it, relative to its first input."""
    assert op.before is not None and op.after is not None
    scale = inputs[0].field.level / op.before.level if op.before.level > 0 else 1.0
    shapes = [signal.field.q.shape for signal in inputs]

    def pull(g: Gradient) -> list[Gradient]:
        """The measured factors carry the gradient to the inputs."""
        maps = [(g.q.mean() * factor).expand(shape) for shape, factor in zip(shapes, op.pulls, strict=True)]
        return [Gradient(q, g.c, g.spread, g.noise) for q in maps]

    return Signal(replace(op.after, q=op.after.q * scale), inputs[0].noise), pull
