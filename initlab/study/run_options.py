"""The section that says how and where trials run, which changes nothing of what they compute."""

from typing import Literal

from pydantic import Field

from initlab.study.field_types import Count, NumberOrAuto, Positive, Spec

# Processes that may train one trial together.
MOST_DEVICES = 64
# Each is the name of a module in initlab/engine/.
Engine = Literal["inline", "ray"]


class Run(Spec):
    """How and where trials run; not part of their id."""

    engine: Engine = Field("inline", description="inline: this machine; ray: a cluster")
    device: Literal["cpu", "cuda"] | None = Field(None, description="null = cuda where there is one")
    jobs: Count | None = Field(None, description="trials at once; null = the cores on a CPU, 1 on a GPU")
    devices: int = Field(
        1,
        ge=1,
        le=MOST_DEVICES,
        description="processes that train one trial together, each on a GPU of its own or on the CPU",
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
