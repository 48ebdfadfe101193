"""The schedules of the learning rate."""

import math
from dataclasses import dataclass

from initlab.study.training import Train


@dataclass
class Plateau:
    """Memory of the plateau schedule: the best validation error, validations since it, and how often the rate fell."""

    best: float = math.inf
    waited: int = 0
    cuts: int = 0

    def see(self, val_error: float, patience: int) -> None:
        """Take in one validation error; after `patience` of them in a row without a new best, the rate falls once."""
        if val_error < self.best:
            self.best, self.waited = val_error, 0
            return
        self.waited += 1
        if self.waited >= patience:
            self.cuts, self.waited = self.cuts + 1, 0


def learning_rate(train: Train, step: int, steps_per_epoch: int, steps: int, cuts: int) -> float:
    """Learning rate of the update after `step` updates: the schedule's, times the part of the warm-up that is over.

    The n-th of the warm-up's N updates has n / N of the schedule's rate (Goyal et al. 2017, sec. 2.2). Schedules,
    `step`: times `factor` from each milestone (in epochs) on. `cosine`: lr (1 + cos(pi step / steps)) / 2.
    `plateau`: times `factor` for each of `cuts`, at most `most_cuts` of them.
    """
    lr = train.lr * min(1.0, (step + 1) / max(1.0, train.warmup_epochs * steps_per_epoch))
    if train.schedule == "step":
        return lr * train.factor ** sum(round(m * steps_per_epoch) <= step for m in train.milestones)
    if train.schedule == "plateau":
        return lr * train.factor ** (cuts if train.most_cuts is None else min(cuts, train.most_cuts))
    if train.schedule == "cosine":
        return lr * 0.5 * (1 + math.cos(math.pi * step / steps))
    return lr
