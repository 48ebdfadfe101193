"""Modules from descriptions: `build_net` by catalog name, `to_modules` from a list of layers."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import astuple

from torch import nn

from initlab.nets import architecture, layers as ours
from initlab.nets.architecture import PLAIN_ALONE, Activation, Dropout, ImageShape, Layer, NetChoices
from initlab.nets.catalog import CATALOG, INPUT_SIZE, NUM_CLASSES, describe_net

# A module takes the fields of its description, but the name, in their order.
MODULES: dict[type[Layer], Callable[..., nn.Module]] = {
    architecture.Conv: nn.Conv2d,
    architecture.Linear: nn.Linear,
    architecture.MaxPool: nn.MaxPool2d,
    architecture.SPP: ours.SpatialPyramidPool,
    architecture.BatchNorm: nn.BatchNorm2d,
    architecture.Add: ours.Add,
    architecture.Flatten: nn.Flatten,
}


def build_net(
    name: str = "plain",
    *,
    depth: int = NetChoices.depth,
    width: int = NetChoices.width,
    num_classes: int | None = None,
    input_shape: ImageShape | None = None,
    input_size: int | None = None,
    widths: Sequence[int] | None = NetChoices.widths,
    stages: int = NetChoices.stages,
    linear_width: int = NetChoices.linear_width,
    activation: architecture.RectifierName = NetChoices.activation,
    negative_slope: float | None = NetChoices.negative_slope,
    downsample: architecture.Downsample = NetChoices.downsample,
    dropout: float = NetChoices.dropout,
    norm: architecture.Norm = NetChoices.norm,
    skip: architecture.Skip = NetChoices.skip,
) -> nn.Sequential:
    """A net of the catalog, with torch's default initialisation; `initlab.init_` gives it another.

    Args:
        name: `plain`, described in `initlab.nets.architecture.plain`, which alone has a depth, width, widths, stages,
            linear_width and downsample to choose; or a net of the paper, `initlab.nets.catalog.PAPER_NETS`.
        num_classes: None is 10 for `plain`, and the paper's 1000 for its nets.
        input_shape: (channels, height, width) of one image; or `input_size=S` for (3, S, S). The paper's nets take
            224 where neither is given; those with SPP also run on images of other sizes than they were built for.
        activation: relu, leaky_relu, prelu (a slope per channel) or prelu_shared (one per layer).
        dropout: probability in the first two linear layers, 0.5 in the paper.
        norm: `batch` puts BatchNorm after every convolution.
        skip: `identity` puts skips around pairs of convolutions; see `initlab.nets.variants.with_skips`.

    Returns:
        An `nn.Sequential` of named layers that maps (N, channels, height, width) to logits (N, num_classes).

    Raises:
        ValueError: unknown name or choice, both of input_shape and input_size or (plain) neither, a choice that the
            net does not have, or an impossible layout.

    `build_net("plain", depth=30, input_shape=(1, 16, 16))` has 27 convolutions and 3 linear layers, and
    `build_net("small-14", activation="prelu_shared")` 74,993,909 parameters.
    """
    if name not in CATALOG:
        raise ValueError(f"build_net: unknown net (got {name!r}); allowed: {', '.join(CATALOG)}")
    stage_widths = tuple(widths) if widths else None
    # In the order of its fields.
    choices = NetChoices(
        depth, width, stage_widths, stages, linear_width, downsample, activation, negative_slope, dropout, norm, skip
    )
    for key in PLAIN_ALONE:
        value = getattr(choices, key)
        if name != "plain" and value != getattr(NetChoices, key):
            raise ValueError(f"build_net: {name} has its own {key} (got {value}); it is to be chosen for plain alone")
    if input_size is None and input_shape is None and name != "plain":
        input_size = INPUT_SIZE
    if (input_shape is None) == (input_size is None):
        raise ValueError(
            f"build_net: give one of input_shape and input_size (got {input_shape}, {input_size}); "
            "input_shape=(channels, height, width), input_size=S means (3, S, S)"
        )
    shape = input_shape or (3, input_size or 0, input_size or 0)
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(
            f"build_net: input_shape: not a shape (got {shape}); allowed: (channels, height, width) above 0"
        )
    if num_classes is None:
        num_classes = 10 if name == "plain" else NUM_CLASSES
    if num_classes < 1:
        raise ValueError(f"build_net: num_classes: out of range (got {num_classes}); allowed: at least 1")
    return to_modules(describe_net(name, num_classes, shape, choices))


def to_modules(layers: Sequence[Layer]) -> nn.Sequential:
    """One module per description, in order, under its name."""
    modules = OrderedDict((layer.name, to_module(layer)) for layer in layers)
    skips = any(isinstance(layer, architecture.Add) for layer in layers)
    return ours.SkipSequential(modules) if skips else nn.Sequential(modules)


def to_module(layer: Layer) -> nn.Module:
    """The torch module of one description."""
    match layer:
        case Activation(kind="relu"):
            return nn.ReLU()
        case Activation(kind="leaky_relu"):
            return nn.LeakyReLU(layer.negative_slope)
        case Activation():
            # PReLU learns a slope per channel, or one for `prelu_shared`.
            return nn.PReLU(layer.channels if layer.kind == "prelu" else 1, init=layer.negative_slope)
        case Dropout():
            return ours.StreamDropout(layer.p, layer.name)
    _, *arguments = astuple(layer)
    return MODULES[type(layer)](*arguments)
