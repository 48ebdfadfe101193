"""The weight layers of a model: which modules they are, under which names, and their shapes for a scheme."""

from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from initlab.init.shapes import LayerShape, fans

Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
WeightLayer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | Transposed


def weight_layers(model: nn.Module) -> list[tuple[str, WeightLayer]]:
    """(name, module) of every convolution and linear layer, names without those of DDP and compile wrappers."""
    return [(layer_name(name), module) for name, module in model.named_modules() if isinstance(module, WeightLayer)]


def layer_name(name: str) -> str:
    """`module._orig_mod.features.0` is `features.0`."""
    while name.startswith(("module.", "_orig_mod.")):
        name = name.split(".", 1)[1]
    return name


def first_slope(model: nn.Module) -> float:
    """Slope below zero of the model's first leaky or parametric rectifier; 0 where it has none."""
    for module in model.modules():
        if isinstance(module, nn.LeakyReLU):
            return float(module.negative_slope)
        if isinstance(module, nn.PReLU):
            return float(module.weight.detach().mean())
    return 0.0


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
                shape, fan_in, fan_out, name, index, len(layers), isinstance(module, nn.Linear), module is last,
                conv.get("groups", 1), mode, distribution, std, negative_slope,
            )
        )  # fmt: skip
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
