"""Layer-sequential unit variance: scale each layer until its output has variance 1 on a batch (Mishkin and Matas 2016).

Their algorithm 1 scales a layer by 1/sqrt(Var[y]), goes through the net again, and then takes the next layer. Biases
are 0, so y scales with the weight exactly; here one pass scales every layer in turn and hands on its scaled output,
and the next pass finds nothing left to do.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from initlab.nets.any_module import WeightLayer, on_weight_layers
from initlab.nets.undisturbed import Batch, run_model, to_model, untouched

# Of the variance; the paper's is 0.1, but here a closer one costs nothing.
TOLERANCE = 0.01
# A weight that is used before and after another layer may need more than two passes.
MOST_PASSES = 10


@torch.no_grad()
def unit_variance_(model: nn.Module, batch: Batch, target_stds: dict[nn.Module, float]) -> None:
    """Scale each layer of `target_stds` in place so that its output has this standard deviation on `batch`.

    Their biases have to be 0. The variance is over batch, channels and positions. Dropout is off, BatchNorm uses the
    batch's statistics; buffers, modes and the global random state stay. A layer used several times, or a weight of
    several layers, is scaled by its first call in the pass; layers that never run keep their weights. A layer whose
    output has no variance on this batch, or not a finite one, is refused.
    """
    visited, scaled = set[int](), list[WeightLayer]()

    def scale(name: str, layer: WeightLayer, inputs: Any, y: Tensor) -> Tensor | None:
        """Scale one layer at its first call in a pass, and its output with it."""
        if layer not in target_stds or id(layer.weight) in visited:
            return None
        visited.add(id(layer.weight))
        variance = y.double().var(correction=0).item()
        if not 0 < variance < math.inf:
            raise ValueError(
                f"{name}: lsuv cannot scale its output to variance 1 (got variance {variance:g} on this "
                "batch); give a batch whose signal reaches it, and has finite numbers"
            )
        if abs(variance / target_stds[layer] ** 2 - 1) <= TOLERANCE:
            return None
        scaled.append(layer)
        factor = target_stds[layer] / math.sqrt(variance)
        layer.weight.mul_(factor)
        return y * factor

    weights = [parameter for layer in target_stds for parameter in layer.parameters()]
    with untouched(model, backward=False, changing=weights), on_weight_layers(model, scale):
        for _ in range(MOST_PASSES):
            visited.clear()
            scaled.clear()
            run_model(model, to_model(model, batch, None)[0])
            if not scaled:
                return
