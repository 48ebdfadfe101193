"""What a scheme may know of a model's weight layers: their shapes, fans and places."""

from torch import nn
from torch.nn.parameter import UninitializedParameter

from initlab.init.shapes import LayerShape, fans
from initlab.nets.any_module import Transposed, WeightLayer, weight_layers

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


def layer_shapes(model: nn.Module) -> list[tuple[WeightLayer, LayerShape]]:
    """Every weight layer with its shape, `init_`'s arguments at their defaults; refuses weights that cannot be set."""
    layers = weight_layers(model)
    last = next((layer for _, layer in reversed(layers) if isinstance(layer, nn.Linear)), None)
    shapes = []
    for index, (name, layer) in enumerate(layers):
        weight = layer._parameters.get("weight")
        if weight is None:
            raise ValueError(
                f"{name}: its weight is computed from other parameters (got a parametrized, weight-normed or pruned "
                f"{type(layer).__name__}); initialise the model before that is put on"
            )
        if isinstance(weight, UninitializedParameter):
            kind = type(layer).__name__
            raise ValueError(f"{name}: its weight has no shape yet (got a lazy {kind}); run the model on a batch first")
        size, is_linear, groups = tuple(weight.shape), isinstance(layer, nn.Linear), getattr(layer, "groups", 1)
        shape = LayerShape(size, *layer_fans(layer), name, index, len(layers), is_linear, layer is last, groups)
        shapes.append((layer, shape))
    return shapes


def layer_fans(layer: WeightLayer) -> tuple[float, float]:
    """(fan_in, fan_out) of a weight layer, with its groups and, where it is transposed, its stride."""
    groups, stride = getattr(layer, "groups", 1), getattr(layer, "stride", ())
    return fans(tuple(layer.weight.shape), groups=groups, stride=stride, transposed=isinstance(layer, Transposed))
