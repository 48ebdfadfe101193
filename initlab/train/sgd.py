"""The optimiser: which of a net's parameters are decayed."""

import torch
from torch import Tensor, nn

from initlab.study.spec import TrialSpec


def sgd(net: nn.Module, spec: TrialSpec) -> torch.optim.SGD:
    """SGD with momentum, in one group or two: all else, and PReLU's slopes.

    No decay on slopes, which it would pull towards ReLU (He et al. 2015, sec. 2.1).
    """
    slopes = {id(p) for m in net.modules() if isinstance(m, nn.PReLU) for p in m.parameters()}
    decayed: list[Tensor] = [p for p in net.parameters() if id(p) not in slopes]
    others: list[Tensor] = [p for p in net.parameters() if id(p) in slopes]
    train = spec.train
    groups = [{"params": decayed, "weight_decay": train.weight_decay}]
    if others:
        groups.append({"params": others, "weight_decay": 0.0})
    return torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum, fused=True)
