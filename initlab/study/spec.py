"""The spec of a trial: frozen sections, every default visible, cheap to build (no torch, no data).

What is computed is `TrialSpec`, and its id is made of it; how and where it runs is `Run`. Defaults are frozen for
`HASH_VERSION`: changing one needs a new version, adding a field does not.
"""

import hashlib
import json
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from initlab.data.facts import FACTS
from initlab.init.shapes import Branches, Distribution, LayerShape, Mode
from initlab.nets.architecture import ActivationName, Downsample, NetChoices, Norm, Skip
from initlab.nets.catalog import CATALOG, FIELDS
from initlab.study.field_types import (
    Count,
    Depth,
    Epochs,
    Fraction,
    Interval,
    NumberOrAuto,
    Options,
    Positive,
    Seed,
    Side,
    known,
)

HASH_VERSION = 1
OPTIONS = ("options", "optimizer_options")  # keys of what goes to the user's code
OR_CODE = ", or pkg.module:callable (needs --allow-code)"
# The data of a loop that `initlab.watch` watched: of it no more is known than the batch that is measured.
WATCHED = "watched:batch"

# What labels each takes is in docs/data.md.
LOSSES = ("cross_entropy", "mse", "bce")
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


# Optimiser -> which of the keys momentum, betas and eps it has a use for (initlab.train.optimizer).
OPTIMIZERS: dict[str, set[str]] = {
    "sgd": {"momentum"},
    "adamw": {"betas", "eps"},
    "adam": {"betas", "eps"},
    "lion": {"betas"},
    "muon": {"momentum", "betas", "eps"},
}


class Spec(BaseModel):
    """A frozen section that refuses unknown keys and values of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def __hash__(self) -> int:
        """Also with options in it, which are a mapping: a cache takes a section as its key."""
        return hash(tuple((self.__dict__ | dict.fromkeys(OPTIONS)).values()))


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


class Train(Spec):
    """How the net is trained; epochs and intervals in epochs may be fractions.

    A key that the optimiser doesn't use is dropped when the trial is resolved.
    """

    loss: Annotated[str, known("loss", LOSSES)] | None = Field(
        None, description=f"{', '.join(LOSSES)}{OR_CODE}; null = as fits the labels"
    )
    epochs: Epochs = Field(14.0, description="passes over the training set")
    batch_size: Count = Field(32, description="examples per step; the short last batch of an epoch is dropped")
    accumulate: Count = Field(1, description="equal parts of a batch whose gradients are summed one after another")
    optimizer: Annotated[str, known("optimiser", OPTIMIZERS)] = Field(
        "sgd",
        description=f"{', '.join(OPTIMIZERS)}{OR_CODE}; see docs/optimizers.md",
        json_schema_extra={"anyOf": [{"enum": [*OPTIMIZERS]}, {"pattern": "^[^:]+:[^:]+$"}]},
    )
    lr: Positive = Field(0.003, description="learning rate at the start")
    momentum: Fraction = Field(0.9, description="of sgd, and of muon's matrices")
    betas: Annotated[tuple[Fraction, Fraction], Field(strict=False)] | None = Field(
        None, description="of both moments (adamw, adam, lion, muon); null = 0.9 and 0.999, lion's 0.9 and 0.99"
    )
    eps: Positive = Field(1e-8, description="beside the root of the second moment (adamw, adam, muon)")
    optimizer_options: Options = Field({}, description="keyword arguments of your callable")
    weight_decay: float = Field(
        5.0e-4,
        ge=0,
        allow_inf_nan=False,
        description="not on PReLU slopes; of the gradient under sgd and adam, else lr times it of the weight itself",
    )
    decay_exempt: Literal["none", "norms_and_biases"] = Field(
        "none", description="norms_and_biases: no weight decay on parameters of one dimension"
    )
    clip_norm: Positive | None = Field(None, description="largest norm of the gradient of all parameters; null = any")
    slope_lr_factor: float = Field(
        1.0, ge=0, le=1e6, description="times lr for the slopes that prelu learns; 0 keeps them"
    )
    dropout: Fraction = Field(NetChoices.dropout, description="in the first two linear layers")
    schedule: Literal["constant", "step", "plateau", "cosine"] = Field("constant", description="of the learning rate")
    warmup_epochs: float = Field(
        0.0, ge=0, le=1e6, description="in which the learning rate rises linearly to the schedule's"
    )
    milestones: tuple[Epochs, ...] = Field(
        (), strict=False, description="epochs at which lr is multiplied by factor (step)"
    )
    factor: float = Field(0.1, gt=0, lt=1, description="of step and plateau")
    patience: Count = Field(5, description="validations without a better error before lr falls (plateau)")
    most_cuts: Count | None = Field(None, description="how often lr may fall, the paper's 2; null = any (plateau)")
    shallow_depth: Depth | None = Field(
        None, description="depth of a net trained first, whose first 4 convolutions and linear layers this one takes"
    )
    auxiliary: tuple[Count, ...] = Field(
        (), strict=False, description="convolutions, 1 the first, that get a linear classifier of their own in training"
    )
    auxiliary_weight: Positive = Field(0.3, description="of each of their losses, the net's own being worth 1")
    shallow_epochs: Epochs = Field(14.0, description="of that net")
    validate_every: Positive = Field(1.0, description="in epochs; also at step 0 and at the end")
    log_every: Count = Field(50, description="steps between rows of training loss and error")
    precision: Literal["auto", "float32", "float64", "bfloat16"] = Field(
        "auto", description="auto is float32; bfloat16 keeps float32 weights and probes, and is float32 on a CPU"
    )


class Probe(Spec):
    """Signal measurements, at step 0, every `every` updates and at the end; running ones are of updates themselves."""

    every: Interval = Field(200, description="updates between probes; 0 = off")
    running_every: Interval = Field(
        0, description="updates between those whose own tensors give running moments; 0 = off"
    )
    examples: Count = Field(32, description="the same training images for every seed and scheme")


class Verdict(Spec):
    """How trials are judged when they are read; not part of their id."""

    threshold: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="validation error that counts as converged; null = half of chance"
    )


# Each is the name of a module in initlab/engine/.
Engine = Literal["inline", "ray"]


class Run(Spec):
    """How and where trials run; not part of their id."""

    engine: Engine = Field("inline", description="inline: this machine; ray: a cluster")
    device: Literal["cpu", "cuda"] | None = Field(None, description="null = cuda where there is one")
    jobs: Count | None = Field(None, description="trials at once; null = the cores on a CPU, 1 on a GPU")
    devices: int = Field(
        1, ge=1, le=64, description="processes that train one trial together, each on a GPU of its own or on the CPU"
    )
    threads: Count = Field(1, description="CPU threads per process of a trial")
    workers: int = Field(
        0, ge=0, le=256, description="processes per trial that decode pictures in folders; 0 = the trial's own"
    )
    resident: bool | None = Field(
        None,
        description="pictures in folders that come to one size are decoded once and stay on the device where they "
        "fit; null = on a GPU",
    )
    pack: Count = Field(1, description="trials of one net and batch size that one process trains as one")
    compile: bool | None = Field(
        None, description="on a GPU, torch.compile long trials and replay packs from a CUDA graph; true = all trials"
    )
    channels_last: bool | None = Field(None, description="on a GPU, maps with their channels last; null = yes")
    isolate: Literal["trial", "none"] | None = Field(
        None, description="trial: a fresh process for every trial; none: one after another; null = trial for your code"
    )
    trial_timeout: Positive | None = Field(
        None,
        description="seconds without a step after which a trial is ended, 12 times as many before its first; "
        "null = 300, or 20 times its longest step",
    )
    max_failures: Count = Field(
        3, description="trials that fail alike in a row, none having succeeded, after which no more are begun"
    )
    max_hours: Positive | None = Field(None, description="after which all stops with a checkpoint; null = no limit")
    gpus_per_trial: NumberOrAuto = Field(
        1.0,
        description="on CUDA; a fraction shares a GPU (ray); auto: as many share one as it has memory for, which the "
        "first trial of each net shows",
    )
    checkpoint_every_s: Positive = Field(60.0, description="seconds between checkpoints")


class TrialSpec(Spec):
    """A fully resolved trial."""

    data: Data = Data()
    net: Net = Net()
    init: Init = Init()
    train: Train = Train()
    probe: Probe = Probe()
    seed: Seed = Field(0, description="of weights, data order, augmentation and dropout")

    @property
    def watched(self) -> bool:
        """Whether this is a loop that `initlab.watch` watched: what its tags do not say of it is not known."""
        return self.data.name == WATCHED

    @property
    def trial_id(self) -> str:
        """`t` and 12 hex digits of the hash over the fields that differ from their default, as canonical JSON."""
        sections = (self.data, self.net, self.init, self.train, self.probe)
        texts = zip(("data", "net", "init", "train", "probe"), map(canonical, sections), strict=True)
        fields = [f'"{name}":{text}' for name, text in texts if text != "{}"]
        seed = [f'"seed":{self.seed}'] if self.seed else []
        content = ",".join(sorted([f'"hash_version":{HASH_VERSION}', *fields, *seed]))
        return "t" + hashlib.sha256(f"{{{content}}}".encode()).hexdigest()[:12]

    def steps(self, train_examples: int) -> tuple[int, int]:
        """(steps per epoch, steps in all): the short last batch is dropped, epochs may be a fraction."""
        per_epoch = train_examples // self.train.batch_size
        return per_epoch, round(self.train.epochs * per_epoch)

    def validation_steps(self, per_epoch: int, steps: int) -> list[int]:
        """Steps after which the net is validated, 0 and the last among them."""
        # An interval below a step means every step.
        interval = max(1.0, self.train.validate_every * per_epoch)
        return sorted({0, steps, *(min(round(i * interval), steps) for i in range(1, int(steps / interval) + 1))})

    def row_steps(self, per_epoch: int, steps: int) -> list[int]:
        """Steps with a row of scalars: every validation, every `log_every` steps and every epoch's end."""
        logged = range(self.train.log_every, steps + 1, self.train.log_every)
        return sorted({*self.validation_steps(per_epoch, steps), *logged, *range(per_epoch, steps + 1, per_epoch)})

    def probe_steps(self, steps: int) -> list[int]:
        """Steps after which the signals are measured: 0, every `probe.every` and the last; none where it is 0."""
        return sorted({*range(0, steps + 1, self.probe.every), steps}) if self.probe.every else []

    def samples_update(self, step: int) -> bool:
        """Whether the update after `step` others gives running moments: every `probe.running_every`-th does."""
        return self.probe.running_every > 0 and (step + 1) % self.probe.running_every == 0


def canonical(section: Spec) -> str:
    """The fields of a section that differ from their default, as JSON with sorted keys."""
    # 1 and 1.0 are equal, but in the options of a user's code not the same; a typed field takes but one of them.
    return canonical_uncached(section) if any(map(section.__dict__.get, OPTIONS)) else canonical_cached(section)


def canonical_uncached(section: Spec) -> str:
    """`canonical`, computed."""
    return json.dumps(section.model_dump(mode="json", exclude_defaults=True), sort_keys=True, separators=(",", ":"))


# A sweep has few sections, in many combinations.
canonical_cached = lru_cache(maxsize=100_000)(canonical_uncached)


def net_label(name: str, depth: int) -> str:
    """What to call a net beside its scheme and seed: of `plain` and others of any depth `plain-30`."""
    return f"{name}-{depth}" if "depth" in FIELDS.get(name, ()) else name
