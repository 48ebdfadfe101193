"""Stochastic gradient descent: the optimiser, and the schedules of its learning rate."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from initlab.study.spec import Train, TrialSpec


def sgd(net: nn.Module, spec: TrialSpec) -> torch.optim.SGD:
    """SGD with momentum, with PReLU's slopes in a second group where there are any.

    Slopes have no decay, which would pull them towards ReLU (He et al. 2015, sec. 2.1).
    """
    slope_ids = {id(p) for m in net.modules() if isinstance(m, nn.PReLU) for p in m.parameters()}
    decayed: list[Tensor] = [p for p in net.parameters() if id(p) not in slope_ids]
    slopes: list[Tensor] = [p for p in net.parameters() if id(p) in slope_ids]
    train = spec.train
    groups = [{"params": decayed, "weight_decay": train.weight_decay}]
    if slopes:
        groups.append({"params": slopes, "weight_decay": 0.0})
    return torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum, fused=True)


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
    """Learning rate of the update after `step` updates.

    `step`: times `factor` from each milestone (in epochs) on. `cosine`: lr (1 + cos(pi step / steps)) / 2.
    `plateau`: times `factor` for each of `cuts`, at most `most_cuts` of them.
    """
    if train.schedule == "step":
        return train.lr * train.factor ** sum(round(m * steps_per_epoch) <= step for m in train.milestones)
    if train.schedule == "plateau":
        return train.lr * train.factor ** (cuts if train.most_cuts is None else min(cuts, train.most_cuts))
    if train.schedule == "cosine":
        return train.lr * 0.5 * (1 + math.cos(math.pi * step / steps))
    return train.lr
