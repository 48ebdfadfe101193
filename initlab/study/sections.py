"""The sections that say what starts to train: the data, the net and the draw of its weights."""

from typing import Annotated

from pydantic import Field

from initlab.data.facts import FACTS
from initlab.init.shapes import Branches, Distribution, LayerShape, Mode
from initlab.nets.architecture import ActivationName, Downsample, NetChoices, Norm, Skip
from initlab.nets.catalog import CATALOG, FIELDS
from initlab.study.field_types import OR_CODE, Count, Depth, Options, Positive, Side, Spec, known

# Scheme -> which of the keys mode, distribution and std it has a use for; the functions are in initlab.init.schemes.
SCHEMES: dict[str, set[str]] = {
    "gaussian": {"distribution", "std"},
    "xavier": {"mode", "distribution"},
    "he": {"mode", "distribution"},
    "lecun": {"distribution"},
    "truncated_normal": {"mode"},
    **{scheme: set() for scheme in ("orthogonal", "delta_orthogonal", "torch_default", "lsuv")},
    "solved": {"mode", "distribution"},
    "siren": set(),
}


class Data(Spec):
    """The data: a built-in set or a callable of yours that returns what docs/data.md says."""

    name: Annotated[str, known("data set", FACTS)] = Field("digits", description=f"{', '.join(FACTS)}{OR_CODE}")
    image_size: Annotated[int, Field(ge=4, le=1024)] | None = Field(
        None, description="resized once, pictures in folders by their shorter side; null = as delivered"
    )
    scale: Positive = Field(1.0, description="standard deviation of the inputs; the paper's pixels are about 64")
    train_examples: Count | None = Field(None, description="a fixed random subset; null = all")
    val_examples: Count | None = Field(None, description="a fixed random subset, the paper's 3000; null = all")
    flip: bool | None = Field(None, description="mirror half of the training images; null = as fits the set")
    shift: int = Field(0, ge=0, le=1024, description="training images move by up to this many pixels")
    sequence: Annotated[int, Field(ge=1, le=8192)] | None = Field(
        None, description="tokens in a row that are one example (topics); null = 64"
    )
    crop: Side | None = Field(None, description="side of the net's input, cut from pictures in folders; null = as fits")
    jitter: Annotated[tuple[Side, Side], Field(strict=False)] | None = Field(
        None, description="range of the shorter side in training, the paper's [256, 512]; null = val_side"
    )
    val_side: Side | None = Field(None, description="shorter side in validation; null = 8/7 of the crop: 256 for 224")
    color_std: Annotated[float, Field(ge=0, le=10)] = Field(
        0.0, description="of the colours' shift along their principal components, the paper's 0.1 (folders)"
    )
    classes: int = Field(10, ge=2, le=10**6, description="of synthetic and imagefolder alone")
    channels: int = Field(3, ge=1, le=16, description="synthetic alone")
    options: Options = Field({}, description="keyword arguments of your callable")


class DataSection(Data):
    """The data section of a study file: what is computed, and where the files come from."""

    folder: str | None = Field(None, description="where the files lie; else --data-dir or INITLAB_DATA")
    download: bool = Field(False, description="fetch absent files into the folder")
    cache: bool = Field(False, description="keep decoded pictures (as bytes, after image_size) in INITLAB_CACHE")


class Net(Spec):
    """The net; `depth` counts weight layers, so 30 of `plain` is 27 convolutions and 3 linear layers.

    Of a transformer it counts blocks, of an LSTM recurrent layers. A field that the net does not have is dropped when
    the trial is resolved; that of a net of the paper has that net's depth here.
    """

    name: Annotated[str, known("net", CATALOG)] = Field("plain", description=f"{', '.join(CATALOG)}{OR_CODE}")
    depth: Depth = Field(
        NetChoices.depth, description="weight layers, of plain 3 of them linear; blocks of transformer; layers of lstm"
    )
    width: int = Field(
        NetChoices.width,
        ge=1,
        le=8192,
        description="channels of the first stage, doubles per stage (plain); features of all layers",
    )
    widths: Annotated[tuple[Count, ...], Field(strict=False, min_length=1)] | None = Field(
        NetChoices.widths, description="channels of each stage, instead of width and stages"
    )
    stages: int = Field(NetChoices.stages, ge=1, le=8, description="the map halves between stages")
    downsample: Downsample = Field(NetChoices.downsample, description="how the map halves between stages")
    linear_width: Count = Field(NetChoices.linear_width, description="width of the first two linear layers")
    activation: ActivationName = Field(
        NetChoices.activation, description="prelu learns a slope per channel, prelu_shared one per layer"
    )
    negative_slope: Annotated[float, Field(ge=-1, le=1)] | None = Field(
        NetChoices.negative_slope,
        description="slope below zero, at the start for prelu; null = 0.01 for leaky_relu, 0.25 for prelu",
    )
    norm: Norm = Field(
        NetChoices.norm, description="batch: BatchNorm after every convolution; pre, post: LayerNorm (transformer)"
    )
    skip: Skip = Field(
        NetChoices.skip, description="identity: skips around pairs of convolutions of a stage, without parameters"
    )
    heads: Count = Field(NetChoices.heads, description="of attention; divides the width (transformer)")
    branch_factor: Positive = Field(
        NetChoices.branch_factor, description="on every residual branch, always: x + factor * branch(x) (transformer)"
    )
    options: Options = Field({}, description="keyword arguments of your callable")

    @property
    def label(self) -> str:
        """`plain-30`, `small-14`; the name alone of a net that has its own depth."""
        return net_label(self.name, self.depth)


class Init(Spec):
    """How weights are drawn; a key that the scheme doesn't use is dropped when the trial is resolved."""

    scheme: Annotated[str, known("scheme", SCHEMES)] = Field(
        "he",
        description=f"{', '.join(SCHEMES)}{OR_CODE}; see docs/schemes.md",
        json_schema_extra={"anyOf": [{"enum": [*SCHEMES]}, {"pattern": "^[^:]+:[^:]+$"}]},
    )
    mode: Mode = Field(LayerShape.mode, description="which signal keeps its variance (xavier, he, truncated_normal)")
    distribution: Distribution = Field(
        LayerShape.distribution, description="of the same variance (gaussian, xavier, he, lecun)"
    )
    std: Positive = Field(LayerShape.std, description="of every weight (gaussian)")
    linear_std: Positive | None = Field(None, description="of the linear layers but the last; null = the scheme's")
    last_std: Positive | None = Field(None, description="of the last linear layer; null = the scheme's")
    last_factor: Positive = Field(1.0, description="factor on the last linear layer's weights")
    embedding_std: Positive | None = Field(
        None, description="of embeddings, GPT-2's 0.02; null = as built, N(0, 1) (transformer, lstm)"
    )
    branches: Branches | None = Field(
        None, description="how residual branches are scaled at the start, GPT-2's scaled: by 1/sqrt(2L); null = not"
    )


def net_label(name: str, depth: int) -> str:
    """What to call a net beside its scheme and seed: of `plain` and others of any depth `plain-30`."""
    return f"{name}-{depth}" if "depth" in FIELDS.get(name, ()) else name
