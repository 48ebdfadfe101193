"""The rules of mean field by torch function, and what was measured on the spot where there is none."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F

from initlab.init.activations import by_name, resolve
from initlab.init.expectations import Rectifier
from initlab.signal.theory.activation import activation
from initlab.signal.theory.attention import attention
from initlab.signal.theory.chains import DIFFERENCES, MEANS, PRODUCTS, QUOTIENTS, SUMS, SUMS_OVER, Chain, variants
from initlab.signal.theory.field import NoRule, channel_axis
from initlab.signal.theory.grouped import activated, convolved, normed
from initlab.signal.theory.joins import dropout, join, negated, stopped, times, total
from initlab.signal.theory.meanfield import Context, Gradient, Result, Signal
from initlab.signal.theory.norms import PLACES, norm
from initlab.signal.theory.pooling import POOLS, pool, reduced
from initlab.signal.theory.recurrent import recurrent
from initlab.signal.theory.response import LARGEST, SMALLEST, Phi, Response
from initlab.signal.theory.scatter import Noise
from initlab.signal.theory.shapes import SHAPES
from initlab.signal.theory.steps import stepped
from initlab.signal.theory.trace import RECURRENT, WEIGHTED, Operation, given

Rule = Callable[..., Result]
RECTIFIERS, LEAKY, PRELU = variants("relu"), variants("leaky_relu"), {F.prelu, torch.prelu}
JOINS = variants("cat concat concatenate")
DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)


def activation_call(context: Context, op: Operation, x: Signal) -> Result:
    """The rule of an activation, at the level and mean of its input."""
    level = max(x.field.level, SMALLEST)
    if not level <= LARGEST:
        raise NoRule(op.function, f"a signal of mean square {level:.3g}")
    response = Response(phi_of(op), level, max(min(x.field.mean, 1 - 1e-6), 1e-6 - 1))
    return activated(context, x, activation(context, response, x))


def embedded(context: Context, op: Operation, ids: Signal) -> Result:
    """Rows of a table, whose moments count as they are, like the input's."""
    assert op.after is not None
    return Signal(op.after, Noise()), lambda g: [None]


def source(context: Context, op: Operation) -> Result:
    """A constant that goes into a weight layer."""
    assert op.after is not None
    return Signal(op.after, Noise()), lambda g: []


# Their moments are measured: as those of a source, or for calls that their rule does not cover.
SOURCES, PARTLY = (F.embedding, given), MEANS | SUMS_OVER | set(RECURRENT)
SEVERAL_INPUTS = SUMS | DIFFERENCES | PRODUCTS | JOINS
# By function; each takes the context, the operation and the signals that go in.
RULES: dict[Any, Rule] = {
    **dict.fromkeys(PRELU, activation_call),
    **dict.fromkeys(WEIGHTED, convolved),
    **dict.fromkeys(POOLS, pool),
    **dict.fromkeys(PLACES, norm),
    F.batch_norm: normed,
    **dict.fromkeys(PRODUCTS | QUOTIENTS, times),
    **dict.fromkeys(variants("neg negative"), negated),
    **dict.fromkeys(variants("detach"), stopped),
    **dict.fromkeys(DROPOUTS, dropout),
    **dict.fromkeys(SHAPES, stepped),
    **dict.fromkeys(SUMS | DIFFERENCES, total),
    **dict.fromkeys(JOINS, join),
    **dict.fromkeys(MEANS | SUMS_OVER, reduced),
    **dict.fromkeys(RECURRENT, recurrent),
    F.scaled_dot_product_attention: attention,
    F.embedding: embedded,
    given: source,
}


def known(function: Any, live: int, leads: bool) -> bool:
    """Whether a rule holds for this function with so many inputs that depend on the model's, the first among them."""
    one = live == 1 and leads and function in RULES
    if function is F.scaled_dot_product_attention:
        return live == 3
    return function in SEVERAL_INPUTS or (one and function not in SOURCES and function not in PARTLY)


def rule_of(op: Operation) -> Rule:
    """The rule of an operation."""
    if op.phi is not None and op.of_rule:
        return activation_call
    if op.after is None or op.function in SOURCES or (op.function in PARTLY and len(op.inputs) == 1):
        return RULES[op.function]
    return measured


def phi_of(op: Operation) -> Phi:
    """The activation of a call, with its arguments."""
    if op.function in PRELU:
        return Rectifier("prelu", tuple(op.argument(1, "weight").detach().double().flatten().tolist()))
    assert op.phi is not None
    if not op.rooted and op.function in RECTIFIERS:
        return by_name("relu")
    if not op.rooted and op.function in LEAKY:
        return Rectifier("leaky_relu", (float(op.argument(1, "negative_slope", 0.01)),))
    return elementwise(op.phi)


@lru_cache(maxsize=256)
def elementwise(phi: Chain) -> Phi:
    """The expectations of a function, kept for the next layer."""
    try:
        return resolve(phi)
    # With these arguments it is random, as `rrelu` in training, or not elementwise.
    except ValueError as error:
        raise NoRule(phi, str(error)) from error


def measured(context: Context, op: Operation, *inputs: Signal) -> Result:
    """An operation without a rule: what the recorder measured of it, relative to its first input."""
    assert op.before is not None and op.after is not None
    scale = inputs[0].field.level / op.before.level if op.before.level > 0 else 1.0
    shapes = [signal.field.q.shape for signal in inputs]

    def pull(g: Gradient) -> list[Gradient | None]:
        """The measured factors carry the gradient to the inputs."""
        maps = [(g.q.mean() * factor).expand(shape) for shape, factor in zip(shapes, op.pulls, strict=True)]
        return [Gradient(q, g.c, g.spread, g.noise) for q in maps]

    field = replace(op.after, q=op.after.q * scale)
    return Signal(field, inputs[0].noise, axis=channel_axis(op.shape)), pull
