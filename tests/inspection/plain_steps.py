"""The first steps of AdamW in plain torch, without initlab."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def plain_losses(model: nn.Module, rate: float, x: Tensor, y: Tensor) -> list[float]:
    """The loss of a copy before each of 30 steps and after the last."""
    net, losses = copy.deepcopy(model), []
    optimizer = torch.optim.AdamW(net.parameters(), rate)
    for _ in range(31):
        loss = F.cross_entropy(net(x), y)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses
