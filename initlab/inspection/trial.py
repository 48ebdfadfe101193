"""Trials: a change done on a copy of a model, the copy judged, and trained for a few steps where there are labels."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from initlab.init.apply import init_
from initlab.inspection.diagnosis import Diagnosis
from initlab.inspection.pupil import OPENING_STEPS, Course, Pupil
from initlab.inspection.suspects.suspect import Suspect, entries_of
from initlab.inspection.suspects.values import odd_values
from initlab.nets.any_module import layer_name
from initlab.nets.copies import copied
from initlab.nets.undisturbed import Batch
from initlab.signal.probe import Loss

# On the batch: enough to tell a net that learns from one that does not. What only small rates can train shows at the
# later ones.
STEPS, COURSES = 40, (Course("AdamW", 1e-3), Course("AdamW", 1e-2), Course("SGD", 0.03), Course("SGD", 0.1))
# Nothing to be cured: what was not seen is no trouble either.
HEALTHY = ("healthy", "uneven", "not_judged")


class NotCopied(RuntimeError):
    """The model cannot be copied, so nothing can be tried."""


Judge = Callable[[nn.Module, Batch], Diagnosis]


@dataclass(frozen=True)
class Outcome:
    """What a trial gave."""

    diagnosis: Diagnosis | None  # None where the model did not run
    loss: float = math.nan  # the mean loss on the batch after `STEPS` steps; NaN where nothing was trained
    start: float = math.nan  # and before the first
    course: Course = COURSES[0]  # how it was trained

    @property
    def healthy(self) -> bool:
        """Whether the verdict is that of a net that trains."""
        return self.diagnosis is not None and self.diagnosis.verdict in HEALTHY

    @property
    def severity(self) -> float:
        """0 for a healthy net, from 1 on for one whose signals drift, from 100 on where they break off."""
        if self.diagnosis is None:
            return math.inf
        if self.healthy:
            return 0.0
        share = sum(word == self.diagnosis.verdict for word in self.diagnosis.status) / max(
            len(self.diagnosis.status), 1
        )
        if self.diagnosis.verdict == "nonfinite":
            return 1000 * (1 + share)
        if self.diagnosis.verdict == "dead":
            return 100 * (1 + share)
        drifts = [abs(drift.change) / drift.allowed for drift in self.diagnosis.drifts if not drift.healthy]
        return 1 + sum(drifts)


@dataclass
class Trials:
    """A model on a batch, and what becomes of it under changes; the model itself is left as it was."""

    model: nn.Module
    batch: Batch
    labels: Any
    loss: Loss | None
    judge: Judge
    strict: Judge  # slower, and exactly as the model was judged, with theory and whether it learns
    course: Course = COURSES[0]
    losses: dict[tuple[Course, str], tuple[float, float]] = field(default_factory=dict)  # by course and code

    def changed(self, code: str) -> tuple[nn.Module, Any]:
        """A copy of the model, and the batch, after the code, which is exactly what a user is advised to run."""
        return carried_out(code, self.model, self.batch)

    def judged(self, code: str, *, strictly: bool = False) -> Outcome:
        """The verdict on the changed copy; None of a change that cannot be made, or after which the model fails."""
        try:
            return Outcome((self.strict if strictly else self.judge)(*self.changed(code)))
        except NotCopied:
            raise
        # What `init_` and the model's own forward refuse.
        except (ValueError, RuntimeError):
            return Outcome(None)

    def stay_alike(self, suspect: Suspect) -> bool:
        """Whether parameters that repeat others get gradients, and still repeat them after some steps."""
        pupil = Pupil(self.model, self.batch, self.labels, self.loss)
        if not pupil.able or not {layer_name(name) for name in suspect.parameters} <= pupil.opened():
            return False
        *_, (_, model) = pupil.steps(COURSES[0], OPENING_STEPS)
        return any(s.rule == suspect.rule and s.parameters == suspect.parameters for s in odd_values(entries_of(model)))

    def trained(self, code: str) -> tuple[float, float]:
        """Mean loss before and after `STEPS` steps of the course on the changed copy; NaN without labels."""
        key = self.course, code
        if key not in self.losses:
            if not Pupil(self.model, self.batch, self.labels, self.loss).able:
                self.losses[key] = math.nan, math.nan
            else:
                pupil = Pupil(*self.changed(code), self.labels, self.loss)
                losses = [loss for loss, _ in pupil.steps(self.course, STEPS)]
                self.losses[key] = losses[0], losses[-1] if math.isfinite(losses[-1]) else math.inf
        return self.losses[key]


def carried_out(code: str, model: nn.Module, batch: Any) -> tuple[nn.Module, Any]:
    """A copy of a model, and its batch, after lines of code that know them as `model` and `batch`.

    Raises:
        NotCopied: the model holds what cannot be copied, as a lock.
    """
    try:
        own = copied(model)
    # What the user's modules hold may refuse in any of these ways.
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise NotCopied(str(error).partition("\n")[0]) from error
    names: dict[str, Any] = {"initlab": SimpleNamespace(init_=init_), "model": own, "batch": batch}
    devices = sorted({p.device.index for p in model.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        exec(code, names)
    return names["model"], names["batch"]
