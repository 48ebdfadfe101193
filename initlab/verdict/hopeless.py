"""When a running trial may be given up: half of its steps are done, nothing is learned, and decay outweighs the loss.

All three facts are needed (`--skip-hopeless`; docs/forecast.md says how often they err on finished trials):

1. half of the trial's steps are done, at the end of an epoch;
2. no epoch's mean training error was below chance by 4 standard errors: the verdict would be `stalled` (`judge.py`);
3. in the latest probe, weight decay moves most layers more than the loss does: median `decay_ratio` above 1.

The third spares a net that starts late: its gradients still outweigh the decay, so its weights can only gain.
Without weight decay or probes there is no such evidence, and no trial is given up.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from initlab.verdict.rules import noise_floor

Rows = Iterable[Mapping[str, Any]]


@dataclass
class Evidence:
    """What one trial has shown so far, fed row by row as it trains; a checkpoint keeps its `asdict`."""

    errors: float = 0.0  # misclassified training examples of the current epoch
    examples: float = 0.0  # of the current epoch
    learned: bool = False  # an epoch's error was below the noise floor
    decay_ratio: float = math.nan  # median over layers in the latest probe

    def see_errors(
        self, errors: float, examples: float, chance: float, epoch_ends: bool, spread: float | None = None
    ) -> None:
        """Take in the training errors since the last row; no row spans two epochs. `spread` as `judge` takes it."""
        self.errors, self.examples = self.errors + errors, self.examples + examples
        if epoch_ends and self.examples:
            self.learned |= self.errors / self.examples < noise_floor(chance, self.examples, spread)
            self.errors = self.examples = 0.0

    def see_probe(self, rows: Rows) -> None:
        """Take in the `decay_ratio` of each layer of a probe; layers without one (NaN) are left out."""
        ratios = [row["decay_ratio"] for row in rows if not math.isnan(row["decay_ratio"])]
        self.decay_ratio = median(ratios) if ratios else math.nan

    def hopeless(self, step: int, steps: int) -> bool:
        """Whether the trial may be given up after `step` of `steps` updates, at the end of an epoch."""
        return step >= steps / 2 and not self.learned and self.decay_ratio > 1


def stop_step(
    scalars: Rows,
    probes: Mapping[int, Rows],
    *,
    batch_size: int,
    steps_per_epoch: int,
    steps: int,
    chance: float,
    spread: float | None = None,
) -> int | None:
    """The step after which a trial that ran to its end would have been given up, None for one that would not.

    Args:
        scalars: its rows by step, with `step` and `train_error`.
        probes: the layers' rows of each probe, by step.
    """
    evidence, last, probes_to_come = Evidence(), 0, sorted(probes)
    for row in scalars:
        step = int(row["step"])
        while probes_to_come and probes_to_come[0] <= step:
            evidence.see_probe(probes[probes_to_come.pop(0)])
        if step > last:
            examples = (step - last) * batch_size
            epoch_ends = step % steps_per_epoch == 0
            evidence.see_errors(row["train_error"] * examples, examples, chance, epoch_ends, spread)
            if epoch_ends and step < steps and evidence.hopeless(step, steps):
                return step
        last = step
    return None
