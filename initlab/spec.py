"""The spec of a trial: frozen sections, every default visible, cheap to build (no torch, no data).

What is computed is `TrialSpec`, and its id is made of it; how and where it runs is `Run`. Defaults are frozen for
`HASH_VERSION`: changing one needs a new version, adding a field does not.
"""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from initlab.data.facts import FACTS

HASH_VERSION = 1

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
CODE = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"  # pkg.module:callable


class Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Data(Spec):
    """The images: a built-in set or a callable of yours that returns an `initlab.data.sources.Raw`."""

    name: str = Field("digits", description=f"{', '.join(FACTS)}, or pkg.module:callable (needs --allow-code)")
    image_size: Annotated[int, Field(ge=4, le=1024)] | None = Field(None, description="resized once; null = as delivered")
    scale: Positive = Field(1.0, description="standard deviation of the inputs; the paper's pixels are about 64")
    train_examples: Count | None = Field(None, description="a fixed random subset; null = all")
    val_examples: Count | None = Field(None, description="a fixed random subset, the paper's 3000; null = all")
    flip: bool | None = Field(None, description="mirror half of the training images; null = as fits the set")
    shift: Annotated[int, Field(ge=0)] = Field(0, description="training images move by up to this many pixels")
    classes: Annotated[int, Field(ge=2)] = Field(10, description="synthetic alone")
    channels: Annotated[int, Field(ge=1, le=16)] = Field(3, description="synthetic alone")
    options: dict[str, Any] = Field({}, description="keyword arguments of your callable")


class DataSection(Data):
    """The data section of a study file: what is computed, and where the files come from."""

    folder: str | None = Field(None, description="where the files lie; else --data-dir or INITLAB_DATA")
    download: bool = Field(False, description="fetch absent files into the folder")


class Net(Spec):
    """The net; `depth` counts weight layers, so 30 is 27 convolutions and 3 linear layers."""

    name: str = Field("plain", description="plain, or pkg.module:callable (needs --allow-code)")
    depth: Annotated[int, Field(ge=4, le=1000)] = 30
    width: Annotated[int, Field(ge=1, le=8192)] = Field(16, description="channels of the first stage; doubles per stage")
    widths: Annotated[tuple[Count, ...], Field(strict=False, min_length=1)] | None = Field(
        None, description="channels of each stage, instead of width and stages"
    )
    stages: Annotated[int, Field(ge=1, le=8)] = Field(3, description="the map halves between stages")
    linear_width: Count = Field(64, description="width of the first two linear layers")
    activation: Literal["relu", "leaky_relu", "prelu", "prelu_shared"] = "relu"
    negative_slope: Annotated[float, Field(ge=-1, le=1)] | None = Field(
        None, description="slope below zero, at the start for prelu; null = 0.01 for leaky_relu, 0.25 for prelu"
    )
    options: dict[str, Any] = Field({}, description="keyword arguments of your callable")


class Init(Spec):
    """How weights are drawn; a key that the scheme doesn't use is dropped when the trial is resolved."""

    scheme: Literal["gaussian", "xavier", "he"] = "he"
    mode: Literal["fan_in", "fan_out"] = Field("fan_in", description="which signal keeps its variance (xavier, he)")
    distribution: Literal["normal", "uniform"] = "normal"
    std: Positive = Field(0.01, description="of every weight (gaussian)")
    linear_std: Positive | None = Field(None, description="of the linear layers but the last; null = the scheme's")
    last_std: Positive | None = Field(None, description="of the last linear layer; null = the scheme's")
    last_factor: Positive = Field(1.0, description="factor on the last linear layer's std")


class Train(Spec):
    """Stochastic gradient descent with momentum; epochs and intervals in epochs may be fractions."""

    epochs: Positive = 14.0
    batch_size: Count = 32
    lr: Positive = 0.003
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegative = 5.0e-4
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="in the first two linear layers")
    schedule: Literal["constant", "step", "plateau", "cosine"] = "constant"
    milestones: Annotated[tuple[Positive, ...], Field(strict=False)] = Field(
        (), description="epochs at which lr is multiplied by factor (step)"
    )
    factor: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="of step and plateau")
    patience: Count = Field(5, description="validations without a better error before lr falls (plateau)")
    validate_every: Positive = Field(1.0, description="in epochs; also at step 0 and at the end")
    log_every: Count = Field(50, description="steps between rows of training loss and error")
    precision: Literal["auto", "float32", "float64"] = Field("auto", description="auto is float32")


class Probe(Spec):
    """Signal measurements, at step 0, every `every` updates and at the end."""

    every: Annotated[int, Field(ge=0)] = Field(200, description="updates between probes; 0 = off")
    examples: Count = Field(32, description="the same training images for every seed and scheme")


class Verdict(Spec):
    """How trials are judged when they are read; not part of their id."""

    threshold: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="validation error that counts as converged; null = half of chance"
    )


class Run(Spec):
    """How and where trials run; not part of their id."""

    engine: Literal["inline", "ray"] = "inline"
    device: Literal["cpu", "cuda"] | None = Field(None, description="null = cuda where there is one")
    jobs: Count | None = Field(None, description="trials at once; null = the cores on a CPU, 1 on a GPU")
    threads: Count = Field(1, description="CPU threads per trial")
    gpus_per_trial: Positive = Field(1.0, description="a fraction shares a GPU (ray, cuda)")
    checkpoint_every_s: Positive = Field(60.0, description="seconds between checkpoints")


class TrialSpec(Spec):
    """A fully resolved trial."""

    data: Data = Data()
    net: Net = Net()
    init: Init = Init()
    train: Train = Train()
    probe: Probe = Probe()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @property
    def trial_id(self) -> str:
        """`t` and 12 hex digits over the fields that differ from their default."""
        content = {"hash_version": HASH_VERSION, **self.model_dump(mode="json", exclude_defaults=True)}
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return "t" + hashlib.sha256(canonical.encode()).hexdigest()[:12]


    def steps(self, train_examples: int) -> tuple[int, int]:
        """(steps per epoch, steps in all): the short last batch is dropped, epochs may be a fraction."""
        per_epoch = train_examples // self.train.batch_size
        return per_epoch, round(self.train.epochs * per_epoch)

    def validation_steps(self, per_epoch: int, steps: int) -> list[int]:
        """Steps after which the net is validated, 0 and the last among them."""
        interval = self.train.validate_every * per_epoch
        inner = (round(i * interval) for i in range(1, int(steps / interval) + 1))
        return sorted({0, steps, *(step for step in inner if 0 < step < steps)})

    def row_steps(self, per_epoch: int, steps: int) -> list[int]:
        """Steps with a row of scalars: every validation, every `log_every` steps and every epoch's end."""
        logged = range(self.train.log_every, steps + 1, self.train.log_every)
        return sorted({*self.validation_steps(per_epoch, steps), *logged, *range(per_epoch, steps + 1, per_epoch)})

    def probe_steps(self, steps: int) -> list[int]:
        """Steps after which the signals are measured: 0, every `probe.every` and the last; none where it is 0."""
        return sorted({*range(0, steps + 1, self.probe.every), steps}) if self.probe.every else []


def is_code(name: str) -> bool:
    """Whether a name is `pkg.module:callable` rather than a built-in one."""
    return ":" in name


def unused_paths(trial: TrialSpec) -> set[str]:
    """Dotted paths that this trial's choices make meaningless."""
    unused = set()
    if is_code(trial.net.name):
        unused |= {f"net.{key}" for key in ("depth", "width", "widths", "stages", "linear_width", "activation")}
        unused |= {"net.negative_slope", "train.dropout"}
    else:
        unused |= {"net.options"}
        unused |= {"net.width", "net.stages"} if trial.net.widths else set()
        unused |= {"net.negative_slope"} if trial.net.activation == "relu" else set()
    unused |= {"init.mode"} if trial.init.scheme == "gaussian" else {"init.std"}
    unused |= {
        "constant": {"train.milestones", "train.factor", "train.patience"},
        "cosine": {"train.milestones", "train.factor", "train.patience"},
        "step": {"train.patience"},
        "plateau": {"train.milestones"},
    }[trial.train.schedule]
    unused |= {"probe.examples"} if trial.probe.every == 0 else set()
    unused |= {"data.classes", "data.channels"} if trial.data.name != "synthetic" else set()
    unused |= {"data.image_size"} if is_code(trial.data.name) else {"data.options"}
    return unused


def drop_unused(trial: TrialSpec) -> tuple[TrialSpec, set[str]]:
    """The trial with its unused fields at their defaults, and which of them had been set to something else."""
    dropped = {path for path in unused_paths(trial) if getattr_path(trial, path) != getattr_path(TrialSpec(), path)}
    sections: dict[str, dict[str, Any]] = {}
    for path in dropped:
        section, key = path.split(".")
        sections.setdefault(section, {})[key] = getattr_path(TrialSpec(), path)
    changed = {name: getattr(trial, name).model_copy(update=update) for name, update in sections.items()}
    return trial.model_copy(update=changed), dropped


def getattr_path(spec: BaseModel, path: str) -> Any:
    """`getattr_path(trial, "init.scheme")`."""
    value: Any = spec
    for key in path.split("."):
        value = getattr(value, key)
    return value
