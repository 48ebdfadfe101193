"""Scale the layers until gradients have one size throughout, on a batch: the mirror image of unit variance forward.

The signal's gradient is followed back from a random one at the output, layer by layer. The graph is cut behind each
layer, so that what one layer alone hands back to the layers before it is seen by itself: through the activations, sums,
pools and concatenations between them. It scales with that layer's weight, so each layer is scaled in turn, the last
first, until what it hands back is as large as what the last layer does. That one keeps unit variance forward.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from initlab.init.lsuv import MOST_PASSES, TOLERANCE, Targets, unit_variance_, written
from initlab.nets.any_module import WeightLayer, on_weight_layers
from initlab.nets.undisturbed import Batch, first_tensor, run_model, to_model, untouched


@dataclass(frozen=True)
class Call:
    """One call of a weight layer: its output, and the same numbers cut off from what made them."""

    layer: WeightLayer
    y: Tensor
    cut: Tensor


@torch.no_grad()
def equal_gradients_(model: nn.Module, batch: Batch, targets: Targets, scheme: str, *, closed: bool = False) -> None:
    """Scale each target in place so that the gradients that the layers hand back have equal second moments on `batch`.

    A layer that no other lies before, and the last one, are scaled forward, as `unit_variance_` does it. The arguments
    are its, and so is what stays as it was.

    Raises:
        ValueError: as `unit_variance_`; a layer that runs, but no gradient reaches.
    """
    unit_variance_(model, batch, targets, scheme, closed=closed)
    ends: set[nn.Module] = set()
    for _ in range(MOST_PASSES):
        with untouched(model, backward=False, changing=written(targets)), torch.enable_grad():
            calls, output = cut_calls(model, batch)
            change = scale_backward(calls, output, targets, ends, scheme, closed)
        at_ends = {layer: targets[layer] for layer in ends if layer in targets}
        unit_variance_(model, batch, at_ends, scheme, closed=closed)
        if change <= TOLERANCE:
            return


def cut_calls(model: nn.Module, batch: Batch) -> tuple[list[Call], Tensor]:
    """The calls of weight layers in a run whose graph is cut behind each of them, and the output."""
    calls: list[Call] = []

    def cut(name: str, layer: WeightLayer, inputs: Any, y: Tensor) -> Tensor:
        """Hand on the numbers alone; a clone, since a leaf must not be changed in place."""
        calls.append(Call(layer, y, y.detach().requires_grad_()))
        return calls[-1].cut.clone()

    with on_weight_layers(model, cut):
        output = first_tensor(run_model(model, to_model(model, batch, None)[0]))
    return calls, output


def scale_backward(
    calls: list[Call], output: Tensor, targets: Targets, ends: set[nn.Module], scheme: str, closed: bool
) -> float:
    """Scale each layer by what it hands back, the last first; the largest relative change of a second moment.

    Layers without one before them, and the last one, are noted in `ends` instead.
    """
    normals = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output)
    gradients = handed_back(calls, output, normals)
    level, largest, visited = math.nan, 0.0, set[int]()
    for place in reversed(range(len(calls))):
        call, gradient = calls[place], gradients.pop(place, None)
        shares = {} if gradient is None else handed_back(calls[:place], call.y, gradient)
        if not shares:
            ends.add(call.layer)
            continue
        size, factor = mean_square(shares.values()), 1.0
        if math.isnan(level):
            level = size
            ends.add(call.layer)
        elif (target := targets.get(call.layer)) and call.layer not in ends and id(target[0]) not in visited:
            visited.add(id(target[0]))
            if 0 < size < math.inf:
                factor = math.sqrt(level / size)
                target[0].write(target[0].read() * factor)
                largest = max(largest, abs(size / level - 1))
            elif not closed:
                raise ValueError(
                    f"{target[0].layer.name}: {scheme} cannot scale the gradient that it hands back (got second moment "
                    f"{size:g} on this batch); give a batch whose signal reaches it, and has finite numbers"
                )
        for source, part in shares.items():
            gradients[source] = gradients.get(source, 0) + part * factor
    return largest


def handed_back(calls: list[Call], y: Tensor, gradient: Tensor) -> dict[int, Tensor]:
    """The gradient at the outputs of calls that y is made of without another layer in between, by their place."""
    if not y.requires_grad or not calls:
        return {}
    parts = torch.autograd.grad(y, [call.cut for call in calls], gradient, retain_graph=True, allow_unused=True)
    return {place: part for place, part in enumerate(parts) if part is not None}


def mean_square(tensors: Collection[Tensor]) -> float:
    """The second moment of all numbers in some tensors."""
    total = sum(tensor.double().square().sum().item() for tensor in tensors)
    return total / sum(tensor.numel() for tensor in tensors)
