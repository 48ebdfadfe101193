"""The verdict on an untrained net, from the table of its signals: one word, a sentence, and a word per layer.

The words, the first that holds:

- `nonfinite`: a signal or gradient is NaN or infinite;
- `dead`: an activation gives only zeros, or no gradient comes to the first layers, and nothing vanishes on the way;
- `vanishing`, `exploding`: forward or backward, the second moment changes over depth by more than chance at these
  widths and harmless constants explain (`initlab.signal.drift`);
- `uneven`: so do the gradients, growing towards the input, but norm layers hold the forward signal. A plain BatchNorm
  net's grow pi/(pi - 1) = 1.467 per layer. Such nets do train (a weight before a norm that takes too long a step gets
  longer, so the next one turns it less: Arora, Li and Lyu 2019), with a small learning rate at first;
- `saturated`: the logits are so large that the loss starts above 10 ln K, where a trial would count as diverged;
- `healthy`.

No torch in here.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from initlab.signal.drift import Drift, drift as drift_in, second_moments
from initlab.verdict.rules import highest_loss

VERDICTS = ("healthy", "nonfinite", "vanishing", "exploding", "uneven", "dead", "saturated")
# `unused` was never called, the weights of `closed` are all 0, and `waiting` gets no gradient through these yet.
STATUSES = (*VERDICTS[1:], "ok", "unused", "closed", "waiting")
# Standard deviations, which chance exceeds once in 150,000 layers.
BEYOND = 4.5
SIGNALS = {"forward": "signals", "backward": "gradients"}
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Diagnosis:
    """The verdict, the sentence that justifies it, and the layers that it is about."""

    verdict: str
    reason: str
    status: tuple[str, ...]  # a word of STATUSES per row of the table
    first: str  # name of the first layer of the trouble, in forward order; "" for a healthy net
    last: str
    drifts: tuple[Drift, ...]  # forward and backward, where there is a signal


def diagnose(table: pd.DataFrame, *, num_classes: int | None = None, normed: bool = False) -> Diagnosis:
    """Judge the signals of an untrained net.

    A plain He net is healthy but for a chance below 1e-3 down to width 16 at depth 30; with Xavier's weights, a factor
    1/2 per layer, the same net is `vanishing`.

    Args:
        table: one row per layer with name, calls, width (channels or features of y), outputs (numbers in y of one
            example), the measured columns, and if there is a theory forward_predicted, forward_low, forward_high and
            so for backward; NaN where there is none. Backward columns that are NaN are not judged.
        num_classes: K of a cross-entropy on the last layer's output; None leaves the loss unjudged.
        normed: whether the model has norm layers.
    """
    ran = table[table.calls > 0].reset_index(drop=True)
    resting = rest_words(ran)
    drifts = tuple(filter(None, (drift_in(ran, direction) for direction in SIGNALS)))
    drifting = [drift for drift in drifts if not drift.healthy]
    broken, dead, loud = find_broken(ran), find_dead(ran, resting), too_loud(ran, num_classes)
    if broken.any():
        verdict, rows, reason = "nonfinite", broken, broken_reason(ran, broken)
    elif dead.any() and all(drift.change > 0 for drift in drifting):
        verdict, rows, reason = "dead", dead, dead_reason(ran, dead)
    elif drifting:
        verdict, rows = drift_word(drifting, normed), among(drifting, len(ran))
        reason = drift_reason(verdict, drifts, ran)
    elif loud:
        verdict, rows, reason = "saturated", np.arange(len(ran)) == len(ran) - 1, loud
    else:
        verdict, rows, reason = "healthy", np.zeros(len(ran), dtype=bool), healthy_reason(drifts, ran)
    reason += rest_reason(ran, resting) + theory_reason(ran, normed) + decay_reason(ran, resting) + OUTLOOKS[verdict]
    status = [*np.where(rows, verdict, resting).tolist(), *["unused"] * (len(table) - len(ran))]
    names = ran.name[rows].tolist() or [""]
    return Diagnosis(verdict, reason, tuple(status), names[0], names[-1], drifts)


def rest_words(ran: pd.DataFrame) -> NDArray[np.str_]:
    """`closed` for layers of zero weights, `waiting` for those whose gradient is 0 because of them, else `ok`.

    A closed layer at the end of a branch leaves layers before it that have a gradient; one in the trunk, as a zero
    classifier, leaves none. It opens with the first update if its weights have a gradient; where none has, as in a net
    of zeros, nothing ever opens and nothing is called closed.
    """
    closed = (ran.weight_var == 0).to_numpy() & (second_moments(ran, "forward") == 0)
    closed &= bool((ran.weight_grad_rms[closed] != 0).any())  # NaN, not measured, is not 0
    without = second_moments(ran, "backward") == 0
    first = int(np.argmin(without)) if len(ran) and not without.all() else len(ran)
    opens = closed[first:].any()
    waiting = without & ((np.arange(len(ran)) > first) | opens)
    return np.where(closed, "closed", np.where(waiting, "waiting", "ok"))


def find_broken(ran: pd.DataFrame) -> Flags:
    """Layers whose signal is not finite, or whose gradient came and is not."""
    forward, backward = second_moments(ran, "forward"), second_moments(ran, "backward")
    reached = ran.reached.to_numpy(dtype=bool) if "reached" in ran else np.zeros(len(ran), dtype=bool)
    return np.asarray(~np.isfinite(forward) | np.isinf(backward) | (reached & np.isnan(backward)))


def find_dead(ran: pd.DataFrame, resting: NDArray[np.str_]) -> Flags:
    """Layers that give or pass nothing, though their weights are not 0."""
    silent = (second_moments(ran, "forward") == 0) | (ran.zero_fraction == 1).to_numpy()
    return np.asarray((silent | (second_moments(ran, "backward") == 0)) & (resting == "ok"))


def too_loud(ran: pd.DataFrame, num_classes: int | None) -> str:
    """The reason if the logits put the loss above 10 ln K before training; else "".

    Gaussian logits of variance v start at a loss of ln K + v/2 up to v = 2 ln K, and of sqrt(2 v ln K) beyond (Derrida
    1981, the random energy model), which is 10 ln K at v = 50 ln K: 115 for K = 10, where He's net has 2.
    """
    if not num_classes or num_classes < 2 or ran.empty:
        return ""
    log_classes = math.log(num_classes)
    moment = float(second_moments(ran.tail(1), "forward")[0])
    loss = math.sqrt(2 * moment * log_classes)
    if not loss > highest_loss(num_classes):
        return ""
    return (
        f"logits start with an rms of {math.sqrt(moment):.3g}, so the loss is near {loss:.3g} "
        f"where ln {num_classes} = {log_classes:.2f} is chance"
    )


def drift_word(drifting: list[Drift], normed: bool) -> str:
    """The word for what is furthest from what is allowed."""
    worst = max(drifting, key=lambda drift: abs(drift.change) / drift.allowed)
    if worst.change < 0:
        return "vanishing"
    held = normed and all(drift.direction == "backward" for drift in drifting)
    return "uneven" if held else "exploding"


def among(drifting: list[Drift], count: int) -> Flags:
    """The rows from the first layer to the last of any of these."""
    rows = np.arange(count)
    return np.asarray(np.any([(rows >= drift.first) & (rows <= drift.last) for drift in drifting], axis=0))


OUTLOOKS = {
    "healthy": "",
    "nonfinite": ": it can't train",
    "vanishing": ": expect a stall or a slow start",
    "exploding": ": expect it to diverge unless the learning rate is small",
    "dead": ": these layers can't learn",
    "uneven": ": it trains with a small learning rate at first",
    "saturated": ": expect wild first steps",
}


def drift_reason(verdict: str, drifts: tuple[Drift, ...], ran: pd.DataFrame) -> str:
    """`gradients shrink ×0.011 per layer from `features.28` down to `conv1``, for each direction that drifts."""
    parts = [drift_words(drift, ran) for drift in drifts if not drift.healthy]
    level = [drift for drift in drifts if drift.healthy and drift.direction == "forward"]
    if level:
        held = "norms hold the signals level" if verdict == "uneven" else "the signals themselves don't show it"
        parts.append(f"{held} (×{math.exp(level[0].measured):.2g})")
    return ", ".join(parts)


def drift_words(drift: Drift, ran: pd.DataFrame) -> str:
    """One direction's change, per layer or, where a few layers make it, as a whole."""
    verb = "grow" if drift.change > 0 else "shrink"
    first, last = f"`{ran.name[drift.first]}`", f"`{ran.name[drift.last]}`"
    span = f"from {first} to {last}" if drift.direction == "forward" else f"from {last} down to {first}"
    size = f"×{drift.factor:.3g} per layer" if drift.steady else f"×{math.exp(drift.change):.2g} in all"
    return f"{SIGNALS[drift.direction]} {verb} {size} {span}"


def healthy_reason(drifts: tuple[Drift, ...], ran: pd.DataFrame) -> str:
    """What the signals do from end to end, and what chance does at these widths."""
    if not drifts:
        return "fewer than two layers before the last have a signal: nothing to compare"
    parts = []
    for drift in drifts:
        change = f"×{math.exp(drift.change):.2g} over {drift.last - drift.first} layers"
        chance = f" (chance alone: ×{math.exp(1.96 * drift.chance):.2g} either way)" if drift.chance > 0.1 else ""
        parts.append(f"{SIGNALS[drift.direction]} change {change}{chance}")
    unjudged = "" if ran.backward_var.notna().any() else "; without labels gradients are not judged"
    return f"beyond unequal fans and pooling, {', '.join(parts)}{unjudged}"


def broken_reason(ran: pd.DataFrame, broken: Flags) -> str:
    """How many layers are not finite, and the first of them that is not forward, else the last backward."""
    forward = ~np.isfinite(second_moments(ran, "forward"))
    if forward.any():
        return f"signals are not finite from `{ran.name[int(np.argmax(forward))]}` on"
    return f"gradients are not finite from `{ran.name[int(np.flatnonzero(broken)[-1])]}` down"


def dead_reason(ran: pd.DataFrame, dead: Flags) -> str:
    """The first layer after which there are only zeros, or how many layers get no gradient."""
    silent = dead & ((second_moments(ran, "forward") == 0) | (ran.zero_fraction == 1).to_numpy())
    without = int((dead & (second_moments(ran, "backward") == 0)).sum())
    parts = [f"the activation after `{ran.name[int(np.argmax(silent))]}` gives only zeros"] if silent.any() else []
    if without:
        parts.append(f"no gradient comes to {without} of {len(ran)} layers")
    return ", ".join(parts)


def decay_reason(ran: pd.DataFrame, resting: NDArray[np.str_]) -> str:
    """In how many layers weight decay is stronger than the loss; those that wait for others don't count."""
    outweighed = int(((ran.decay_ratio > 1).to_numpy() & (resting == "ok")).sum())
    if not outweighed:
        return ""
    return f"; weight decay outweighs the loss gradient in {outweighed} of {len(ran)} layers"


def rest_reason(ran: pd.DataFrame, resting: NDArray[np.str_]) -> str:
    """Which layers start at 0 and how many wait for them."""
    closed, waiting = resting == "closed", int((resting == "waiting").sum())
    if not closed.any() and not waiting:
        return ""
    which = f"`{ran.name[int(np.argmax(closed))]}` starts at 0" if closed.any() else "branches start closed"
    return f"; {which} and {waiting} of {len(ran)} layers get no gradient in the first step"


def theory_reason(ran: pd.DataFrame, normed: bool) -> str:
    """Where a signal is further from its own theory than chance explains.

    Norms hold signals so tightly that theory's own error counts, so nothing is said of nets that have them.
    """
    if normed or "basis" not in ran:
        return ""
    parts = []
    for direction, signal in SIGNALS.items():
        names = [f"{direction}_{what}" for what in ("var", "predicted", "low", "high")]
        measured, predicted, low, high = (np.log(ran[name].where(ran[name] > 0)) for name in names)
        distance = (measured - predicted).abs() / ((high - low) / (2 * 1.96))
        distance = distance.where(ran.basis == "theory").replace(np.inf, np.nan)
        if distance.max() > BEYOND:
            worst = f"`{ran.name[int(distance.argmax())]}`"
            parts.append(f"{signal} are {distance.max():.1f} standard deviations off their theory at {worst}")
    return "".join(f"; {part}" for part in parts)
