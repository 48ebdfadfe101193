"""Running moments in a step that torch.compile makes: sums are outputs of what is compiled, not hooks on tensors.

The sums of a gradient come as a gradient too: each layer's y goes through an identity with a second input, a pair of
zeros, to which its backward pass gives the sums.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from initlab.nets.any_module import WeightLayer, on_weight_layers, weight_layers
from initlab.signal.running import BACKWARD, FORWARD, RunningMoments

Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class CompiledMoments:
    """The forward pass of a sampled step, made by `compiled` from a function."""

    def __init__(self, net: nn.Module, compiled: Callable[[Forward], Forward]) -> None:
        self.net, self.run = net, compiled(self.forward)
        self.numbers = {name: number for number, (name, _) in enumerate(weight_layers(net))}
        # Of the pass under way: sums by layer, the pairs of zeros, and (layer, numbers in y, in dy) of each call.
        self.sums: list[Tensor] = []
        self.zeros = torch.empty(0)
        self.calls: list[tuple[int, int, int]] = []

    def __call__(self, images: Tensor, moments: RunningMoments) -> Tensor:
        """The net's output; `moments` gets the sums of this pass, and those of its backward pass when that comes."""
        zeros = torch.zeros(len(self.numbers), 2, dtype=torch.float64, device=images.device, requires_grad=True)
        with on_weight_layers(self.net, self.add_output, in_vmap=True):
            logits, sums = self.run(images, zeros)

        def add(direction: int, sums: Tensor) -> None:
            """Hand over the sums of all layers."""
            moments.step.update({(layer, direction): (pair[0], pair[1]) for layer, pair in enumerate(sums)})

        add(FORWARD, sums.detach())
        zeros.register_hook(lambda sums: add(BACKWARD, sums))
        for layer, forward, backward in self.calls:
            moments.counts[layer] += torch.tensor([forward, backward])
            if layer not in moments.order:
                moments.order.append(layer)
        return logits

    def forward(self, images: Tensor, zeros: Tensor) -> tuple[Tensor, Tensor]:
        """What is compiled: the net's output, and (layers, 2) sums of y and y^2."""
        self.sums, self.zeros, self.calls = [torch.zeros_like(zeros[0])] * len(self.numbers), zeros, []
        logits = self.net(images)
        sums = torch.stack(self.sums)
        # Tensors that stay would be outputs too.
        self.sums, self.zeros = [], torch.empty(0)
        return logits, sums

    def add_output(self, name: str, module: WeightLayer, inputs: tuple[Any, ...], y: Tensor) -> Tensor:
        """The hook, compiled as well: add to a layer's sums, and let the gradient pass where it is summed."""
        layer = self.numbers[name]
        self.sums[layer] = self.sums[layer] + both(y.detach())
        self.calls.append((layer, y.numel(), y.numel() if y.requires_grad else 0))
        passed: Tensor = SumGradient.apply(y, self.zeros[layer]) if y.requires_grad else y
        return passed


class SumGradient(torch.autograd.Function):
    """The identity; the gradient of `zeros` is the sums of y's, and of its square."""

    @staticmethod
    def forward(y: Tensor, zeros: Tensor) -> Tensor:
        """The same numbers."""
        return y.view_as(y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Nothing is saved."""

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        """y's gradient as it is, and its sums."""
        return dy, both(dy)


def both(values: Tensor) -> Tensor:
    """The sum and the sum of squares, in float64."""
    numbers = values.double()
    return torch.stack((numbers.sum(), numbers.square().sum()))
