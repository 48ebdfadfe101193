"""Running moments: mean and variance of what goes through every weight layer, from the training step's own tensors.

On a sampled step hooks sum y and y^2 of each weight layer's pre-activation y as the step computes it, and the same of
its gradient: no pass of their own, no wait for the device, no change to the step's numbers. What the probe
(`initlab.signal.probe`) measures on a fixed batch with dropout off, these are of the batches that are trained on, as
they are trained: augmented, under dropout, in the step's precision.

Hooks reach neither into a step that torch.compile makes (`running_compiled.py`) nor into each trial of a pack
(`running_packed.py`).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from initlab.nets.any_module import WeightLayer, on_weight_layers, op_of, weight_layers
from initlab.signal.probe import COLUMNS as PROBED

COLUMNS = PROBED[:4]
DIRECTIONS = FORWARD, BACKWARD = 0, 1
# Numbers cast to float64 at once: 256 KiB, which a core's cache holds, or 128 MiB, against many small kernels.
CPU_PIECE, GPU_PIECE = 2**15, 2**24


class RunningMoments:
    """Sums over the steps sampled since the last `take`, one row per weight layer of `net`, whose device is `device`.

    Sums are float64 like the probe's, since float32 loses the squares of what is below 1e-22: a square of 1e-24 is 0 in
    it. They aren't centred, which takes a second pass: `forward_var` is right to 1e-16 x (1 + mean^2 / variance).
    """

    def __init__(self, net: nn.Module, device: torch.device) -> None:
        self.net = net
        self.layers = weight_layers(net)
        self.numbers = {layer: number for number, (_, layer) in enumerate(self.layers)}
        self.sums = torch.zeros(len(self.layers), 4, dtype=torch.float64, device=device)  # of y, y^2, dy, dy^2
        self.counts = torch.zeros(len(self.layers), 2, dtype=torch.int64)  # numbers in y, in dy
        self.order: list[int] = []  # layers by first call
        self.samples = 0
        self.piece = CPU_PIECE if device.type == "cpu" else GPU_PIECE
        # Sum and sum of squares by layer and direction, of the step under way.
        self.step: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def listen(self) -> AbstractContextManager[list[tuple[str, WeightLayer]]]:
        """Around the forward pass of a sampled step; its backward pass counts too, `sampled` ends it.

        The hooks on modules are gone before the backward pass, which runs checkpointed layers a second time.
        """
        return on_weight_layers(self.net, self.add_output)

    def add_output(self, name: str, module: WeightLayer, inputs: tuple[Any, ...], y: Tensor) -> None:
        """The hook: sum a layer's y now, and its gradient when that comes."""
        layer = self.numbers[module]
        if layer not in self.order:
            self.order.append(layer)
        self.add(layer, FORWARD, y)
        if y.requires_grad:
            y.register_hook(partial(self.add, layer, BACKWARD))

    def add(self, layer: int, direction: int, values: Tensor) -> None:
        """Sum a layer's y or its gradient; a layer called several times is one, its moments pooled."""
        self.counts[layer, direction] += values.numel()
        for piece in in_memory_order(values.detach()).split(self.piece):
            numbers = piece.double()
            total, squares = numbers.sum(), torch.dot(numbers, numbers)
            if others := self.step.get((layer, direction)):
                total, squares = others[0] + total, others[1] + squares
            self.step[layer, direction] = total, squares

    def sampled(self, examples: int) -> None:
        """End a sampled step whose loss was the mean over this many examples: gradients become the summed loss's."""
        if not self.step:
            return
        nothing = (self.sums.new_zeros(()),) * 2
        layers = range(len(self.layers))
        pairs = [self.step.get((layer, direction), nothing) for layer in layers for direction in DIRECTIONS]
        sums = torch.stack([number for pair in pairs for number in pair]).view_as(self.sums)
        sums[:, 2] *= examples
        sums[:, 3] *= examples**2
        self.sums += sums
        self.samples += 1
        self.step = {}

    def take(self, total: Callable[[Tensor], Tensor]) -> list[dict[str, Any]]:
        """Rows of what was sampled since the last time, [] where nothing was; the sums begin anew.

        A row per layer in order of first call, those that never ran last: layer, name, op, `samples` (steps), and mean
        and population variance over the samples of y (`forward_*`) and of the gradient of the summed loss
        (`backward_*`), as `probe.measure` defines them; NaN where none came. `total` gives a tensor's sum over the
        processes that train the net together.
        """
        if not self.samples:
            return []
        counts = total(self.counts).to(self.sums.device)
        # (layers, directions, of y and y^2).
        means = total(self.sums).view(-1, 2, 2) / counts[:, :, None]
        mean, variance = means[..., 0], (means[..., 1] - means[..., 0].square()).clamp(min=0)
        numbers = torch.stack((mean, variance), dim=2).flatten(1).tolist()
        order = [*self.order, *(number for number in range(len(self.layers)) if number not in self.order)]
        rows = []
        for place, number in enumerate(order):
            name, layer = self.layers[number]
            row = {"layer": place, "name": name, "op": op_of(layer), "samples": self.samples}
            rows.append(row | dict(zip(COLUMNS, numbers[number], strict=True)))
        self.sums.zero_()
        self.counts.zero_()
        self.order, self.samples = [], 0
        return rows

    def state(self, total: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """The sums not yet taken, as a checkpoint holds them; `total` as `take` has it."""
        return {"sums": total(self.sums), "counts": total(self.counts), "order": self.order, "samples": self.samples}

    def restore(self, state: dict[str, Any], leads: bool) -> None:
        """Take up open sums; they are of all processes together, so only the one that `leads` takes them."""
        if leads:
            self.sums.copy_(state["sums"])
            self.counts.copy_(state["counts"])
        self.order, self.samples = list(state["order"]), state["samples"]


def in_memory_order(values: Tensor) -> Tensor:
    """All numbers of a tensor in one dimension, without a copy where they lie densely, channels first or last."""
    if values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last):
        values = values.permute(0, 2, 3, 1)
    return values.reshape(-1)
