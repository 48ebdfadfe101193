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
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from initlab.inspection.troubles import SIGNALS, Evidence, drifts_along, furthest, over_steps, resting, trouble_of
from initlab.signal.drift import Drift, second_moments
from initlab.signal.paths import paths_of

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
# Verdicts that are about SGD, whose steps go with the gradient: the share of such nets of pictures that learned within
# a hundred steps (`initlab bench forecast` prints it).
LEARNED = {
    "vanishing": {"sgd": 0.36, "adam": 0.49, "adamw": 0.75},
    "saturated": {"sgd": 0.26, "adam": 0.66, "adamw": 0.67},
}
# `unused` was never called, the weights of `closed` are all 0, and `waiting` gets no gradient through these yet.
STATUSES = (*VERDICTS[1:], "ok", "unused", "closed", "waiting")


@dataclass(frozen=True)
class Diagnosis:
    """The verdict, the sentence that justifies it, and the layers that it is about."""

    verdict: str
    reason: str
    status: tuple[str, ...]  # a word of STATUSES per row of the table
    first: str  # name of the first layer of the trouble, in forward order; "" for a healthy net
    last: str
    drifts: tuple[Drift, ...]  # forward and backward, where there is a signal


def diagnose(table: pd.DataFrame, evidence: Evidence | None = None) -> Diagnosis:
    """Judge the signals of an untrained net.

    A plain He net is healthy but for a chance below 1e-3 down to width 16 at depth 30; with Xavier's weights, a factor
    1/2 per layer, the same net is `vanishing`.

    Args:
        table: one row per layer with name, calls, width (channels or features of y), outputs (numbers in y of one
            example), the measured columns, and if there is a theory forward_predicted, forward_low, forward_high and
            so for backward; NaN where there is none. Backward columns that are NaN are not judged. With fan_in,
            a loss is judged by the size of the last weights too.
    """
    evidence = evidence or Evidence()
    ran = table[(table.calls > 0) & ~(table.outputs == 0)]
    numbers = ran.index
    ran = ran.reset_index(drop=True)
    ran = ran.assign(**{direction: second_moments(ran, direction) for direction in SIGNALS})
    ran["status"] = resting(ran, evidence)
    paths = paths_of(ran, evidence.start.wiring if evidence.start else None)
    every = [drift for direction in SIGNALS for drift in drifts_along(ran, direction, paths)]
    drifts = furthest(every)
    verdict, rows, reason = trouble_of(ran, every, evidence) or ("healthy", [], "")
    reason = (reason or healthy_reason(ran, drifts, evidence)) + remarks(ran, evidence) + OUTLOOKS[verdict]
    ran.loc[rows, "status"] = verdict
    first, last = ran.name[[rows[0], rows[-1]]] if rows else ("", "")
    status = pd.Series("unused", table.index)
    status[numbers] = ran.status.to_numpy()
    own = tuple(replace(drift, rows=tuple(int(numbers[row]) for row in drift.rows)) for drift in drifts)
    return Diagnosis(verdict, reason, tuple(status), first, last, own)


def under(diagnosis: Diagnosis, optimizer: str | None) -> tuple[Diagnosis, list[str]]:
    """The diagnosis in the words that hold under an optimiser, and notes on it; None is one that is not told."""
    verdict = diagnosis.verdict
    shares = LEARNED.get(verdict)
    if shares is None or optimizer == "sgd":
        return diagnosis, []
    told = ", ".join(f"{share:.0%} under {name}" for name, share in shares.items())
    if optimizer is None:
        return diagnosis, [f"`{verdict}` is about SGD: of such nets {told} learned something within 100 steps"]
    if optimizer not in shares:
        return diagnosis, [f"`{verdict}` is about SGD: what becomes of such nets under {optimizer} was not measured"]
    outlook = f": of such nets {told} learned something within 100 steps"
    return replace(diagnosis, reason=diagnosis.reason.removesuffix(OUTLOOKS[verdict]) + outlook), []


def listed(names: Sequence[str]) -> str:
    """Names in backticks, the first three of many."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"`{name}`" for name in names[:3]) + more


def healthy_reason(ran: pd.DataFrame, drifts: Sequence[Drift], evidence: Evidence) -> str:
    """What the signals do from end to end, and what chance does at these widths."""
    parts = []
    for drift in drifts:
        change = f"×{math.exp(drift.change):.2g} over {len(drift.rows) - 1} layers"
        chance = f" (chance alone: ×{math.exp(1.96 * drift.chance):.2g} either way)" if drift.chance > 0.1 else ""
        parts.append(f"{SIGNALS[drift.direction]} change {change}{chance}")
    text = f"beyond unequal fans and pooling, {', '.join(parts)}" if parts else ""
    if evidence.learns and any(not drift.healthy for drift in drifts):
        text += ", but that does no harm (a copy halves its loss in 30 steps, or norms and skips hold it)"
    through = [
        f"gradients change ×{math.exp(drift.change):.2g} over the {len(drift.rows)} steps of `{name}`"
        for name, drift in over_steps(evidence.steps)
    ]
    text = "; ".join(filter(None, [text, *through[:2]]))
    unjudged = "" if ran.backward_var.notna().any() else "; without labels gradients are not judged"
    return (text or "no two layers of one path before the last have a signal: nothing to compare") + unjudged


def remarks(ran: pd.DataFrame, evidence: Evidence) -> str:
    """What else is to be said: layers that start at 0, layers fed by a constant, weight decay."""
    parts = []
    closed, waiting = ran.status == "closed", (ran.status == "waiting").sum()
    if closed.any() or waiting:
        which = f"`{ran.name[closed].iloc[0]}` starts at 0" if closed.any() else "branches start closed"
        parts.append(f"{which} and {waiting} of {len(ran)} layers get no gradient in the first step")
    unvaried = evidence.start.wiring.constant if evidence.start else set()
    constant = [name for name in ran.name if name in unvaried]
    if constant:
        parts.append(f"what feeds `{constant[0]}` is the same for every example, so its signal is not compared")
    # Layers that wait for others don't count.
    if outweighed := ((ran.decay_ratio > 1) & (ran.status == "ok")).sum():
        parts.append(f"weight decay outweighs the loss gradient in {outweighed} of {len(ran)} layers")
    return "".join(f"; {part}" for part in parts)
