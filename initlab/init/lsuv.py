"""Layer-sequential unit variance: scale each layer until its output has variance 1 on a batch (Mishkin and Matas 2016).

Their algorithm 1 scales a layer by 1/sqrt(Var[y]), goes through the net again, and then takes the next layer. Without
its bias y scales with the weight exactly; here one pass scales every layer in turn and hands on its scaled output, and
the next pass finds nothing left to do. Whatever lies between the layers, sums, pools, concatenations and constants, is
in what each layer gets.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from initlab.init.layers import Matrix
from initlab.nets.any_module import WeightLayer, on_weight_layers
from initlab.nets.undisturbed import Batch, run_model, to_model, untouched

# Of the variance; the paper's is 0.1, but here a closer one costs nothing.
TOLERANCE = 0.01
# A weight that is used before and after another layer may need more than two passes.
MOST_PASSES = 10
# The layers to scale, with what they are drawn as and the standard deviation that their output is to have.
Targets = Mapping[nn.Module, tuple[Matrix, float]]


@torch.no_grad()
def unit_variance_(model: nn.Module, batch: Batch, targets: Targets, scheme: str, *, closed: bool = False) -> None:
    """Scale each target in place so that its output, without its bias, has its standard deviation on `batch`.

    The variance is over batch, channels and positions. Dropout is off, BatchNorm uses the batch's statistics; buffers,
    modes and the global random state stay. A layer used several times, or a weight of several layers, is scaled by its
    first call in the pass; layers that never run keep their weights.

    Args:
        scheme: what asks for it, in messages.
        closed: whether other layers are closed on purpose, so that nothing but zeros may reach a target, which stays.

    Raises:
        ValueError: the output of a layer has no variance on this batch, or not a finite one.
    """
    visited, scaled = set[int](), list[WeightLayer]()

    def scale(name: str, layer: WeightLayer, inputs: Any, y: Tensor) -> Tensor | None:
        """Scale one layer at its first call in a pass, and its output with it."""
        if layer not in targets or id(parameter_of(targets[layer][0])) in visited:
            return None
        matrix, target = targets[layer]
        visited.add(id(parameter_of(matrix)))
        shift = bias_of(layer)
        variance = (y if shift is None else y - shift).double().var(correction=0).item()
        if variance == 0 and closed:
            return None
        if not 0 < variance < math.inf:
            raise ValueError(
                f"{name}: {scheme} cannot scale its output to variance 1 (got variance {variance:g} on this "
                "batch); give a batch whose signal reaches it, and has finite numbers"
            )
        if abs(variance / target**2 - 1) <= TOLERANCE:
            return None
        scaled.append(layer)
        factor = target / math.sqrt(variance)
        matrix.write(matrix.read() * factor)
        return y * factor if shift is None else (y - shift) * factor + shift

    with untouched(model, backward=False, changing=written(targets)), on_weight_layers(model, scale):
        for _ in range(MOST_PASSES):
            visited.clear()
            scaled.clear()
            run_model(model, to_model(model, batch, None)[0])
            if not scaled:
                break
    refresh(targets)


def refresh(targets: Targets) -> None:
    """Compute anew the weights that hooks compute, which were put back with the rest of the model."""
    for matrix, _ in targets.values():
        if matrix.attribute not in matrix.module._parameters:
            matrix.write(matrix.read())


def parameter_of(matrix: Matrix) -> nn.Parameter:
    """The parameter by which a weight is known, which layers may share."""
    return matrix.parameters[-1]


def written(targets: Targets) -> list[Tensor]:
    """The parameters that change when the targets are scaled."""
    return [parameter for matrix, _ in targets.values() for parameter in matrix.parameters]


def bias_of(layer: WeightLayer) -> Tensor | None:
    """A layer's bias in the shape of its output; None where there is none but zeros."""
    bias = layer.bias
    if bias is None or not bias.any():
        return None
    return bias if isinstance(layer, nn.Linear) else bias.reshape(-1, *[1] * len(layer.kernel_size))
