"""Running moments of a pack of trials (`initlab.train.packed`), from tensors that hold what is every trial's.

Suffixes: K trials of a pack.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from initlab.nets.any_module import WeightLayer, on_weight_layers, weight_layers
from initlab.signal.running import BACKWARD, CPU_PIECE, FORWARD, GPU_PIECE, RunningMoments
from initlab.to_device import copy_into


class PackedMoments:
    """The running moments of a pack's trials, from its common step; each trial's are views into what lies here.

    The step adds to tensors that stay in place, so that it can be captured and replayed: which trials it counts for is
    a flag on the device. What only the host counts is that of one trial in one step, the same in every replay.
    """

    def __init__(self, net: nn.Module, moments_K: Sequence[RunningMoments | None], device: torch.device) -> None:
        """`net`: the one that runs with each trial's weights; None for a trial without running moments."""
        self.net, self.moments_K = net, moments_K
        self.numbers = {layer: number for number, (_, layer) in enumerate(weight_layers(net))}
        # Of y, y^2, dy, dy^2: since each trial's last `take`, and in the step under way.
        self.sums_K = torch.zeros(len(moments_K), len(self.numbers), 4, dtype=torch.float64, device=device)
        self.step_K = torch.zeros_like(self.sums_K)
        self.due_K = torch.zeros(len(moments_K), 1, 1, dtype=torch.bool, device=device)
        self.counts = torch.zeros(len(self.numbers), 2, dtype=torch.int64)
        self.order: list[int] = []
        self.piece = CPU_PIECE if device.type == "cpu" else GPU_PIECE
        for sums, moments in zip(self.sums_K, moments_K, strict=True):
            if moments:
                moments.sums = sums.copy_(moments.sums)

    def listen(self) -> AbstractContextManager[list[tuple[str, WeightLayer]]]:
        """Around the forward pass of a sampled step, inside of which `torch.func.vmap` runs the net."""
        self.step_K.zero_()
        self.counts.zero_()
        self.order = []
        return on_weight_layers(self.net, self.unwrap_output, in_vmap=True)

    def unwrap_output(self, name: str, module: WeightLayer, inputs: tuple[Any, ...], y: Tensor) -> None:
        """The hook: it is shown one trial's y, but `AllTrials` the whole pack's."""
        AllTrials.apply(y, partial(self.add_output, self.numbers[module]))

    def add_output(self, layer: int, y: Tensor, dim: int) -> None:
        """Sum y of all trials, which lie along `dim`, and its gradient when that comes."""
        if layer not in self.order:
            self.order.append(layer)
        self.add(layer, FORWARD, dim, y)
        if y.requires_grad:
            y.register_hook(partial(self.add, layer, BACKWARD, dim))

    def add(self, layer: int, direction: int, dim: int, values: Tensor) -> None:
        """Sum a layer's y or its gradient, trial by trial, as it lies in memory."""
        self.counts[layer, direction] += values.numel() // values.shape[dim]
        others = [other for other in range(values.dim()) if other != dim]
        rows = max(1, self.piece * values.shape[others[0]] // values.numel())
        for piece in values.detach().split(rows, others[0]):
            numbers = piece.double()
            pair = numbers.sum(others), torch.linalg.vector_norm(numbers, dim=others).square()
            self.step_K[:, layer, 2 * direction : 2 * direction + 2] += torch.stack(pair, 1)

    def sampled(self, examples: int) -> None:
        """End a sampled step on the device, for the trials that are due; `examples` as `RunningMoments.sampled`."""
        self.step_K[..., 2] *= examples
        self.step_K[..., 3] *= examples**2
        # Not a product: what is not finite stays with its trial.
        self.sums_K += self.step_K.masked_fill_(~self.due_K, 0.0)

    def begin(self, due: Sequence[bool]) -> None:
        """Before a sampled step, captured or not: the trials that it counts for."""
        copy_into(torch.tensor(due).view(-1, 1, 1), self.due_K)

    def end(self, due: Sequence[bool]) -> None:
        """After it: count it on the host."""
        for moments in (m for m, one in zip(self.moments_K, due, strict=True) if m and one):
            moments.counts += self.counts
            moments.order += [layer for layer in self.order if layer not in moments.order]
            moments.samples += 1


class AllTrials(torch.autograd.Function):
    """Under `torch.func.vmap`, show a function the tensor of all trials behind that of one; it has no backward pass."""

    @staticmethod
    def forward(y: Tensor, show: Callable[[Tensor, int], None]) -> Tensor:
        """Never runs: only what is the same for all trials comes here, and no layer's output is."""
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is saved."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int, None], y: Tensor, show: Callable[[Tensor, int], None]
    ) -> tuple[Tensor, int]:
        """Show y and the dimension along which trials lie in it."""
        show(y, in_dims[0])
        return y, in_dims[0]
