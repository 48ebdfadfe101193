"""Layer-sequential unit variance: scale each layer until its output has variance 1 on a batch (Mishkin and Matas 2016).

Their algorithm 1 scales a layer by 1/sqrt(Var[y]), goes through the net again, and then takes the next layer. Biases
are 0, so y scales with the weight exactly; here one pass scales every layer in turn and hands on its scaled output,
and the next pass finds nothing left to do.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from initlab.nets.any_module import WeightLayer, weight_layers
from initlab.nets.undisturbed import to_model, untouched

TOLERANCE = 0.01  # of the variance; the paper's is 0.1, but here a closer one costs nothing
MOST_PASSES = 10  # a weight that is used before and after another layer may need more than two


@torch.no_grad()
def unit_variance_(model: nn.Module, batch: Tensor, wanted: dict[nn.Module, float]) -> None:
    """Scale layers of `model` in place so that their outputs have a wanted standard deviation on `batch`.

    The variance is over batch, channels and positions. Dropout is off, BatchNorm uses the batch's statistics; buffers,
    modes and the global random state stay. A layer used several times, or a weight of several layers, is scaled
    by its first call in the pass; layers that never run keep their weights.

    Args:
        wanted: standard deviation of the output, 1 as a rule, of each layer that is to be scaled; with biases of 0.

    Raises:
        ValueError: a layer whose output has no variance on this batch, or not a finite one.
    """
    images, _ = to_model(model, batch, None)
    names = {module: name for name, module in weight_layers(model)}
    with untouched(model, backward=False):
        for _ in range(MOST_PASSES):
            if not one_pass(model, images, wanted, names):
                return


def one_pass(model: nn.Module, images: Tensor, wanted: dict[nn.Module, float], names: dict[Any, str]) -> bool:
    """Run the model, scaling each wanted layer as it comes; whether any had to be."""
    seen: set[int] = set()
    scaled: list[str] = []

    def scale(module: WeightLayer, _: Any, y: Tensor) -> Tensor | None:
        if id(module.weight) in seen:
            return None
        seen.add(id(module.weight))
        variance = y.double().var(correction=0).item()
        if not 0 < variance < math.inf:
            raise ValueError(
                f"{names[module]}: lsuv cannot scale its output to variance 1 (got variance {variance:g} on this "
                "batch); give a batch whose signal reaches it, and has finite numbers"
            )
        if abs(variance / wanted[module] ** 2 - 1) <= TOLERANCE:
            return None
        scaled.append(names[module])
        factor = wanted[module] / math.sqrt(variance)
        module.weight.mul_(factor)
        return y * factor

    hooks = [module.register_forward_hook(scale) for module in wanted]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return bool(scaled)
