"""Architectures as data: a net is a list of layer descriptions, so it can be counted without torch.

`plain` describes the rectifier nets of the convergence study for small images, `equal_layers.py` perceptrons,
transformers and LSTMs; `catalog.py` has the paper's own. `build.py` turns a description into modules, `counts.py` into
map sizes, parameters and multiply-adds.
"""

from dataclasses import dataclass
from typing import Literal, get_args

LINEAR_LAYERS = 3
# Of one example: (channels, height, width) of an image, (positions,) of a sequence of tokens.
InputShape = tuple[int, ...]
# Slope below zero at the start of training (He et al. 2015, sec. 2.1).
DEFAULT_SLOPES = {"leaky_relu": 0.01, "prelu": 0.25, "prelu_shared": 0.25}

ActivationName = Literal["relu", "leaky_relu", "prelu", "prelu_shared", "gelu", "tanh"]
Downsample = Literal["stride", "max_pool"]
Norm = Literal["none", "batch", "pre", "post"]
Skip = Literal["none", "identity"]


@dataclass(frozen=True)
class Conv:
    """A square convolution with a bias."""

    name: str
    in_channels: int
    out_channels: int
    kernel: int
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True)
class Linear:
    """A linear layer with a bias."""

    name: str
    in_features: int
    out_features: int


@dataclass(frozen=True)
class Activation:
    """An activation of `channels` channels; the slope below zero is where `prelu` and `prelu_shared` start."""

    name: str
    kind: ActivationName
    channels: int
    negative_slope: float


@dataclass(frozen=True)
class MaxPool:
    """Maxima of square windows, without padding."""

    name: str
    kernel: int
    stride: int


@dataclass(frozen=True)
class SPP:
    """Spatial pyramid pooling: the maxima of n x n bins for each n of `bins`, as one vector (SPP-net, 1406.4729)."""

    name: str
    bins: tuple[int, ...]


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalisation of maps, with a scale and a shift per channel."""

    name: str
    channels: int


@dataclass(frozen=True)
class Add:
    """An identity skip: adds what the layer `source` gave to `factor` times what the layer before it gave."""

    name: str
    source: str
    factor: float = 1.0


@dataclass(frozen=True)
class Flatten:
    """Maps to one vector per example."""

    name: str


@dataclass(frozen=True)
class Dropout:
    """Dropout with probability `p`."""

    name: str
    p: float


@dataclass(frozen=True)
class Embedding:
    """A learned vector of `features` numbers for each of `words` tokens."""

    name: str
    words: int
    features: int


@dataclass(frozen=True)
class Positions:
    """Adds a learned vector for each position of a sequence."""

    name: str
    positions: int
    features: int


@dataclass(frozen=True)
class LayerNorm:
    """Layer normalisation over the features of each position, with a scale and a shift per feature."""

    name: str
    features: int


@dataclass(frozen=True)
class Attention:
    """Causal self-attention with `heads` heads: linear layers for queries, keys, values and the output."""

    name: str
    features: int
    heads: int


@dataclass(frozen=True)
class LSTM:
    """So many LSTM layers, each with as many units as features come in; only the outputs of all steps go on."""

    name: str
    features: int
    layers: int


SequenceLayer = Embedding | Positions | LayerNorm | Attention | LSTM
Layer = Conv | Linear | Activation | MaxPool | SPP | BatchNorm | Add | Flatten | Dropout | SequenceLayer


@dataclass(frozen=True)
class NetChoices:
    """What there is to choose of a net; `build_net` and study files take their defaults from here.

    `FIELDS` of the catalog says which of them a net takes.
    """

    depth: int = 30  # weight layers; of a transformer blocks, of an LSTM recurrent layers
    width: int = 16  # channels of the first stage, which double per stage; else features of all layers
    widths: tuple[int, ...] | None = None  # channels of each stage, instead of width and stages
    stages: int = 3
    linear_width: int = 64  # of the first two linear layers
    downsample: Downsample = "stride"
    activation: ActivationName = "relu"
    negative_slope: float | None = None  # below zero, the start for PReLU; None takes that of `DEFAULT_SLOPES`
    dropout: float = 0.0  # in the first two linear layers; 0 leaves the dropout layers out
    norm: Norm = "none"
    skip: Skip = "none"
    heads: int = 4
    branch_factor: float = 1.0  # on the residual branches of transformer

    def check(self, place: str) -> None:
        """Refuse an unknown activation or downsample; `place` is the net's name, for the error."""
        check_choice(place, "activation", self.activation, ActivationName)
        check_choice(place, "downsample", self.downsample, Downsample)

    def activation_layer(self, name: str, channels: int) -> Activation:
        """The activation of a layer with so many channels."""
        slope = DEFAULT_SLOPES.get(self.activation, 0.0) if self.negative_slope is None else self.negative_slope
        return Activation(name, self.activation, channels, slope)

    def linear_part(self, features: int, width: int, num_classes: int) -> list[Layer]:
        """The three linear layers that end a net: two of this width with their activations, and one of the classes."""
        layers: list[Layer] = []
        for index in (1, 2):
            layers += [Linear(f"fc{index}", features, width), self.activation_layer(f"fc_act{index}", width)]
            if self.dropout:
                layers.append(Dropout(f"dropout{index}", self.dropout))
            features = width
        return [*layers, Linear("fc3", features, num_classes)]


def check_choice(place: str, key: str, value: str, choices: object) -> None:
    """Refuse a value that is none of a Literal's."""
    allowed = get_args(choices)
    if value not in allowed:
        raise ValueError(f"{place}: unknown {key} (got {value!r}); allowed: {', '.join(allowed)}")


def plain(num_classes: int, input_shape: InputShape, choices: NetChoices) -> list[Layer]:
    """A plain rectifier net for small images: stages of 3x3 convolutions, then three linear layers.

    `depth` counts weight layers, so 22 is 19 convolutions and 3 linear layers, and 30 is 27 and 3. The
    convolutions are spread over the stages as evenly as they go, earlier stages first. Stage s has
    `width * 2**s` channels, or `widths[s]`. Between stages the map halves: by stride 2 in a stage's first convolution,
    an odd side rounding up, or by a 2x2 `max_pool` before it, an odd side rounding down.

    Args:
        input_shape: (channels, height, width) of one image.

    Raises:
        ValueError: depth gives a stage no convolution, the map does not survive the halvings, or an unknown choice.
    """
    choices.check("plain")
    widths = choices.widths or tuple(choices.width * 2**stage for stage in range(choices.stages))
    problem = plain_problem(choices.depth, len(widths), min(input_shape[1:]))
    if problem:
        raise ValueError(f"plain: {': '.join(problem)}")
    strided = choices.downsample == "stride"
    layers: list[Layer] = []
    convs, (channels, *sides) = choices.depth - LINEAR_LAYERS, input_shape
    for stage, width in enumerate(widths):
        if stage > 0:
            sides = [(side + 1) // 2 if strided else side // 2 for side in sides]
            layers += [] if strided else [MaxPool(f"pool{stage}", kernel=2, stride=2)]
        for index in range(convs // len(widths) + (stage < convs % len(widths))):
            suffix = f"{stage + 1}_{index + 1}"
            stride = 2 if strided and stage > 0 and index == 0 else 1
            layers.append(Conv(f"conv{suffix}", channels, width, kernel=3, stride=stride, padding=1))
            layers.append(choices.activation_layer(f"act{suffix}", width))
            channels = width
    features = channels * sides[0] * sides[1]
    return [*layers, Flatten("flatten"), *choices.linear_part(features, choices.linear_width, num_classes)]


def plain_problem(depth: int, stages: int, image_size: int) -> tuple[str, str] | None:
    """(argument, explanation) of why a plain net cannot be laid out, or None."""
    if depth - LINEAR_LAYERS < stages:
        return "depth", (
            f"too small for {stages} stages (got {depth}); allowed: at least {stages + LINEAR_LAYERS}, "
            f"{stages} convolutions and {LINEAR_LAYERS} linear layers"
        )
    if image_size < 2 ** (stages - 1):
        return "stages", (
            f"too many for images of {image_size} pixels (got {stages}); allowed: at most {image_size.bit_length()}, "
            "since the map halves between them"
        )
    return None
