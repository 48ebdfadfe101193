"""The verdict on an untrained net, from the table of its signals: one word, a sentence, and a word per layer.

The words, the first that holds:

- `nonfinite`: a signal or gradient is NaN or infinite;
- `underflow`: half precision rounds a good part of the gradients to 0;
- `dead`: weights have no gradient, and get none when a copy takes a few steps, as an activation gives only zeros;
- `vanishing`, `exploding`: forward or backward, the second moment changes along a path (`initlab.signal.paths`) by more
  than chance at these widths and harmless constants explain (`initlab.signal.drift`), and a copy that is trained for
  some steps does not halve its loss;
- `uneven`: gradients grow so towards the input where norm layers hold the forward signal and nothing skips. A plain
  BatchNorm net's grow pi/(pi - 1) = 1.467 per layer. Such nets do train (a weight before a norm that takes too long a
  step gets longer, so the next one turns it less: Arora, Li and Lyu 2019), with a small learning rate at first;
- `saturated`: the loss starts above 10 times chance, where a trial would count as diverged;
- `handicapped`: nothing of that, but a copy with usual parameters in one place learns far faster (`inspection.cause`);
- `not_judged`: nothing of that, but weights that were not seen;
- `healthy`.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from initlab.signal.drift import Drift, drift as drift_in, second_moments
from initlab.signal.paths import RECURRENT, belongs, paths_of

if TYPE_CHECKING:
    from initlab.signal.start import Start

# What each verdict lets expect.
OUTLOOKS = {
    "healthy": "",
    "nonfinite": ": it can't train",
    "underflow": ": train in bfloat16, or scale the loss (torch.amp.GradScaler)",
    "vanishing": ": expect a stall or a slow start",
    "exploding": ": expect it to diverge unless the learning rate is small",
    "uneven": ": it trains with a small learning rate at first",
    "dead": ": these layers can't learn",
    "saturated": ": expect wild first steps",
    "handicapped": ": it learns far slower than it could",
    "not_judged": ": this is no all-clear",
}
VERDICTS = tuple(OUTLOOKS)
# `unused` was never called, the weights of `closed` are all 0, and `waiting` gets no gradient through these yet.
STATUSES = (*VERDICTS[1:], "ok", "unused", "closed", "waiting")
SIGNALS = {"forward": "signals", "backward": "gradients"}
# Times what is allowed, up to which a drift is dropped of a copy that about learns, and where none can be tried.
MILD = 1.25
# Times chance, from which on the loss starts too high: as a trial's that has diverged; for losses that are no
# cross-entropy, whose value at zero says less, this rms of the output over the labels', squared.
SATURATED, SATURATED_OTHERWISE = 10.0, 100.0
# ln of the second moment that float32 loses in a sum of numbers of second moment 1, and a width without chance.
LOST_IN_TIME, WIDE = 48 * math.log(2), 10**6
# Share of gradients rounded to 0 from which on half precision costs learning.
LOST = 0.2
# A verdict, the rows that it is about, in order, and what justifies it.
Trouble = tuple[str, list[int], str]


@dataclass(frozen=True)
class Diagnosis:
    """The verdict, the sentence that justifies it, and the layers that it is about."""

    verdict: str
    reason: str
    status: tuple[str, ...]  # a word of STATUSES per row of the table
    first: str  # name of the first layer of the trouble, in forward order; "" for a healthy net
    last: str
    drifts: tuple[Drift, ...]  # forward and backward, where there is a signal


@dataclass(frozen=True)
class Evidence:
    """What is known beside the table of signals; by default nothing is."""

    start: "Start | None" = None
    learns: Callable[["Start", bool], bool] | None = None  # whether a copy halves its loss, surely or about
    opened: Callable[[], Collection[str]] | None = None  # parameters that get a gradient within a few steps
    steps: pd.DataFrame | None = None  # a row for each step of each recurrent layer: name, step and moments
    unjudged: Sequence[str] = ()  # what was not judged, and the reason
    normed: bool = False  # whether the model has norm layers


def diagnose(table: pd.DataFrame, evidence: Evidence | None = None) -> Diagnosis:
    """Judge the signals of an untrained net.

    A plain He net is healthy but for a chance below 1e-3 down to width 16 at depth 30; with Xavier's weights, a factor
    1/2 per layer, the same net is `vanishing`.

    Args:
        table: one row per layer with name, calls, width (channels or features of y), outputs (numbers in y of one
            example), the measured columns, and if there is a theory forward_predicted, forward_low, forward_high and
            so for backward; NaN where there is none. Backward columns that are NaN are not judged.
    """
    evidence = evidence or Evidence()
    ran = table[(table.calls > 0) & ~(table.outputs == 0)]
    numbers = ran.index
    ran = ran.reset_index(drop=True)
    ran = ran.assign(**{direction: second_moments(ran, direction) for direction in SIGNALS})
    ran["status"] = resting(ran, evidence)
    paths = paths_of(ran, evidence.start.wiring if evidence.start else None)
    every = [drift for direction in SIGNALS for drift in drifts_along(ran, direction, paths)]
    worst = (max((d for d in every if d.direction == direction), key=excess, default=None) for direction in SIGNALS)
    drifts = tuple(drift for drift in worst if drift is not None)
    drifts_too_far = partial(drifting, every=every, evidence=evidence)
    # What underflows after a fall is no dead layer, unless a copy learns all the same.
    falling = any(drift.change < 0 for drift in every if not drift.healthy)
    of_depth = (drifts_too_far, dead) if falling else (dead, drifts_too_far)
    others = (partial(rule, evidence=evidence) for rule in (through_time, saturated, not_judged))
    rules: tuple[Callable[[pd.DataFrame], Trouble | None], ...] = (nonfinite, underflow, *of_depth, *others)
    verdict, rows, reason = next(filter(None, (rule(ran) for rule in rules)), ("healthy", [], ""))
    reason = (reason or healthy_reason(ran, drifts)) + remarks(ran, evidence) + OUTLOOKS[verdict]
    ran.loc[rows, "status"] = verdict
    first, last = ran.name[[rows[0], rows[-1]]] if rows else ("", "")
    status = pd.Series("unused", table.index)
    status[numbers] = ran.status.to_numpy()
    drifts = tuple(replace(drift, rows=tuple(int(numbers[row]) for row in drift.rows)) for drift in drifts)
    return Diagnosis(verdict, reason, tuple(status), first, last, drifts)


def drifts_along(ran: pd.DataFrame, direction: str, paths: Sequence[Sequence[int]]) -> list[Drift]:
    """The drift in one direction along each path that has one."""
    return [result for path in paths if (result := drift_in(ran, direction, path)) is not None]


def excess(drift: Drift) -> float:
    """How many times what is allowed a drift is."""
    return drift.excess


def resting(ran: pd.DataFrame, evidence: Evidence) -> "pd.Series[str]":
    """`closed` for layers of zero weights, `waiting` for those whose gradient is 0 because of them, else `ok`.

    Both get a gradient when a copy takes a few steps. Where that was not tried, a closed layer must have a gradient, as
    in a net of zeros none has, and a layer waits behind it.
    """
    closed = (ran.weight_var == 0) & (ran.forward == 0)
    stuck = without_gradient(ran)
    if evidence.opened and stuck.any():
        opened = evidence.opened()
        opens = pd.Series([has_weight(name, opened) for name in ran.name], ran.index)
        return pd.Series("ok", ran.index).mask(stuck & opens, "waiting").mask(closed & (opens | ~stuck), "closed")
    # NaN, which was not measured, is not 0.
    closed &= bool((ran.weight_grad_rms[closed] != 0).any())
    first = stuck.idxmin() if len(ran) and not stuck.all() else len(ran)
    waiting = stuck & ((ran.index > first) | closed[first:].any())
    return pd.Series("ok", ran.index).mask(waiting, "waiting").mask(closed, "closed")


def without_gradient(ran: pd.DataFrame) -> "pd.Series[bool]":
    """Layers to whose output or weights a gradient of exactly 0 comes."""
    return (ran.backward == 0) | (ran.weight_grad_rms == 0)


def has_weight(name: str, parameters: Collection[str]) -> bool:
    """Whether one of the parameters is a weight of the layer of this name."""
    return any(belongs(name, parameter) or not name for parameter in parameters if not parameter.endswith("bias"))


def nonfinite(ran: pd.DataFrame) -> Trouble | None:
    """Signals that are not finite, or gradients that came and are not."""
    forward, reached = ~np.isfinite(ran.forward), ran.reached.astype(bool) if "reached" in ran else False
    rows = np.flatnonzero(forward | np.isinf(ran.backward) | (reached & np.isnan(ran.backward))).tolist()
    if not rows:
        return None
    if forward.any():
        return "nonfinite", rows, f"signals are not finite from `{ran.name[forward].iloc[0]}` on"
    return "nonfinite", rows, f"gradients are not finite from `{ran.name[rows[-1]]}` down"


def underflow(ran: pd.DataFrame) -> Trouble | None:
    """Gradients that are not 0 until half precision rounds them."""
    if "underflow" not in ran:
        return None
    rows = np.flatnonzero(ran.underflow > LOST).tolist()
    if not rows:
        return None
    share, worst = ran.underflow.max(), ran.name[int(ran.underflow.argmax())]
    return "underflow", rows, f"half precision rounds {share:.0%} of the gradients at `{worst}` to 0"


def dead(ran: pd.DataFrame) -> Trouble | None:
    """Layers that get no gradient, or without labels give nothing, though nothing is to open and nothing vanishes."""
    idle = ran.status == "ok"
    silent = ((ran.forward == 0) | (ran.zero_fraction == 1)) & idle
    stuck = without_gradient(ran) & idle
    rows = stuck if ran.backward.notna().any() else silent
    if rows is silent and "closed" in set(ran.status):
        return None
    if not rows.any():
        return None
    names, zeros = ran.name[stuck], ran.name[silent & rows]
    which = (
        f"`{names.iloc[0]}`" if len(names) == 1 else f"`{names.iloc[0]}` to `{names.iloc[-1]}`" if len(names) else ""
    )
    parts = [f"the activation after `{zeros.iloc[0]}` gives only zeros"] if len(zeros) else []
    parts += [f"no gradient comes to {len(names)} of {len(ran)} layers ({which})"] if len(names) else []
    return "dead", np.flatnonzero(rows).tolist(), ", ".join(parts)


def drifting(ran: pd.DataFrame, every: Sequence[Drift], evidence: Evidence) -> Trouble | None:
    """Directions that change too much, under the word for what is furthest from what is allowed."""
    unhealthy = [drift for drift in every if not drift.healthy]
    if not unhealthy:
        return None
    wiring = evidence.start.wiring if evidence.start else None
    growing = all(drift.direction == "backward" and drift.change > 0 for drift in unhealthy)
    uneven = evidence.normed and growing
    if uneven and wiring is not None and wiring.skips and max(map(excess, unhealthy)) < 2:
        return None
    surely = max(map(excess, unhealthy)) > MILD
    if not uneven and (learns_all_the_same(evidence, surely) if evidence.learns else not surely):
        return None
    told = [
        max(drifts, key=excess)
        for direction in SIGNALS
        if (drifts := [drift for drift in unhealthy if drift.direction == direction])
    ]
    worst = max(told, key=excess)
    held = evidence.normed and all(drift.direction == "backward" for drift in told)
    verdict = "vanishing" if worst.change < 0 else "uneven" if held else "exploding"
    parts = [drift_words(drift, ran) for drift in told]
    forward = [drift for drift in every if drift.direction == "forward"]
    if forward and all(drift.healthy for drift in forward):
        level = "norms hold the signals level" if verdict == "uneven" else "the signals themselves don't show it"
        parts.append(f"{level} (×{math.exp(max(forward, key=excess).measured):.2g})")
    rows = {row for drift in unhealthy for row in drift.rows}
    return verdict, sorted(rows), ", ".join(parts)


def learns_all_the_same(evidence: Evidence, surely: bool) -> bool:
    """Whether a copy of the model was tried, and learned."""
    return bool(evidence.learns and evidence.start and evidence.learns(evidence.start, surely))


def through_time(ran: pd.DataFrame, evidence: Evidence) -> Trouble | None:
    """A recurrent layer whose gradient at the first steps is lost, or explodes on the way there.

    What comes from a step adds to the gradient of weights that all steps share: float32 loses what is 2^-24 of it.
    """
    if evidence.steps is None:
        return None
    for name, steps in evidence.steps.groupby("name", sort=False):
        # Weights are the same at every step, so there is no chance from step to step.
        rows = steps.reset_index(drop=True).assign(width=WIDE, outputs=WIDE)
        drift = drift_in(rows, "backward", range(len(rows)))
        if drift is None or -LOST_IN_TIME <= drift.change <= 2 * drift.allowed:
            continue
        verb, word = ("shrink", "vanishing") if drift.change < 0 else ("grow", "exploding")
        size = f"×{math.exp(drift.change):.2g} from step {drift.last} back to step {drift.first} of {len(rows)}"
        module = str(name).rpartition(".")[0]
        own = [row for row, layer in enumerate(ran.name) if layer.startswith(module) and ran.op[row] in RECURRENT]
        return word, own, f"gradients {verb} {size} through time in the recurrent `{name}`"
    return None


def drift_words(drift: Drift, ran: pd.DataFrame) -> str:
    """`gradients shrink ×0.011 per layer from `features.28` down to `conv1``; a change in few steps as a whole."""
    verb = "grow" if drift.change > 0 else "shrink"
    first, last = f"`{ran.name[drift.first]}`", f"`{ran.name[drift.last]}`"
    span = f"from {first} to {last}" if drift.direction == "forward" else f"from {last} down to {first}"
    size = f"×{drift.factor:.3g} per layer" if drift.steady else f"×{math.exp(drift.change):.2g} in all"
    return f"{SIGNALS[drift.direction]} {verb} {size} {span}"


def saturated(ran: pd.DataFrame, evidence: Evidence) -> Trouble | None:
    """A loss far above chance before training, as it was measured."""
    start = evidence.start
    if start is None or not start.ratio > (SATURATED if start.classes else SATURATED_OTHERWISE):
        return None
    if not start.classes and learns_all_the_same(evidence, surely=True):
        return None
    ends = [row for row, name in enumerate(ran.name) if name in start.wiring.end_names] or [len(ran) - 1]
    chance = f"ln {start.classes} = {start.chance:.2f} is chance" if start.classes else f"zeros have {start.chance:.3g}"
    rms = f" (the outputs have an rms of {start.logits_rms:.3g})" if math.isfinite(start.logits_rms) else ""
    return "saturated", ends if len(ran) else [], f"the loss starts at {start.loss:.3g} where {chance}{rms}"


def not_judged(ran: pd.DataFrame, evidence: Evidence) -> Trouble | None:
    """What was not seen, so that nothing good can be said of it."""
    if evidence.unjudged:
        return "not_judged", [], "; ".join(evidence.unjudged)
    return ("not_judged", [], "no weight layer was seen") if ran.empty else None


def listed(names: Sequence[str]) -> str:
    """Names in backticks, the first three of many."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"`{name}`" for name in names[:3]) + more


def healthy_reason(ran: pd.DataFrame, drifts: tuple[Drift, ...]) -> str:
    """What the signals do from end to end, and what chance does at these widths."""
    if not drifts:
        return "no two layers of one path before the last have a signal: nothing to compare"
    parts = []
    for drift in drifts:
        change = f"×{math.exp(drift.change):.2g} over {len(drift.rows) - 1} layers"
        chance = f" (chance alone: ×{math.exp(1.96 * drift.chance):.2g} either way)" if drift.chance > 0.1 else ""
        parts.append(f"{SIGNALS[drift.direction]} change {change}{chance}")
    unjudged = "" if ran.backward_var.notna().any() else "; without labels gradients are not judged"
    return f"beyond unequal fans and pooling, {', '.join(parts)}{unjudged}"


def remarks(ran: pd.DataFrame, evidence: Evidence) -> str:
    """What else is to be said: layers that start at 0, layers fed by a constant, weight decay."""
    parts = []
    closed, waiting = ran.status == "closed", (ran.status == "waiting").sum()
    if closed.any() or waiting:
        which = f"`{ran.name[closed].iloc[0]}` starts at 0" if closed.any() else "branches start closed"
        parts.append(f"{which} and {waiting} of {len(ran)} layers get no gradient in the first step")
    constant = [name for name in ran.name if evidence.start and name in evidence.start.wiring.constant]
    if constant:
        parts.append(f"what feeds `{constant[0]}` is the same for every example, so its signal is not compared")
    # Layers that wait for others don't count.
    if outweighed := ((ran.decay_ratio > 1) & (ran.status == "ok")).sum():
        parts.append(f"weight decay outweighs the loss gradient in {outweighed} of {len(ran)} layers")
    return "".join(f"; {part}" for part in parts)
