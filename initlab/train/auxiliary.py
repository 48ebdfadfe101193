"""Auxiliary classifiers: linear heads on inner layers that add to the loss in training and are gone in testing.

The old means of bringing a gradient to the early layers of a deep net (GoogLeNet: Szegedy et al. 2014, sec. 5, with
weight 0.3; Deeply-Supervised Nets: Lee et al. 2014), to compare initialisations with. Here a head is one linear
layer on the rectified maps, averaged over their positions.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from initlab.random_streams import stream_seed
from initlab.train.objective import Loss

STD = 0.01  # of the heads' weights, the same under every scheme


class Auxiliary(nn.Module):
    """Heads after some of a net's convolutions; each loss counts `weight` times as much as the net's own."""

    def __init__(self, net: nn.Module, after: Sequence[int], weight: float, num_classes: int, seed: int) -> None:
        super().__init__()
        convs = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
        if max(after) > len(convs):
            raise ValueError(
                f"train.auxiliary: no such convolution (got {max(after)}); allowed: 1 to {len(convs)}, the net's own"
            )
        self.weight = weight
        self.maps: dict[int, Tensor] = {}  # by head, of the forward pass under way
        self.heads = nn.ModuleList()
        for index, number in enumerate(after):
            conv = convs[number - 1]
            head = nn.Linear(conv.out_channels, num_classes)
            generator = torch.Generator().manual_seed(stream_seed(seed, "auxiliary", number))
            with torch.no_grad():
                head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * STD)
                head.bias.zero_()
            self.heads.append(head)
            conv.register_forward_hook(partial(self.keep, index))
        self.dtype = convs[0].weight.dtype  # the maps' own may be bfloat16
        self.to(convs[0].weight.device, self.dtype)

    def keep(self, index: int, module: nn.Module, inputs: Any, y: Tensor) -> None:
        """A convolution's hook: keeps its output in training mode, so not in probes and validations."""
        if module.training:
            self.maps[index] = y

    def loss(self, labels: Tensor, loss: Loss) -> Tensor:
        """The heads' losses on the last step's maps, by the net's `loss`, summed and weighted; the maps are dropped."""
        maps, self.maps = self.maps, {}
        losses = [
            loss(head(maps[index].to(self.dtype).relu().mean((2, 3))), labels) for index, head in enumerate(self.heads)
        ]
        return self.weight * torch.stack(losses).sum()
