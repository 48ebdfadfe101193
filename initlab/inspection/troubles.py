"""What may be wrong with the signals of an untrained net: a rule for each verdict but `healthy`.

A rule takes the rows of the layers that ran, with the second moments `forward` and `backward` and a `status`, and gives
the verdict, the rows that it is about and what justifies it, or None.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from initlab.signal.drift import Drift, drift as drift_in
from initlab.signal.paths import RECURRENT, belongs

if TYPE_CHECKING:
    from initlab.signal.start import Start

SIGNALS = {"forward": "signals", "backward": "gradients"}
# Times what is allowed, up to which a drift is dropped of a copy that about learns, and where none can be tried.
MILD = 1.25
# And up to which gradients grow in nets with norms and skips, which train so (ResNet-50: 1.3, ResNet-152: 2.5).
MOST_AROUND_SKIPS = 3.0
# Times chance, from which on the loss starts too high: as a trial's that has diverged; for losses that are no
# cross-entropy, whose value at zero says less, this rms of the output over the labels', squared.
SATURATED, SATURATED_OTHERWISE = 10.0, 100.0
# And from which on of a last layer whose weights alone say so: fan_in E[w^2] is hardly ever above 9 on purpose.
SATURATED_BY_WEIGHTS, LARGE_WEIGHTS = 3.0, 9.0
# ln of the second moment that float32 loses in a sum of numbers of second moment 1, and a width without chance.
LOST_IN_TIME, WIDE = 48 * math.log(2), 10**6
# Share of gradients rounded to 0 from which on half precision costs learning.
LOST = 0.2
# A verdict, the rows that it is about, in order, and what justifies it.
Trouble = tuple[str, list[int], str]


@dataclass(frozen=True)
class Evidence:
    """What is known beside the table of signals; by default nothing is."""

    start: "Start | None" = None
    learns: Callable[["Start", bool], bool] | None = None  # whether a copy halves its loss, surely or about
    opened: Callable[[], Collection[str]] | None = None  # parameters that get a gradient within a few steps
    steps: pd.DataFrame | None = None  # a row for each step of each recurrent layer: name, step and moments
    unjudged: Sequence[str] = ()  # what was not judged, and the reason
    normed: bool = False  # whether the model has norm layers


def drifts_along(ran: pd.DataFrame, direction: str, paths: Sequence[Sequence[int]]) -> list[Drift]:
    """The drift in one direction along each path that has one."""
    return [result for path in paths if (result := drift_in(ran, direction, path)) is not None]


def furthest(drifts: Sequence[Drift]) -> list[Drift]:
    """Of each direction the drift that is furthest from what is allowed, forward first."""
    by_excess = sorted(drifts, key=lambda drift: -drift.excess)
    first = {direction: next((d for d in by_excess if d.direction == direction), None) for direction in SIGNALS}
    return [drift for drift in first.values() if drift is not None]


def trouble_of(ran: pd.DataFrame, every: Sequence[Drift], evidence: Evidence) -> Trouble | None:
    """What the first rule finds that finds anything."""
    drifted = partial(drifting, every=every, evidence=evidence)
    # What underflows after a fall is no dead layer, unless a copy learns all the same.
    falling = any(drift.change < 0 for drift in every if not drift.healthy)
    of_depth = (drifted, dead) if falling else (dead, drifted)
    others = (partial(rule, evidence=evidence) for rule in (through_time, saturated, not_judged))
    rules: tuple[Callable[[pd.DataFrame], Trouble | None], ...] = (nonfinite, underflow, *of_depth, *others)
    return next(filter(None, (rule(ran) for rule in rules)), None)


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
    which = " to ".join(f"`{name}`" for name in dict.fromkeys([*names[:1], *names[-1:]]))
    parts = [f"the activation after `{zeros.iloc[0]}` gives only zeros"] if len(zeros) else []
    parts += [f"no gradient comes to {len(names)} of {len(ran)} layers ({which})"] if len(names) else []
    return "dead", np.flatnonzero(rows).tolist(), ", ".join(parts)


def drifting(ran: pd.DataFrame, every: Sequence[Drift], evidence: Evidence) -> Trouble | None:
    """Directions that change too much, under the word for what is furthest from what is allowed."""
    unhealthy = [drift for drift in every if not drift.healthy]
    if not unhealthy:
        return None
    told = furthest(unhealthy)
    worst = max(told, key=lambda drift: drift.excess)
    uneven = evidence.normed and all(drift.direction == "backward" and drift.change > 0 for drift in unhealthy)
    if uneven and evidence.start is not None and evidence.start.wiring.skips:
        # Gradients that grow around skips do no harm so far.
        if worst.excess < MOST_AROUND_SKIPS:
            return None
        uneven = False
    surely = worst.excess > MILD
    if not uneven and (learns_all_the_same(evidence, surely) if evidence.learns else not surely):
        return None
    held = evidence.normed and all(drift.direction == "backward" for drift in told)
    verdict = "vanishing" if worst.change < 0 else "uneven" if held else "exploding"
    parts = [drift_words(drift, ran) for drift in told]
    forward = [drift for drift in furthest(every) if drift.direction == "forward" and drift.healthy]
    if forward:
        level = "norms hold the signals level" if verdict == "uneven" else "the signals themselves don't show it"
        parts.append(f"{level} (×{math.exp(forward[0].measured):.2g})")
    rows = {row for drift in unhealthy for row in drift.rows}
    return verdict, sorted(rows), ", ".join(parts)


def learns_all_the_same(evidence: Evidence, surely: bool) -> bool:
    """Whether a copy of the model was tried, and learned."""
    return bool(evidence.learns and evidence.start and evidence.learns(evidence.start, surely))


def through_time(ran: pd.DataFrame, evidence: Evidence) -> Trouble | None:
    """A recurrent layer whose gradient at the first steps is lost, or explodes on the way there.

    What comes from a step adds to the gradient of weights that all steps share: float32 loses what is 2^-24 of it.
    """
    for name, drift in over_steps(evidence.steps):
        if -LOST_IN_TIME <= drift.change <= 2 * drift.allowed:
            continue
        verb, word = ("shrink", "vanishing") if drift.change < 0 else ("grow", "exploding")
        size = f"×{math.exp(drift.change):.2g} from step {drift.last} back to step {drift.first} of {drift.last + 1}"
        module = name.rpartition(".")[0]
        own = [row for row, layer in enumerate(ran.name) if layer.startswith(module) and ran.op[row] in RECURRENT]
        return word, own, f"gradients {verb} {size} through time in the recurrent `{name}`"
    return None


def over_steps(steps: pd.DataFrame | None) -> Iterator[tuple[str, Drift]]:
    """How the gradient changes over the steps of each recurrent layer, from the last to the first."""
    for name, rows in steps.groupby("name", sort=False) if steps is not None else ():
        # Weights are the same at every step, so there is no chance from step to step.
        drift = drift_in(rows.reset_index(drop=True).assign(width=WIDE, outputs=WIDE), "backward", range(len(rows)))
        if drift is not None:
            yield str(name), drift


def drift_words(drift: Drift, ran: pd.DataFrame) -> str:
    """`gradients shrink ×0.011 per layer from `features.28` down to `conv1``; a change in few steps as a whole."""
    verb = "grow" if drift.change > 0 else "shrink"
    first, last = f"`{ran.name[drift.first]}`", f"`{ran.name[drift.last]}`"
    span = f"from {first} to {last}" if drift.direction == "forward" else f"from {last} down to {first}"
    # Of one role, rows are blocks apart, or stages.
    in_a_row = all(after - row == 1 for row, after in pairwise(drift.rows))
    size = f"×{drift.factor:.3g} per layer" if drift.steady and in_a_row else f"×{math.exp(drift.change):.2g} in all"
    return f"{SIGNALS[drift.direction]} {verb} {size} {span}"


def saturated(ran: pd.DataFrame, evidence: Evidence) -> Trouble | None:
    """A loss far above chance before training, as it was measured."""
    start = evidence.start
    if start is None:
        return None
    ends = [row for row, name in enumerate(ran.name) if name in start.wiring.end_names] or [len(ran) - 1]
    highest = SATURATED if start.classes else SATURATED_OTHERWISE
    if start.classes and len(ran) and (ran.get("fan_in", math.nan) * ran.weight_var)[ends].max() > LARGE_WEIGHTS:
        highest = SATURATED_BY_WEIGHTS
    if not start.ratio > highest or (not start.classes and learns_all_the_same(evidence, surely=True)):
        return None
    chance = f"ln {start.classes} = {start.chance:.2f} is chance" if start.classes else f"zeros have {start.chance:.3g}"
    rms = f" (the outputs have an rms of {start.logits_rms:.3g})" if math.isfinite(start.logits_rms) else ""
    return "saturated", ends if len(ran) else [], f"the loss starts at {start.loss:.3g} where {chance}{rms}"


def not_judged(ran: pd.DataFrame, evidence: Evidence) -> Trouble | None:
    """What was not seen, so that nothing good can be said of it."""
    if evidence.unjudged:
        return "not_judged", [], "; ".join(evidence.unjudged)
    return ("not_judged", [], "no weight layer was seen") if ran.empty else None
