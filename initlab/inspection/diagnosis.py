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
- `not_judged`: fewer than half of the numbers in the model's parameters were seen at work;
- `healthy`.

No torch in here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from initlab.signal.drift import Drift, drift as drift_in, second_moments
from initlab.verdict.rules import highest_loss

# What each verdict lets expect.
OUTLOOKS = {
    "healthy": "",
    "nonfinite": ": it can't train",
    "vanishing": ": expect a stall or a slow start",
    "exploding": ": expect it to diverge unless the learning rate is small",
    "uneven": ": it trains with a small learning rate at first",
    "dead": ": these layers can't learn",
    "saturated": ": expect wild first steps",
    "not_judged": ": this is no all-clear",
}
VERDICTS = tuple(OUTLOOKS)
# `unused` was never called, the weights of `closed` are all 0, and `waiting` gets no gradient through these yet.
STATUSES = (*VERDICTS[1:], "ok", "unused", "closed", "waiting")
# Standard deviations, which chance exceeds once in 150,000 layers.
BEYOND = 4.5
SIGNALS = {"forward": "signals", "backward": "gradients"}
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


def diagnose(
    table: pd.DataFrame,
    *,
    num_classes: int | None = None,
    normed: bool = False,
    unjudged: Sequence[tuple[str, str]] = (),
    judged_share: float = 1.0,
) -> Diagnosis:
    """Judge the signals of an untrained net.

    A plain He net is healthy but for a chance below 1e-3 down to width 16 at depth 30; with Xavier's weights, a factor
    1/2 per layer, the same net is `vanishing`.

    Args:
        table: one row per layer with name, calls, width (channels or features of y), outputs (numbers in y of one
            example), the measured columns, and if there is a theory forward_predicted, forward_low, forward_high and
            so for backward; NaN where there is none. Backward columns that are NaN are not judged.
        num_classes: K of a cross-entropy on the last layer's output; None leaves the loss unjudged.
        normed: whether the model has norm layers.
        unjudged: (name, reason) of parameters that were not seen.
        judged_share: share of the numbers in parameters that were seen.
    """
    ran = table[table.calls > 0].reset_index(drop=True)
    ran = ran.assign(**{direction: second_moments(ran, direction) for direction in SIGNALS})
    ran["status"] = resting(ran)
    drifts = tuple(filter(None, (drift_in(ran, direction) for direction in SIGNALS)))
    trouble = nonfinite(ran) or dead(ran, drifts) or drifting(ran, drifts, normed) or saturated(ran, num_classes)
    trouble = trouble or unseen(unjudged, judged_share)
    verdict, rows, reason = trouble or ("healthy", [], healthy_reason(ran, drifts))
    reason += remarks(ran, normed) + OUTLOOKS[verdict]
    ran.loc[rows, "status"] = verdict
    first, last = ran.name[[rows[0], rows[-1]]] if rows else ("", "")
    status = (*ran.status, *["unused"] * (len(table) - len(ran)))
    return Diagnosis(verdict, reason, status, first, last, drifts)


def resting(ran: pd.DataFrame) -> "pd.Series[str]":
    """`closed` for layers of zero weights, `waiting` for those whose gradient is 0 because of them, else `ok`.

    A closed layer at the end of a branch leaves layers before it that have a gradient; one in the trunk, as a zero
    classifier, leaves none. It opens with the first update if its weights have a gradient; where none has, as in a net
    of zeros, nothing ever opens and nothing is called closed.
    """
    closed = (ran.weight_var == 0) & (ran.forward == 0)
    # NaN, which was not measured, is not 0.
    closed &= bool((ran.weight_grad_rms[closed] != 0).any())
    no_gradient = ran.backward == 0
    first = no_gradient.idxmin() if len(ran) and not no_gradient.all() else len(ran)
    waiting = no_gradient & ((ran.index > first) | closed[first:].any())
    return pd.Series("ok", ran.index).mask(waiting, "waiting").mask(closed, "closed")


def nonfinite(ran: pd.DataFrame) -> Trouble | None:
    """Signals that are not finite, or gradients that came and are not."""
    forward, reached = ~np.isfinite(ran.forward), ran.reached.astype(bool) if "reached" in ran else False
    rows = np.flatnonzero(forward | np.isinf(ran.backward) | (reached & np.isnan(ran.backward))).tolist()
    if not rows:
        return None
    if forward.any():
        return "nonfinite", rows, f"signals are not finite from `{ran.name[forward].iloc[0]}` on"
    return "nonfinite", rows, f"gradients are not finite from `{ran.name[rows[-1]]}` down"


def dead(ran: pd.DataFrame, drifts: tuple[Drift, ...]) -> Trouble | None:
    """Layers that give or pass nothing, though their weights are not 0 and nothing vanishes on the way."""
    silent = ((ran.forward == 0) | (ran.zero_fraction == 1)) & (ran.status == "ok")
    no_gradient = (ran.backward == 0) & (ran.status == "ok")
    rows = np.flatnonzero(silent | no_gradient).tolist()
    if not rows or any(drift.change < 0 for drift in drifts if not drift.healthy):
        return None
    parts = [f"the activation after `{ran.name[silent].iloc[0]}` gives only zeros"] if silent.any() else []
    parts += [f"no gradient comes to {no_gradient.sum()} of {len(ran)} layers"] if no_gradient.any() else []
    return "dead", rows, ", ".join(parts)


def drifting(ran: pd.DataFrame, drifts: tuple[Drift, ...], normed: bool) -> Trouble | None:
    """Directions that change too much, under the word for what is furthest from what is allowed."""
    unhealthy = [drift for drift in drifts if not drift.healthy]
    if not unhealthy:
        return None
    held = normed and all(drift.direction == "backward" for drift in unhealthy)
    worst = max(unhealthy, key=lambda drift: abs(drift.change) / drift.allowed)
    verdict = "vanishing" if worst.change < 0 else "uneven" if held else "exploding"
    parts = [drift_words(drift, ran) for drift in unhealthy]
    for drift in drifts:
        if drift.healthy and drift.direction == "forward":
            level = "norms hold the signals level" if verdict == "uneven" else "the signals themselves don't show it"
            parts.append(f"{level} (×{math.exp(drift.measured):.2g})")
    rows = {row for drift in unhealthy for row in range(drift.first, drift.last + 1)}
    return verdict, sorted(rows), ", ".join(parts)


def drift_words(drift: Drift, ran: pd.DataFrame) -> str:
    """`gradients shrink ×0.011 per layer from `features.28` down to `conv1``; a change in few steps as a whole."""
    verb = "grow" if drift.change > 0 else "shrink"
    first, last = f"`{ran.name[drift.first]}`", f"`{ran.name[drift.last]}`"
    span = f"from {first} to {last}" if drift.direction == "forward" else f"from {last} down to {first}"
    size = f"×{drift.factor:.3g} per layer" if drift.steady else f"×{math.exp(drift.change):.2g} in all"
    return f"{SIGNALS[drift.direction]} {verb} {size} {span}"


def saturated(ran: pd.DataFrame, num_classes: int | None) -> Trouble | None:
    """Logits that put the loss above 10 ln K before training.

    Gaussian logits of variance v start at a loss of ln K + v/2 up to v = 2 ln K, and of sqrt(2 v ln K) beyond (Derrida
    1981, the random energy model), which is 10 ln K at v = 50 ln K: 115 for K = 10, where He's net has 2.
    """
    if not num_classes or num_classes < 2 or ran.empty:
        return None
    log_classes, moment = math.log(num_classes), ran.forward.iloc[-1]
    loss = math.sqrt(2 * moment * log_classes)
    if not loss > highest_loss(num_classes):
        return None
    reason = (
        f"logits start with an rms of {math.sqrt(moment):.3g}, so the loss is near {loss:.3g} "
        f"where ln {num_classes} = {log_classes:.2f} is chance"
    )
    return "saturated", [len(ran) - 1], reason


def unseen(unjudged: Sequence[tuple[str, str]], judged_share: float) -> Trouble | None:
    """Too little was seen of the weights to speak of health."""
    if judged_share >= 0.5 or not unjudged:
        return None
    name, reason = unjudged[0]
    others = f", and {len(unjudged) - 1} more parameters" if len(unjudged) > 1 else ""
    return "not_judged", [], f"{judged_share:.0%} of the weights were seen at work (`{name}`: {reason}{others})"


def listed(names: Sequence[str]) -> str:
    """Names in backticks, the first three of many."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"`{name}`" for name in names[:3]) + more


def healthy_reason(ran: pd.DataFrame, drifts: tuple[Drift, ...]) -> str:
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


def remarks(ran: pd.DataFrame, normed: bool) -> str:
    """What else is to be said: layers that start at 0, signals further off their theory than chance, weight decay."""
    parts = []
    closed, waiting = ran.status == "closed", (ran.status == "waiting").sum()
    if closed.any() or waiting:
        which = f"`{ran.name[closed].iloc[0]}` starts at 0" if closed.any() else "branches start closed"
        parts.append(f"{which} and {waiting} of {len(ran)} layers get no gradient in the first step")
    # Norms hold signals so tightly that theory's own error counts, so nothing is said of nets that have them.
    for direction, signal in SIGNALS.items() if "basis" in ran and not normed else ():
        names = [f"{direction}_{column}" for column in ("var", "predicted", "low", "high")]
        measured, predicted, low, high = (np.log(ran[name].where(ran[name] > 0)) for name in names)
        distance = (measured - predicted).abs() / ((high - low) / (2 * 1.96))
        distance = distance.where(ran.basis == "theory").replace(np.inf, np.nan)
        if distance.max() > BEYOND:
            worst = f"`{ran.name[int(distance.argmax())]}`"
            parts.append(f"{signal} are {distance.max():.1f} standard deviations off their theory at {worst}")
    # Layers that wait for others don't count.
    if outweighed := ((ran.decay_ratio > 1) & (ran.status == "ok")).sum():
        parts.append(f"weight decay outweighs the loss gradient in {outweighed} of {len(ran)} layers")
    return "".join(f"; {part}" for part in parts)
