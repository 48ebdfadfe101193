"""Architectures as data: a net is a list of layer descriptions, so it can be counted without torch.

`plain` describes the rectifier nets of the convergence study for small images; `catalog.py` has the paper's own.
`build.py` turns a description into modules, `counts.py` into map sizes, parameters and multiply-adds.
"""

from dataclasses import dataclass

LINEAR_LAYERS = 3


@dataclass(frozen=True)
class Conv:
    name: str
    in_channels: int
    out_channels: int
    kernel: int
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True)
class Linear:
    name: str
    in_features: int
    out_features: int


@dataclass(frozen=True)
class Activation:
    name: str
    kind: str  # relu | leaky_relu | prelu | prelu_shared
    channels: int
    negative_slope: float


@dataclass(frozen=True)
class MaxPool:
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
    name: str
    channels: int


@dataclass(frozen=True)
class Add:
    """An identity skip: adds what the layer `source` gave, of the same shape, to what the layer before it gave."""

    name: str
    source: str


@dataclass(frozen=True)
class Flatten:
    name: str


@dataclass(frozen=True)
class Dropout:
    name: str
    p: float


Layer = Conv | Linear | Activation | MaxPool | SPP | BatchNorm | Add | Flatten | Dropout


# slope below zero at the start of training (He et al. 2015, sec. 2.1)
DEFAULT_SLOPES = {"relu": 0.0, "leaky_relu": 0.01, "prelu": 0.25, "prelu_shared": 0.25}
DOWNSAMPLES = ("stride", "max_pool")


def plain(
    depth: int,
    width: int,
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    widths: tuple[int, ...] | None = None,
    stages: int = 3,
    linear_width: int = 64,
    activation: str = "relu",
    negative_slope: float | None = None,
    downsample: str = "stride",
    dropout: float = 0.0,
) -> list[Layer]:
    """A plain rectifier net for small images: stages of 3x3 convolutions, then three linear layers.

    `depth` counts weight layers, so 22 is 19 convolutions and 3 linear layers, and 30 is 27 and 3. The
    convolutions are spread over the stages as evenly as they go, earlier stages first. Stage s has
    `width * 2**s` channels, or `widths[s]`.

    Args:
        input_shape: (channels, height, width) of one image.
        linear_width: width of the first two linear layers.
        negative_slope: slope below zero (its start for PReLU); None takes that of `DEFAULT_SLOPES`.
        downsample: how the map halves between stages: `stride` 2 in a stage's first convolution, an odd side
            rounding up, or a 2x2 `max_pool` before it, an odd side rounding down.
        dropout: probability in the first two linear layers; 0 leaves the dropout layers out.

    Raises:
        ValueError: depth gives a stage no convolution, the map does not survive the halvings, or an unknown choice.
    """
    for name, value, allowed in (("activation", activation, DEFAULT_SLOPES), ("downsample", downsample, DOWNSAMPLES)):
        if value not in allowed:
            raise ValueError(f"plain: unknown {name} (got {value!r}); allowed: {', '.join(allowed)}")
    stage_widths = widths or tuple(width * 2**stage for stage in range(stages))
    problem = plain_problem(depth, len(stage_widths), min(input_shape[1:]))
    if problem:
        raise ValueError(f"plain: {': '.join(problem)}")
    slope = DEFAULT_SLOPES[activation] if negative_slope is None else negative_slope
    layers: list[Layer] = []
    convs, (channels, *sides) = depth - LINEAR_LAYERS, input_shape
    for stage, out in enumerate(stage_widths):
        if stage > 0:
            sides = [(side + 1) // 2 if downsample == "stride" else side // 2 for side in sides]
            if downsample == "max_pool":
                layers.append(MaxPool(f"pool{stage}", kernel=2, stride=2))
        for index in range(convs // len(stage_widths) + (stage < convs % len(stage_widths))):
            suffix = f"{stage + 1}_{index + 1}"
            stride = 2 if downsample == "stride" and stage > 0 and index == 0 else 1
            layers.append(Conv(f"conv{suffix}", channels, out, kernel=3, stride=stride, padding=1))
            layers.append(Activation(f"act{suffix}", activation, out, slope))
            channels = out
    layers.append(Flatten("flatten"))
    features = channels * sides[0] * sides[1]
    for index in (1, 2):
        layers.append(Linear(f"fc{index}", features, linear_width))
        layers.append(Activation(f"fc_act{index}", activation, linear_width, slope))
        if dropout:
            layers.append(Dropout(f"dropout{index}", dropout))
        features = linear_width
    layers.append(Linear("fc3", features, num_classes))
    return layers


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
