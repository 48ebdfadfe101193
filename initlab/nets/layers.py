"""Layers of our own: dropout whose masks come from (seed, stream, step)."""

import torch
from torch import Tensor, nn

from initlab.streams import stream_seed


class StreamDropout(nn.Module):
    """Dropout that draws its mask from a named stream, so that schemes, resumed and packed trials share masks.

    `set_dropout_step` must be called before each training step; in eval mode it is the identity.
    """

    def __init__(self, p: float, name: str) -> None:
        super().__init__()
        self.p = p
        self.name = name
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if self.generator is None:
            raise RuntimeError(
                f"{self.name}: no dropout stream in training mode; call set_dropout_step(net, seed, step) first"
            )
        # on the CPU: the same masks on every device
        mask = torch.rand(x.shape, generator=self.generator) >= self.p
        return x * mask.to(x.device) / (1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def set_dropout_step(net: nn.Module, seed: int, step: int) -> None:
    """Seed every dropout layer of `net` for the training step `step`."""
    for module in net.modules():
        if isinstance(module, StreamDropout):
            if module.generator is None:
                module.generator = torch.Generator()
            module.generator.manual_seed(stream_seed(seed, "dropout", module.name, step))
