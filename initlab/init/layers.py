"""What a scheme may know of a model's weight layers: their shapes, fans and places."""

from torch import nn
from torch.nn.parameter import UninitializedParameter

from initlab.init.shapes import LayerShape, fans
from initlab.nets.any_module import Transposed, WeightLayer, weight_layers


def layer_shapes(model: nn.Module) -> list[tuple[WeightLayer, LayerShape]]:
    """Every weight layer of a model with its shape, on which the arguments of `init_` stand at their defaults.

    Raises:
        ValueError: a weight that cannot be set.
    """
    layers = weight_layers(model)
    last = next((layer for _, layer in reversed(layers) if isinstance(layer, nn.Linear)), None)
    shapes = []
    for index, (name, layer) in enumerate(layers):
        check_settable(name, layer)
        size, is_linear, groups = tuple(layer.weight.shape), isinstance(layer, nn.Linear), getattr(layer, "groups", 1)
        shape = LayerShape(size, *layer_fans(layer), name, index, len(layers), is_linear, layer is last, groups)
        shapes.append((layer, shape))
    return shapes


def layer_fans(layer: WeightLayer) -> tuple[float, float]:
    """(fan_in, fan_out) of a weight layer, with its groups and, where it is transposed, its stride."""
    shape = tuple(layer.weight.shape)
    if isinstance(layer, nn.Linear):
        return fans(shape)
    return fans(shape, groups=layer.groups, stride=layer.stride, transposed=isinstance(layer, Transposed))


def check_settable(name: str, layer: WeightLayer) -> None:
    """Refuse a weight that a copy would not change, or whose shape is not known yet."""
    weight = layer._parameters.get("weight")
    if weight is None:
        raise ValueError(
            f"{name}: its weight is computed from other parameters (got a parametrized, weight-normed or pruned "
            f"{type(layer).__name__}); initialise the model before that is put on"
        )
    if isinstance(weight, UninitializedParameter):
        raise ValueError(
            f"{name}: its weight has no shape yet (got a lazy {type(layer).__name__}); run the model on a batch first"
        )
