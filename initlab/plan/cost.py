"""What a trial will cost: parameters, operations, steps, storage, and time at the pace of finished trials."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

from initlab.nets.architecture import InputShape
from initlab.nets.counts import Counts, count
from initlab.plan.dimensions import describe, image_facts, planned_examples
from initlab.study.sections import Net
from initlab.study.spec import TrialSpec
from initlab.study.training import Probe, Train
from initlab.user_code import is_code

# Measured bytes of a line or row of each file, and of a trial's JSON files.
SCALAR_ROW_BYTES = 260  # scalars.jsonl
SLOPE_ROW_BYTES = 175  # slopes.jsonl
RUNNING_ROW_BYTES = 245  # running.jsonl
SIGNAL_ROW_BYTES = 95  # one layer of one probe in Parquet
FIXED_BYTES = 12_000


@dataclass(frozen=True)
class Cost:
    """What a trial will take; None where the net or the data is the user's code and nothing is known of it."""

    parameters: int | None = None
    multiply_adds: int | None = None  # of one example, forward
    steps: int | None = None
    storage_bytes: int | None = None  # in all, the checkpoint included
    checkpoint_bytes: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Pace:
    """Mean seconds of finished trials: per step of each (net, batch size, counts), and per multiply-add of all."""

    per_step: dict[tuple[Net, int, Counts], float]
    per_multiply_add: float | None

    @classmethod
    def of(cls, finished: Iterable[tuple[TrialSpec, float]]) -> "Pace":
        """The pace by finished trials and their seconds per step; those of the user's code tell nothing of others."""
        per_step: dict[tuple[Net, int, Counts], list[float]] = {}
        rates = []
        for spec, seconds in finished:
            if net := counts(spec):
                per_step.setdefault((spec.net, spec.train.batch_size, net), []).append(seconds)
                rates.append(seconds / (spec.train.batch_size * net.multiply_adds))
        return cls({key: fmean(values) for key, values in per_step.items()}, fmean(rates) if rates else None)

    def seconds(self, spec: TrialSpec, steps: int, net: Counts) -> float | None:
        """Expected wall time: by trials of the same net, else by multiply-adds; None where no trial has finished."""
        batch_size = spec.train.batch_size
        per_step = self.per_step.get((spec.net, batch_size, net))
        if per_step is None and self.per_multiply_add is not None:
            per_step = batch_size * net.multiply_adds * self.per_multiply_add
        return None if per_step is None else steps * per_step


def cost(spec: TrialSpec, pace: Pace | None = None) -> Cost:
    """What a trial will take, its time at the pace of finished ones."""
    if is_code(spec.data.name):
        return Cost()
    examples, net = planned_examples(spec.data), counts(spec)
    steps_per_epoch, steps = spec.steps(examples or 0)
    if net is None:
        return Cost(steps=steps if examples else None)
    # Weights and their moments, of which Adam keeps two.
    numbers = 3 if spec.train.optimizer in ("adam", "adamw") else 2
    checkpoint = numbers * net.parameters * (8 if spec.train.precision == "float64" else 4)
    if not examples:
        return Cost(net.parameters, net.multiply_adds, checkpoint_bytes=checkpoint)
    rows, validations = count_rows(spec.train.validate_every, spec.train.log_every, steps_per_epoch, steps)
    storage = FIXED_BYTES + checkpoint + rows * SCALAR_ROW_BYTES
    storage += count_probes(spec.probe.every, steps) * net.weight_layers * SIGNAL_ROW_BYTES
    storage += validations * net.slope_layers * SLOPE_ROW_BYTES
    if every := spec.probe.running_every:
        storage += min(rows, steps // every) * net.weight_layers * RUNNING_ROW_BYTES
    seconds = pace.seconds(spec, steps, net) if pace else None
    return Cost(net.parameters, net.multiply_adds, steps, storage, checkpoint, seconds)


def counts(spec: TrialSpec) -> Counts | None:
    """Parameters and multiply-adds of a trial's net; None where the net or the data is the user's code."""
    if is_code(spec.net.name) or is_code(spec.data.name):
        return None
    return counts_of(spec.net, *image_facts(spec))


@lru_cache(maxsize=1024)
def counts_of(net: Net, num_classes: int, input_shape: InputShape) -> Counts:
    """Counts of a catalog net; a sweep asks for the same few nets thousands of times."""
    return count(describe(TrialSpec(net=net), num_classes, input_shape), input_shape)


@lru_cache(maxsize=1024)
def count_rows(validate_every: float, log_every: int, steps_per_epoch: int, steps: int) -> tuple[int, int]:
    """(rows of scalars that a trial writes, validations among them, each of which writes the slopes)."""
    spec = TrialSpec(train=Train(validate_every=validate_every, log_every=log_every))
    return len(spec.row_steps(steps_per_epoch, steps)), len(spec.validation_steps(steps_per_epoch, steps))


@lru_cache(maxsize=1024)
def count_probes(every: int, steps: int) -> int:
    """How often the signals are measured in so many steps."""
    return len(TrialSpec(probe=Probe(every=every)).probe_steps(steps))
