"""Modules from descriptions: `build_net` by catalog name, `to_modules` from a list of layers."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from initlab.nets import architecture
from initlab.nets.layers import StreamDropout


def build_net(
    name: str = "plain",
    *,
    depth: int = 30,
    width: int = 16,
    num_classes: int = 10,
    input_shape: tuple[int, int, int] | None = None,
    input_size: int | None = None,
    widths: Sequence[int] | None = None,
    stages: int = 3,
    linear_width: int = 64,
    activation: str = "relu",
    negative_slope: float | None = None,
    downsample: str = "stride",
    dropout: float = 0.0,
) -> nn.Sequential:
    """A net of the catalog, with torch's default initialisation; `initlab.init_` gives it another.

    Args:
        name: catalog name; `plain` is described in `initlab.nets.architecture.plain`.
        input_shape: (channels, height, width) of one image; or `input_size=S` for (3, S, S).

    Returns:
        An `nn.Sequential` of named layers that maps (N, channels, height, width) to logits (N, num_classes).

    Raises:
        ValueError: unknown name, both or neither of input_shape and input_size, or an impossible layout.

    `build_net("plain", depth=30, input_shape=(1, 16, 16))` has 27 convolutions and 3 linear layers.
    """
    if name != "plain":
        raise ValueError(f"build_net: unknown net (got {name!r}); allowed: plain")
    if (input_shape is None) == (input_size is None):
        raise ValueError(
            f"build_net: give one of input_shape and input_size (got {input_shape}, {input_size}); "
            "input_shape=(channels, height, width), input_size=S means (3, S, S)"
        )
    layers = architecture.plain(
        depth,
        width,
        num_classes,
        input_shape or (3, input_size or 0, input_size or 0),
        widths=tuple(widths) if widths else None,
        stages=stages,
        linear_width=linear_width,
        activation=activation,
        negative_slope=negative_slope,
        downsample=downsample,
        dropout=dropout,
    )
    return to_modules(layers)


def to_modules(layers: Sequence[architecture.Layer]) -> nn.Sequential:
    """One module per description, in order, under its name."""
    return nn.Sequential(OrderedDict((layer.name, to_module(layer)) for layer in layers))


def to_module(layer: architecture.Layer) -> nn.Module:
    """The torch module of one description."""
    match layer:
        case architecture.Conv():
            return nn.Conv2d(
                layer.in_channels, layer.out_channels, layer.kernel, stride=layer.stride, padding=layer.padding
            )
        case architecture.Linear():
            return nn.Linear(layer.in_features, layer.out_features)
        case architecture.Activation():
            return activation_module(layer)
        case architecture.MaxPool():
            return nn.MaxPool2d(layer.kernel, layer.stride)
        case architecture.Flatten():
            return nn.Flatten()
        case architecture.Dropout():
            return StreamDropout(layer.p, layer.name)


def activation_module(layer: architecture.Activation) -> nn.Module:
    """Rectifier with the description's slope; PReLU learns one per channel, or one for `prelu_shared`."""
    match layer.kind:
        case "relu":
            return nn.ReLU()
        case "leaky_relu":
            return nn.LeakyReLU(layer.negative_slope)
        case "prelu":
            return nn.PReLU(layer.channels, init=layer.negative_slope)
        case "prelu_shared":
            return nn.PReLU(1, init=layer.negative_slope)
    raise ValueError(
        f"{layer.name}: unknown activation (got {layer.kind!r}); allowed: relu, leaky_relu, prelu, prelu_shared"
    )
