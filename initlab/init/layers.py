"""The shapes of a model's weight layers, as a scheme takes them."""

from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from initlab.init.shapes import LayerShape, fans
from initlab.nets.any_module import Transposed, WeightLayer


def layer_shapes(
    layers: list[tuple[str, WeightLayer]], *, mode: str, distribution: str, std: float, negative_slope: float
) -> list[LayerShape]:
    """What a scheme may know of each layer.

    Raises:
        ValueError: a weight that cannot be set; unknown mode or distribution.
    """
    last = next((module for _, module in reversed(layers) if isinstance(module, nn.Linear)), None)
    shapes = []
    for index, (name, module) in enumerate(layers):
        check_settable(name, module)
        shape, conv = tuple(module.weight.shape), spatial(module)
        fan_in, fan_out = fans(shape, **conv)
        shapes.append(
            LayerShape(
                shape,
                fan_in,
                fan_out,
                name,
                index,
                len(layers),
                isinstance(module, nn.Linear),
                module is last,
                conv.get("groups", 1),
                mode,
                distribution,
                std,
                negative_slope,
            )
        )
    return shapes


def spatial(module: WeightLayer) -> dict[str, Any]:
    """What the fans of a convolution depend on beside its weight's shape."""
    if isinstance(module, nn.Linear):
        return {}
    return {"groups": module.groups, "stride": module.stride, "transposed": isinstance(module, Transposed)}


def check_settable(name: str, module: WeightLayer) -> None:
    """Refuse a weight that a copy would not change, or whose shape is not known yet."""
    weight = module._parameters.get("weight")
    if weight is None:
        raise ValueError(
            f"{name}: its weight is computed from other parameters (got a parametrized, weight-normed or pruned "
            f"{type(module).__name__}); initialise the model before that is put on"
        )
    if isinstance(weight, UninitializedParameter):
        raise ValueError(
            f"{name}: its weight has no shape yet (got a lazy {type(module).__name__}); run the model on a batch first"
        )
