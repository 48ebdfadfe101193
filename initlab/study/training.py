"""The sections that say how a net is trained, measured meanwhile and judged at the end."""

from typing import Annotated, Literal

from pydantic import Field

from initlab.nets.architecture import NetChoices
from initlab.study.field_types import OR_CODE, Count, Depth, Epochs, Fraction, Interval, Options, Positive, Spec, known

# What labels each takes is in docs/data.md.
LOSSES = ("cross_entropy", "mse", "bce")
# Optimiser -> which of the keys momentum, betas and eps it has a use for (initlab.train.optimizer).
OPTIMIZERS: dict[str, set[str]] = {
    "sgd": {"momentum"},
    "adamw": {"betas", "eps"},
    "adam": {"betas", "eps"},
    "lion": {"betas"},
    "muon": {"momentum", "betas", "eps"},
}


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
