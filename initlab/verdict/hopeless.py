"""When a trial that runs may be given up: half of its steps are done, nothing is learned, and decay has the upper hand.

Three facts, all needed (`--skip-hopeless`; its error, replayed on finished trials, is in docs/forecast.md):

1. half of the trial's steps are done, at the end of an epoch;
2. no epoch's mean training error was below chance by 4 standard errors: the verdict would be `stalled` (`verdict.py`);
3. in the latest probe, weight decay moves most layers more than the loss does: median `decay_ratio` above 1.

The third keeps a net that starts late: while its gradients still outweigh the decay its weights can only gain.
Without weight decay or probes there is no such evidence, and nothing is given up.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

SHARE = 0.5  # of the steps, before which no trial is given up
STANDARD_ERRORS = 4.0


def below_chance(error: float, chance: float, examples: float) -> bool:
    """Whether a mean error of so many examples is below chance by more than 4 sqrt(chance (1 - chance) / examples).

    At chance 0.9 and 1,408 examples: below 0.9 - 4 * 0.008 = 0.868.
    """
    return error < chance - STANDARD_ERRORS * math.sqrt(chance * (1 - chance) / examples)


@dataclass
class Evidence:
    """What one trial has shown so far; fed row by row as it trains, and plain data for its checkpoint."""

    errors: float = 0.0  # misclassified training examples of the epoch in hand
    examples: float = 0.0
    learned: bool = False  # an epoch was below chance
    decay_ratio: float = math.nan  # median over layers in the latest probe

    def see_errors(self, errors: float, examples: float, chance: float, epoch_ends: bool) -> None:
        """Take in the training errors since the last row; rows never reach over the end of an epoch."""
        self.errors, self.examples = self.errors + errors, self.examples + examples
        if epoch_ends and self.examples:
            self.learned = self.learned or below_chance(self.errors / self.examples, chance, self.examples)
            self.errors = self.examples = 0.0

    def see_probe(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take in the `decay_ratio` of each layer of a probe; a layer without one (NaN) has no vote."""
        ratios = [row["decay_ratio"] for row in rows if not math.isnan(row["decay_ratio"])]
        self.decay_ratio = median(ratios) if ratios else math.nan

    def hopeless(self, step: int, steps: int) -> bool:
        """Whether the trial may be given up after `step` of `steps` updates, at the end of an epoch."""
        return step >= SHARE * steps and not self.learned and self.decay_ratio > 1

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint; `Evidence(**state)` restores it."""
        return asdict(self)


def stop_step(
    scalars: Iterable[Mapping[str, Any]],
    probes: Mapping[int, list[dict[str, Any]]],
    *,
    batch_size: int,
    steps_per_epoch: int,
    steps: int,
    chance: float,
) -> int | None:
    """The step after which a trial that ran to its end would have been given up; None where never.

    Args:
        scalars: its rows by step, with `step` and `train_error`.
        probes: the layers' rows of each probe, by step.
    """
    evidence, since = Evidence(), 0
    for row in scalars:
        step = int(row["step"])
        for at in sorted(at for at in probes if since <= at <= step and (at > since or at == 0)):
            evidence.see_probe(probes[at])
        if step > since:
            examples = (step - since) * batch_size
            ends = step % steps_per_epoch == 0
            evidence.see_errors(row["train_error"] * examples, examples, chance, ends)
            if ends and step < steps and evidence.hopeless(step, steps):
                return step
        since = step
    return None
