"""The cause of a verdict: the fewest suspects that, made usual on a copy, make the model better.

Each suspect is tried alone; where none is enough, those that help are put together, and what can be left out is. A
change counts as a cure if the copy is judged healthy and, with labels, learns no worse on the batch than the model.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from initlab.inspection.suspects.suspect import Suspect
from initlab.inspection.trial import COURSES, STEPS, Outcome, Trials, carried_out
from initlab.nets.undisturbed import Batch

# More suspects than this are not tried, in their order.
MOST = 16
# And so many of those that help are tried with training where none was enough.
MOST_STRICTLY = 3
# A loss may be this much larger before it counts as worse: a twentieth, and a fiftieth of the loss at the start.
SLACK, SLACK_OF_START = 0.05, 0.02
FAR_LOWER = 0.75
# Suspects that may keep a net from learning whose signals are healthy.
HANDICAPS = ("norm_shift", "biases", "inputs", "factor", "precision", "output", "outweighed")
# And those that authors may have set so, if with them it does not learn at all.
HINDRANCES = ("far_outlier", "far_scale", "logits", "norms_of_zero")
# And those that make units the same for ever, where no step of training parts them.
ALIKE = ("copies", "repeated_rows")


@dataclass(frozen=True)
class Cure:
    """Suspects that were found to be at fault, and what came of making them usual."""

    suspects: tuple[Suspect, ...]
    before: Outcome
    after: Outcome

    @property
    def parameters(self) -> tuple[str, ...]:
        """The parameters at fault, as `model.get_parameter` takes them."""
        return tuple(dict.fromkeys(name for suspect in self.suspects for name in suspect.parameters))

    @property
    def cause(self) -> str:
        """Which parameters are wrong, and by how much."""
        return "; and ".join(suspect.words for suspect in self.suspects)

    @property
    def call(self) -> str:
        """The lines that were run on the copy, with `model` and `batch` as the user's names."""
        return "\n".join(suspect.code for suspect in self.suspects)

    @property
    def trial(self) -> str:
        """What was tried, and what it gave."""
        verdict = self.after.diagnosis.verdict if self.after.diagnosis else "not judged"
        judged = f"judged {verdict}" if self.after.healthy else f"still {verdict}, but less so"
        if math.isnan(self.after.loss):
            return f"tried on a copy: {judged}"
        if self.before.diagnosis and self.before.diagnosis.verdict == "saturated":
            judged += f", the loss starts at {self.after.start:.3g} instead of {self.before.start:.3g}"
        return (
            f"tried on a copy: {judged}, and the loss after {STEPS} steps of {self.after.course} on the batch "
            f"{self.after.loss:.2g} instead of {self.before.loss:.2g}"
        )

    def apply(self, model: nn.Module, batch: Batch) -> tuple[nn.Module, Any]:
        """A copy of the model, and the batch, with the lines run."""
        return carried_out(self.call, model, batch)


def cure_of(trials: Trials, before: Outcome, suspects: Sequence[Suspect], resort: Sequence[Suspect]) -> Cure | None:
    """The smallest change among the suspects that makes the model better; None where none does.

    Args:
        before: the verdict on the model as it is.
        suspects: in the order in which they are tried, of which the first `MOST` are.
        resort: what is tried only where none of the suspects makes a healthy net.
    """
    cure = cure_among(trials, before, suspects[:MOST])
    if cure is None or not cure.after.healthy:
        cure = cure_among(trials, before, resort) or cure
    return cure


def cure_among(trials: Trials, before: Outcome, suspects: Sequence[Suspect]) -> Cure | None:
    """The smallest change among these suspects that makes the model better; None where none does."""
    alone = {suspect: trials.judged(suspect.code) for suspect in suspects}
    before = with_loss(trials, before, ())
    cures = [((suspect,), outcome) for suspect, outcome in alone.items() if outcome.healthy]
    if not cures:
        # Signals alone may blame what learns.
        nearest = helpful(alone, before)[:MOST_STRICTLY]
        alone |= {suspect: trials.judged(suspect.code, strictly=True) for suspect in nearest}
        cures = [((suspect,), outcome) for suspect, outcome in alone.items() if outcome.healthy]
    best = best_of(trials, before, cures)
    if best is None:
        best = best_of(trials, before, [*together(trials, before, helpful(alone, before))])
    return best


def helpful(outcomes: Mapping[Suspect, Outcome], before: Outcome) -> list[Suspect]:
    """The suspects without which the model is less sick, those that help most first."""
    better = [suspect for suspect, outcome in outcomes.items() if outcome.severity < before.severity]
    return sorted(better, key=lambda suspect: outcomes[suspect].severity)


def together(
    trials: Trials, before: Outcome, suspects: Sequence[Suspect]
) -> Iterator[tuple[tuple[Suspect, ...], Outcome]]:
    """The helpful suspects put together as long as that helps further, without those that can be left out."""
    chosen: tuple[Suspect, ...] = ()
    outcome = before
    for suspect in suspects:
        more = trials.judged(code_of((*chosen, suspect)))
        if more.severity < 0.9 * outcome.severity:
            chosen, outcome = (*chosen, suspect), more
        if outcome.healthy:
            break
    for suspect in chosen if len(chosen) > 1 else ():
        others = tuple(other for other in chosen if other is not suspect)
        fewer = trials.judged(code_of(others))
        if fewer.severity <= outcome.severity:
            chosen, outcome = others, fewer
    # A change that leaves the net sick has to be one that anybody would call better.
    if outcome.severity < 0.5 * before.severity:
        yield chosen, outcome


def best_of(trials: Trials, before: Outcome, cures: Sequence[tuple[tuple[Suspect, ...], Outcome]]) -> Cure | None:
    """The cure of the fewest parameters that gains a third of what can be gained; None where all learn worse."""
    outcomes = [(suspects, with_loss(trials, outcome, suspects)) for suspects, outcome in cures]
    slack = SLACK_OF_START * before.start if math.isfinite(before.start) else 0.0
    sound = [(s, o) for s, o in outcomes if not o.loss > before.loss * (1 + SLACK) + slack]
    if not sound:
        return None
    least = min((o.loss for _, o in sound if not math.isnan(o.loss)), default=math.nan)
    # A third of what can be gained; the rest is worth no larger change.
    enough = max(least, (least + 2 * before.loss) / 3) + slack
    alike = [(s, o) for s, o in sound if not o.loss > enough]
    suspects, outcome = min(alike, key=lambda pair: (not all(s.certain for s in pair[0]), size(trials.model, pair[0])))
    return Cure(suspects, before, outcome)


def handicap_of(trials: Trials, suspects: Sequence[Suspect]) -> Cure | None:
    """What keeps a net from learning whose signals are healthy: a copy without it learns far better in some steps.

    None without labels, and where no suspect makes so much of a difference.
    """
    odd = [s for s in suspects if s.certain or s.rule in (*HANDICAPS, *HINDRANCES)][:MOST]
    if not odd or trials.labels is None:
        return None
    as_it_is = trials.judged("")
    if stuck := tuple(s for s in odd if s.rule in ALIKE and trials.stay_alike(s)):
        outcomes = (as_it_is, ()), (trials.judged(code_of(stuck)), stuck)
        return Cure(stuck, *(with_loss(trials, outcome, changes) for outcome, changes in outcomes))
    # Large logits may come from any layer before.
    parameters = [(suspect,) for suspect in odd if suspect.rule != "logits"]
    logits = [(suspect,) for suspect in odd if suspect.rule == "logits"]
    for changes in parameters, logits, [tuple(odd)] * (len(odd) > 1):
        judged = {change: trials.judged(code_of(change)) for change in changes}
        healthy = {change: outcome for change, outcome in judged.items() if outcome.healthy}
        for course in COURSES if healthy else ():
            under = replace(trials, course=course)
            before = with_loss(under, as_it_is, ())
            after = [(change, with_loss(under, outcome, change)) for change, outcome in healthy.items()]
            cure = best_of(under, before, [pair for pair in after if handicapped(before, *pair)])
            if cure is not None:
                return cure
    return None


def handicapped(before: Outcome, suspects: Sequence[Suspect], after: Outcome) -> bool:
    """Whether a model learns far better without these suspects.

    Its loss is `FAR_LOWER` times what it was after the steps of the first course; under others, which a sound net may
    fail, and without what its authors may have chosen, it is halved where the model as it is does not halve its own.
    """
    if not after.loss < FAR_LOWER * before.loss - SLACK_OF_START * before.start:
        return False
    chosen = any(suspect.rule in HINDRANCES for suspect in suspects)
    return (after.course is COURSES[0] and not chosen) or after.loss < after.start / 2 < before.loss


def with_loss(trials: Trials, outcome: Outcome, suspects: Sequence[Suspect]) -> Outcome:
    """The outcome with the losses of a short training."""
    start, loss = trials.trained(code_of(suspects))
    return Outcome(outcome.diagnosis, loss, start, trials.course)


def code_of(suspects: Sequence[Suspect]) -> str:
    """The lines of several suspects, in order."""
    return "\n".join(suspect.code for suspect in suspects)


def size(model: nn.Module, suspects: Sequence[Suspect]) -> int:
    """How many numbers the suspects change; of a batch none of the model's."""
    return sum(model.get_parameter(name).numel() for suspect in suspects for name in suspect.parameters)
