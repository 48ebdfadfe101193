"""Modules from descriptions: `build_net` by catalog name, `to_modules` from a list of layers."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import astuple

from torch import nn

from initlab.nets import architecture, layers as ours, sequence_layers
from initlab.nets.architecture import Activation, Dropout, InputShape, Layer, NetChoices
from initlab.nets.catalog import CATALOG, FIELDS, INPUT_SIZE, PAPER_NETS, default_input, describe_net

# A module takes the fields of its description, but the name, in their order.
MODULES: dict[type[Layer], Callable[..., nn.Module]] = {
    architecture.Conv: nn.Conv2d,
    architecture.Linear: nn.Linear,
    architecture.MaxPool: nn.MaxPool2d,
    architecture.SPP: ours.SpatialPyramidPool,
    architecture.BatchNorm: nn.BatchNorm2d,
    architecture.Add: ours.Add,
    architecture.Flatten: nn.Flatten,
    architecture.Embedding: nn.Embedding,
    architecture.Positions: sequence_layers.Positions,
    architecture.LayerNorm: nn.LayerNorm,
    architecture.Attention: sequence_layers.Attention,
    architecture.LSTM: sequence_layers.LSTM,
}


def build_net(
    name: str = "plain",
    *,
    depth: int = NetChoices.depth,
    width: int = NetChoices.width,
    num_classes: int | None = None,
    input_shape: InputShape | None = None,
    input_size: int | None = None,
    widths: Sequence[int] | None = NetChoices.widths,
    stages: int = NetChoices.stages,
    linear_width: int = NetChoices.linear_width,
    activation: architecture.ActivationName = NetChoices.activation,
    negative_slope: float | None = NetChoices.negative_slope,
    downsample: architecture.Downsample = NetChoices.downsample,
    dropout: float = NetChoices.dropout,
    norm: architecture.Norm = NetChoices.norm,
    skip: architecture.Skip = NetChoices.skip,
    heads: int = NetChoices.heads,
    branch_factor: float = NetChoices.branch_factor,
) -> nn.Sequential:
    """A net of the catalog, with torch's default initialisation; `initlab.init_` gives it another.

    Args:
        name: `plain`, described in `initlab.nets.architecture.plain`; `mlp`, `transformer` or `lstm`, in
            `initlab.nets.equal_layers`; or a net of the paper, `initlab.nets.catalog.PAPER_NETS`.
            `initlab.nets.catalog.FIELDS` says which of the other arguments each takes.
        depth: weight layers; of a transformer its blocks, of an LSTM its recurrent layers.
        width: channels of the first stage; features of all layers where there are no stages.
        num_classes: of a transformer or LSTM also the number of different tokens, 97 where it is None. Of `plain` and
            `mlp` None is 10, of the paper's nets its 1000.
        input_shape: (channels, height, width) of one image; or `input_size=S` for (3, S, S). The paper's nets take
            224 where neither is given; those with SPP also run on images of other sizes than they were built for.
            A transformer or LSTM takes (positions,), an mlp any shape.
        activation: relu, leaky_relu, prelu (a slope per channel), prelu_shared (one per layer), gelu or tanh.
        dropout: probability in the first two linear layers, 0.5 in the paper; behind each layer of an mlp, at the end
            of each branch of a transformer.
        norm: `batch` puts BatchNorm after every convolution; `pre` or `post` LayerNorm into a transformer.
        skip: `identity` puts skips around pairs of convolutions; see `initlab.nets.variants.with_skips`.

    Returns:
        An `nn.Sequential` of named layers that maps (N, channels, height, width) to logits (N, num_classes), or tokens
        (N, positions) to (N, positions, num_classes).

    Raises:
        ValueError: unknown name or choice, both of input_shape and input_size or (plain) neither, a choice that the
            net does not have, or an impossible layout.

    `build_net("plain", depth=30, input_shape=(1, 16, 16))` has 27 convolutions and 3 linear layers, and
    `build_net("small-14", activation="prelu_shared")` 74,993,909 parameters.
    """
    if name not in CATALOG:
        raise ValueError(f"build_net: unknown net (got {name!r}); allowed: {', '.join(CATALOG)}")
    choices = NetChoices(
        depth=depth,
        width=width,
        widths=tuple(widths) if widths else None,
        stages=stages,
        linear_width=linear_width,
        downsample=downsample,
        activation=activation,
        negative_slope=negative_slope,
        dropout=dropout,
        norm=norm,
        skip=skip,
        heads=heads,
        branch_factor=branch_factor,
    )
    for key, value in vars(choices).items():
        if key not in FIELDS[name] and value != getattr(NetChoices, key):
            allowed = ", ".join(sorted(FIELDS[name]))
            raise ValueError(f"build_net: {name} has no {key} to choose (got {value}); allowed: {allowed}")
    shape = checked_shape(name, input_shape, input_size)
    if num_classes is None:
        num_classes = default_input(name)[0]
    if num_classes < 1:
        raise ValueError(f"build_net: num_classes: out of range (got {num_classes}); allowed: at least 1")
    return to_modules(describe_net(name, num_classes, shape, choices))


def checked_shape(name: str, input_shape: InputShape | None, input_size: int | None) -> InputShape:
    """The shape of one input of a net, by the one of two arguments that is given."""
    if input_size is None and input_shape is None and name in PAPER_NETS:
        input_size = INPUT_SIZE
    if (input_shape is None) == (input_size is None):
        raise ValueError(
            f"build_net: give one of input_shape and input_size (got {input_shape}, {input_size}); "
            "input_shape=(channels, height, width), input_size=S means (3, S, S)"
        )
    shape = input_shape or (3, input_size or 0, input_size or 0)
    # An image is what any net takes that has convolutions.
    if min(shape, default=0) < 1 or ("skip" in FIELDS[name] and len(shape) != 3):
        raise ValueError(
            f"build_net: input_shape: not a shape (got {shape}); allowed: (channels, height, width) above 0"
        )
    return shape


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
        case Activation(kind="gelu"):
            return nn.GELU()
        case Activation(kind="tanh"):
            return nn.Tanh()
        case Activation(kind="leaky_relu"):
            return nn.LeakyReLU(layer.negative_slope)
        case Activation():
            # PReLU learns a slope per channel, or one for `prelu_shared`.
            return nn.PReLU(layer.channels if layer.kind == "prelu" else 1, init=layer.negative_slope)
        case Dropout():
            return ours.StreamDropout(layer.p, layer.name)
    _, *arguments = astuple(layer)
    return MODULES[type(layer)](*arguments)
