"""Mean field through a recorded model, forward and backward, or where it can't follow, each layer by itself."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from initlab.nets.any_module import WeightLayer, on_weight_layers
from initlab.nets.undisturbed import Batch, run_model, to_model, untouched
from initlab.signal.theory.cotangent import drawn_gradient
from initlab.signal.theory.field import Field, NoRule
from initlab.signal.theory.meanfield import Context, Gradient, Noise, Pull, Result, Signal, mixed
from initlab.signal.theory.rules import RULES, known, measured
from initlab.signal.theory.trace import Trace, record

DIRECTIONS = ("forward", "backward")
QUANTILES = {"median": 0.5, "low": 0.025, "high": 0.975}
PREDICTED = tuple(f"{direction}_{name}" for direction in DIRECTIONS for name in ("var", *QUANTILES))
# Weight layer -> a row for each of its calls.
Rows = dict[str, list[dict[str, Any]]]


def forward(context: Context, trace: Trace, start: Field) -> tuple[list[Signal], list[Pull]]:
    """The signal after each operation, and what carries a gradient back through it."""
    results: list[Result] = []
    source = Signal(start, {})
    for op in trace.operations:
        rule = RULES[op.function] if op.after is None else measured
        results.append(rule(context, op, *(source if i < 0 else results[i][0] for i in op.inputs)))
    return [signal for signal, _ in results], [pull for _, pull in results]


def backward(trace: Trace, first: Gradient, pulls: list[Pull]) -> list[Gradient | None]:
    """The gradient at each operation's output; None where none arrives. Gradients that meet add their squares."""
    gradients: list[Gradient | None] = [None] * len(pulls)
    gradients[trace.output] = first
    for number in reversed(range(trace.output + 1)):
        if gradient := gradients[number]:
            for source, part in zip(trace.operations[number].inputs, pulls[number](gradient), strict=True):
                if source >= 0:
                    others = gradients[source]
                    gradients[source] = added(others, part) if others else part
    return gradients


def added(a: Gradient, b: Gradient) -> Gradient:
    """The sum of two gradients whose weights are independent."""
    q = a.q + b.q if a.q.shape == b.q.shape else a.q.mean() + b.q.mean()
    total = a.level + b.level
    shares = [a.level / total, b.level / total] if total > 0 else [0.5, 0.5]
    c, spread = shares[0] * a.c + shares[1] * b.c, shares[0] ** 2 * a.spread + shares[1] ** 2 * b.spread
    return Gradient(q, c, spread, mixed((shares[0], a.noise), (shares[1], b.noise)))


def mean_field(context: Context, trace: Trace, start: Field, gradient: Gradient | None) -> Rows:
    """Mean field forward and back through a recorded model; a `gradient` of None at its output is drawn.

    An output that is no differentiable number, as a class index, sends none back.
    """
    if not trace.operations:
        raise NoRule("forward", "nothing that the model computes depends on its input")
    signals, pulls = forward(context, trace, start)
    if trace.output < 0:
        return layer_rows(context, trace, signals, [None] * len(signals))
    if gradient is None:
        if not trace.logits.dim():
            raise NoRule("forward", "its output has no classes (got one number)")
        gradient = drawn_gradient(context, signals[trace.output], classes=trace.logits.shape[-1])
    return layer_rows(context, trace, signals, backward(trace, gradient, pulls))


def local_law(model: nn.Module, batch: Batch) -> Rows:
    """Each weight layer's y from the x that it received: n Var[w] E[x^2] + E[b^2] (He et al. 2015, eq. 7) and its band.

    Of a layer with several calls the first counts. Gradients are left out, and all of a layer that has no rule either.
    """
    inputs: dict[str, tuple[WeightLayer, Tensor]] = {}

    def keep_first(name: str, layer: WeightLayer, arguments: tuple[Any, ...], output: Tensor) -> None:
        """Keep a layer's input at its first call."""
        inputs.setdefault(name, (layer, arguments[0].detach()))

    with torch.inference_mode(False), untouched(model, backward=False), on_weight_layers(model, keep_first):
        run_model(model, to_model(model, batch, None)[0])
    rows: Rows = {name: [{"basis": "local"}] for name in inputs}
    for name, (layer, x) in inputs.items():
        trace, context = record(layer, x, known), Context(len(x), False, {})
        try:
            signals, _ = forward(context, trace, trace.input)
        except NoRule:
            continue
        (calls,) = layer_rows(context, trace, signals, [None] * len(signals)).values()
        rows[name] = [calls[0] | rows[name][0]]
    return rows


def layer_rows(context: Context, trace: Trace, signals: list[Signal], gradients: list[Gradient | None]) -> Rows:
    """Weight layer -> a row for each of its calls."""
    rows: Rows = {}
    without_rule: set[int] = set()
    for number, op in enumerate(trace.operations):
        if op.after is not None or without_rule.intersection(op.inputs):
            without_rule.add(number)
        if op.layer is None:
            continue
        f, g = signals[number].field, gradients[number]
        row = band(context, "forward", f, f, signals[number].noise)
        if g is not None:
            row |= band(context, "backward", f, g, g.noise)
        basis = "measured" if number in without_rule else "theory"
        rows.setdefault(op.layer, []).append(row | {"correlation": f.c.same_place, "basis": basis})
    return rows


def band(context: Context, direction: str, f: Field, signal: Field | Gradient, noise: Noise) -> dict[str, Any]:
    """Expectation, median and band of the population variance of a layer's output `f`, or of the gradient there."""
    # The mean over independent channels leaves the average product over their number.
    expected = signal.level * (1 - context.average(signal.c, f.positions) / f.channels)
    log = context.scatter(noise)
    levels = {f"{direction}_{name}": expected * math.exp(log.quantile(share)) for name, share in QUANTILES.items()}
    return {f"{direction}_var": expected, **levels}
