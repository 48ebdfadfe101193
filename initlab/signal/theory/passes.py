"""Mean field through a recorded model, forward and backward."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from initlab.signal.theory.cotangent import LossGradient, drawn_gradient, num_classes
from initlab.signal.theory.field import NONE, Field, NoRule
from initlab.signal.theory.independence import Origins
from initlab.signal.theory.joins import maps
from initlab.signal.theory.meanfield import Context, GateRow, Gradient, Pull, Radial, Signal
from initlab.signal.theory.proven import doubt_about
from initlab.signal.theory.rules import measured, rule_of
from initlab.signal.theory.scatter import Noise, mixed
from initlab.signal.theory.shapes import SHAPES
from initlab.signal.theory.spread import crossing
from initlab.signal.theory.trace import Trace

DIRECTIONS = ("forward", "backward")
QUANTILES = {"median": 0.5, "low": 0.025, "high": 0.975}
# Log-variance from which on a band is that of no net: e to its root is 5e13.
NO_BAND = 1000.0
PREDICTED = tuple(f"{direction}_{name}" for direction in DIRECTIONS for name in ("var", *QUANTILES))
# What stands behind a figure: rules, rules that hold only roughly there, or what was measured in the run.
BASES = ("theory", "approximate", "measured")
# Of gradients through batch norms: a residual net is off by a factor 2 where their errors add up to twice as much.
MOST_STRAIN = 0.3
# Weight layer -> a row for each of its calls.
Rows = dict[str, list[dict[str, Any]]]


def worst(*bases: str) -> str:
    """What stands behind a figure that all of these went into."""
    return max(bases, key=BASES.index)


@dataclass(frozen=True)
class Passed:
    """The signal after an operation, and what carries a gradient back through it."""

    signal: Signal
    pull: Pull
    sources: list[int]  # the operations to which the gradient goes
    own: str  # what stands behind the two, one of `BASES`
    basis: str  # what stands behind the signal, from the input on
    reason: str | None = None  # why the rule holds only roughly
    strain: float = 0.0  # the size of its error in the gradient, as a share of it
    doubt: str | None = None  # why the gradient's rule is not proven


def forward(context: Context, trace: Trace, start: Field) -> list[Passed | None]:
    """What comes of the input, operation by operation; None for those that neither a layer nor the output needs."""
    needed = reached(trace)
    passed: list[Passed | None] = []
    origins = Origins()
    # The batch is what it is: nothing of it scatters.
    origin = Signal(start, Noise(), given=NONE, axis=trace.axis)

    def signals(sources: list[int]) -> list[Signal]:
        """What the rule takes."""
        return [origin if number < 0 else before(number).signal for number in sources]

    def before(number: int) -> Passed:
        """What an earlier operation gave."""
        result = passed[number]
        assert result is not None
        return result

    for number, op in enumerate(trace.operations):
        if number not in needed:
            passed.append(None)
            origins.skip()
            continue
        sources = op.sources
        rule = rule_of(op)
        try:
            result = rule(context, op, *signals(sources))
        except NoRule:
            if op.after is None:
                raise
            sources, rule = op.inputs, measured
            result = measured(context, op, *signals(sources))
        signal = result[0]
        reason = origins.add(op, sources, bool(sources) and signal.field.channels < signals(sources)[0].field.channels)
        doubt = None if rule is measured else doubt_about(op, signals(sources))
        if doubt is not None and doubt.forward:
            reason = reason or doubt.reason
        own = "measured" if rule is measured else "approximate" if reason else "theory"
        basis = worst(own, *(before(source).basis for source in sources if source >= 0))
        # A batch norm takes two numbers from as many independent ones as its output has.
        f = signal.field
        strain = context.average(f.c**2, f.positions) if op.function is F.batch_norm else 0.0
        passed.append(Passed(*result, sources, own, basis, reason, strain, None if doubt is None else doubt.reason))
    return passed


def reached(trace: Trace) -> set[int]:
    """The operations that a layer or the output needs."""
    ends = [number for number, op in enumerate(trace.operations) if op.layer is not None]
    needed, waiting = set[int](), [*ends, trace.output]
    while waiting:
        number = waiting.pop()
        if number >= 0 and number not in needed:
            needed.add(number)
            op = trace.operations[number]
            waiting += op.sources if op.after is None else [*op.sources, *op.inputs]
    return needed


def backward(context: Context, trace: Trace, first: Gradient, passed: Sequence[Passed | None]) -> list[Gradient | None]:
    """The gradient at each operation's output; None where none arrives. Gradients that meet add their squares.

    Errors of many batch norms on the way add up: beyond `MOST_STRAIN` of the gradient it holds only roughly.
    """
    gradients: list[Gradient | None] = [None] * len(passed)
    strains = [0.0] * len(passed)
    gradients[trace.output] = first
    for number in reversed(range(trace.output + 1)):
        gradient, step = gradients[number], passed[number]
        if gradient is None or step is None:
            continue
        strain = strains[number] + step.strain
        own = worst(step.own, "approximate") if strain > MOST_STRAIN or step.doubt else step.own
        for source, part in zip(step.sources, step.pull(gradient), strict=True):
            if source >= 0 and part is not None:
                others, part = gradients[source], replace(part, basis=worst(gradient.basis, own))
                meeting = passed[source]
                if others is not None and meeting is not None:
                    part = added(context, others, part, meeting.signal)
                gradients[source] = part
                strains[source] = max(strains[source], strain)
    return gradients


def added(context: Context, a: Gradient, b: Gradient, x: Signal) -> Gradient:
    """The sum at a signal of two gradients whose weights are independent: squares add, products scatter."""
    f = x.field
    q = maps(torch.add, a.q, b.q)
    total = a.level + b.level
    shares = [a.level / total, b.level / total] if total > 0 else [0.5, 0.5]
    both = shares[0] * shares[1] / f.channels
    c = shares[0] * a.c + shares[1] * b.c
    alike = context.average(a.c * b.c, f.positions)
    spread = shares[0] ** 2 * a.spread + shares[1] ** 2 * b.spread + both * crossing(a.c, b.c, c, alike)
    noise = mixed((shares[0], a.noise), (shares[1], b.noise)).having(context.source(4 * both * alike))
    # Both follow the signal, so that these parts add up before they are squared.
    squares = [g.radial.square for g in (a, b)]
    common = 2 * math.sqrt(squares[0] * squares[1]) if min(squares) > 0 else 0.0
    parts = [abs(square) + common / 2 for square in squares]
    first = parts[0] / sum(parts) if sum(parts) > 0 else 0.5
    radial = Radial(sum(squares) + common, mixed((first, a.radial.noise), (1 - first, b.radial.noise)))
    steps = a.steps.plus(b.steps) if a.steps and b.steps else None
    centred = shares[0] * a.centred + shares[1] * b.centred
    basis = worst(a.basis, b.basis)
    chance = Gradient(q, c, spread, noise, basis=basis, steps=steps, radial=radial, centred=centred)
    share = chance.along(f) * common / radial.square if common > 0 else 0.0
    return chance.with_more_along(context, share, x)


def mean_field(context: Context, trace: Trace, start: Field, loss: LossGradient | None) -> tuple[Rows, str | None]:
    """Mean field forward and back through a recorded model, and why it holds only roughly where it does.

    Without a loss the gradient at the output is that of cross-entropy at labels at random.

    An output that is no differentiable number, as a class index, sends none back.
    """
    if not trace.operations:
        raise NoRule("forward", "nothing that the model computes depends on its input")
    passed = forward(context, trace, start)
    reason = next((step.reason for step in passed if step and step.reason), None)
    last = passed[trace.output] if trace.output >= 0 else None
    if last is None:
        return layer_rows(context, trace, passed, [None] * len(passed)), reason
    if loss is None:
        gradient = drawn_gradient(context, last.signal, num_classes(trace.logits.shape))
    elif not from_layer(trace, trace.output):
        # Logits that no layer gives may be anything, as probabilities, which normals are not.
        gradient = loss.here()
    else:
        gradient = loss.over_draws(context, last.signal)
    gradients = backward(context, trace, gradient, passed)
    reason = reason or next((step.doubt for step in passed if step and step.doubt), None)
    reason = reason or next(iter(context.reasons), None)
    if reason is None and any(g is not None and g.basis == "approximate" for g in gradients):
        reason = "batch_norm: the gradient comes through many norms of few independent numbers"
    return layer_rows(context, trace, passed, gradients), reason


def from_layer(trace: Trace, number: int) -> bool:
    """Whether a tensor is a weight layer's output, perhaps in another shape."""
    op = trace.operations[number]
    while op.layer is None and op.function in SHAPES and op.inputs[0] >= 0:
        op = trace.operations[op.inputs[0]]
    return op.layer is not None


def layer_rows(
    context: Context, trace: Trace, passed: Sequence[Passed | None], gradients: list[Gradient | None]
) -> Rows:
    """Weight layer -> a row for each of its calls."""
    rows: Rows = {}
    for op, step, g in zip(trace.operations, passed, gradients, strict=True):
        if step is None:
            continue
        for gate in context.gates.pop(id(op.args), ()):
            for name in gate.names:
                rows.setdefault(name, []).append(gate_row(context, gate, step.basis))
        if op.layer is None:
            continue
        f = step.signal.field
        row = band(context, "forward", f, f, step.signal.noise)
        if g is not None:
            row |= band(context, "backward", f, g, g.noise)
        basis = worst(step.basis, "theory" if g is None else g.basis)
        rows.setdefault(op.layer, []).append(row | {"correlation": f.c.same_place, "basis": basis})
    return rows


def gate_row(context: Context, gate: GateRow, basis: str) -> dict[str, Any]:
    """The row of a gate of a recurrent layer."""
    f, g = gate.field, gate.gradient
    row = {"op": gate.op, **band(context, "forward", f, f, gate.noise)}
    if g is not None:
        row |= band(context, "backward", f, g, g.noise)
    return row | {"correlation": f.c.same_place, "basis": worst(basis, "theory" if g is None else g.basis)}


def band(context: Context, direction: str, f: Field, signal: Field | Gradient, noise: Noise) -> dict[str, Any]:
    """Expectation, median and band of the population variance of a layer's output `f`, or of the gradient there."""
    # The mean over independent channels leaves the average product over their number, and what all have in common.
    common = signal.mean**2 if isinstance(signal, Field) else 0.0
    moving = 1 - common - (context.average(signal.c, f.positions) - common) / f.channels
    if isinstance(signal, Gradient) and signal.mean is not None:
        moving = 1 - signal.mean**2
    expected = signal.level * moving
    log = context.scatter(noise.scaled(1 / (1 - common)) if common else noise)
    # Behind a pole, as of 1/(10 + y), the powers that scatter is made of have no mean, and there is no band.
    known = log.variance < NO_BAND
    levels = {
        f"{direction}_{name}": expected * math.exp(log.quantile(share)) if known else math.nan
        for name, share in QUANTILES.items()
    }
    return {f"{direction}_var": expected, **levels}
