"""Auxiliary classifiers: linear heads on inner layers that add to the loss in training and are gone in testing.

The old way of bringing a gradient to the early layers of a deep net (GoogLeNet: Szegedy et al. 2014, sec. 5, with
weight 0.3; Deeply-Supervised Nets: Lee et al. 2014), to compare initialisations with. Here a head is one linear
layer on the rectified maps, averaged over their positions.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initlab.random_streams import stream_seed

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]
STD = 0.01  # of the heads' weights, the same under every scheme


class Auxiliary(nn.Module):
    """Heads after some of a net's convolutions; each loss is worth `weight` of the net's own."""

    def __init__(self, net: nn.Module, after: Sequence[int], weight: float, num_classes: int, seed: int) -> None:
        super().__init__()
        convs = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
        if max(after) > len(convs):
            raise ValueError(
                f"train.auxiliary: no such convolution (got {max(after)}); allowed: 1 to {len(convs)}, the net's own"
            )
        self.weight = weight
        self.seen: dict[int, Tensor] = {}  # by head, in the forward pass under way
        self.listening = False
        self.heads = nn.ModuleList(nn.Linear(convs[number - 1].out_channels, num_classes) for number in after)
        for index, number in enumerate(after):
            head, conv = self.heads[index], convs[number - 1]
            assert isinstance(head, nn.Linear)
            generator = torch.Generator().manual_seed(stream_seed(seed, "auxiliary", number))
            with torch.no_grad():
                head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * STD)
                head.bias.zero_()
            conv.register_forward_hook(self.hook(index))
        self.dtype = convs[0].weight.dtype  # the maps' own may be bfloat16
        self.to(convs[0].weight.device, self.dtype)

    def hook(self, index: int) -> Hook:
        """Keeps a convolution's output while the net runs for a training step, not for probes or validation."""

        def keep(module: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
            if self.listening:
                self.seen[index] = y

        return keep

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Around the forward pass of a training step."""
        self.listening = True
        try:
            yield
        finally:
            self.listening = False

    def loss(self, labels: Tensor) -> Tensor:
        """The heads' losses on the last step's maps, summed and weighted; the maps are let go."""
        maps, self.seen = self.seen, {}
        parts = [
            F.cross_entropy(head(maps[index].to(self.dtype).relu().mean((2, 3))), labels)
            for index, head in enumerate(self.heads)
        ]
        return self.weight * torch.stack(parts).sum()
