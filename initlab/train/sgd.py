"""The optimiser: which of a net's parameters weight decay applies to."""

import torch
from torch import Tensor, nn

from initlab.study.spec import TrialSpec


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
