"""Mean field through a recorded model: forward, backward, and what it says of each weight layer."""

import math
from typing import Any

from initlab.signal.theory.field import Field, Pairs
from initlab.signal.theory.joins import mixed
from initlab.signal.theory.meanfield import Context, Gradient, Noise, Pull, Signal
from initlab.signal.theory.rules import apply
from initlab.signal.theory.trace import Trace

DIRECTIONS = ("forward", "backward")
QUANTILES = {"median": 0.5, "low": 0.025, "high": 0.975}
PREDICTED = tuple(f"{direction}_{name}" for direction in DIRECTIONS for name in ("var", *QUANTILES))
# Weight layer -> a row for each of its calls.
Rows = dict[str, list[dict[str, Any]]]


def forward(context: Context, trace: Trace, start: Field) -> tuple[list[Signal], list[Pull]]:
    """The signal after each operation, and what carries a gradient back through it."""
    signals: list[Signal] = []
    pulls: list[Pull] = []
    source = Signal(start, {})
    for op in trace.operations:
        signal, pull = apply(context, op, [source if i < 0 else signals[i] for i in op.inputs])
        signals.append(signal)
        pulls.append(pull)
    return signals, pulls


def backward(trace: Trace, first: Gradient, pulls: list[Pull]) -> list[Gradient | None]:
    """The gradient at each operation's output; None where none arrives. Gradients that meet add their squares."""
    gradients: list[Gradient | None] = [None] * len(pulls)
    gradients[trace.output] = first
    for number in reversed(range(trace.output + 1)):
        gradient = gradients[number]
        if gradient is None:
            continue
        for source, part in zip(trace.operations[number].inputs, pulls[number](gradient), strict=True):
            if source >= 0:
                others = gradients[source]
                gradients[source] = part if others is None else added(others, part)
    return gradients


def added(a: Gradient, b: Gradient) -> Gradient:
    """The sum of two gradients whose weights are independent."""
    q = a.q + b.q if a.q.shape == b.q.shape else a.q.mean() + b.q.mean()
    total = a.level + b.level
    shares = [a.level / total, b.level / total] if total > 0 else [0.5, 0.5]
    c, spread = shares[0] * a.c + shares[1] * b.c, shares[0] ** 2 * a.spread + shares[1] ** 2 * b.spread
    return Gradient(q, c, spread, mixed([a.noise, b.noise], shares))


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
        row = quantiles(context, "forward", centred(context, f, f.level, f.c), signals[number].noise)
        if g is not None:
            row |= quantiles(context, "backward", centred(context, f, g.level, g.c), g.noise)
        row["correlation"] = f.c.same_place
        row["basis"] = "measured" if number in without_rule else "theory"
        rows.setdefault(op.layer, []).append(row)
    return rows


def centred(context: Context, f: Field, level: float, c: Pairs) -> float:
    """Expected population variance: the mean over independent channels leaves the average product over their number."""
    return level * (1 - context.average(c, f.positions) / f.channels)


def quantiles(context: Context, direction: str, expected: float, noise: Noise) -> dict[str, Any]:
    """Expectation, median and band of one variance."""
    log = context.scatter(noise)
    levels = {f"{direction}_{name}": expected * math.exp(log.quantile(share)) for name, share in QUANTILES.items()}
    return {f"{direction}_var": expected, **levels}
