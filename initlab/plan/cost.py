"""What a trial will cost: parameters, operations, steps, storage, and time at the pace of finished trials."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

from initlab.nets.counts import Counts, count
from initlab.plan.dimensions import describe, image_facts, planned_examples
from initlab.study.spec import Net, Train, TrialSpec
from initlab.user_code import is_code

SCALAR_ROW_BYTES = 260  # one line of scalars.jsonl, measured
SLOPE_ROW_BYTES = 175  # one line of slopes.jsonl, measured
RUNNING_ROW_BYTES = 245  # one line of running.jsonl, measured
SIGNAL_ROW_BYTES = 95  # one layer of one probe in Parquet, measured
FIXED_BYTES = 12_000  # the trial's JSON files, measured


@dataclass(frozen=True)
class Cost:
    """What a trial will take; None where the net or the data is the user's code and nothing is known of it."""

    parameters: int | None
    multiply_adds: int | None  # of one image, forward
    steps: int | None
    storage_bytes: int | None  # in all, the checkpoint included
    checkpoint_bytes: int | None
    seconds: float | None


@dataclass(frozen=True)
class Finished:
    """What a finished trial took, to expect the time of others from."""

    spec: TrialSpec
    steps: int
    wall_s: float


@dataclass(frozen=True)
class Pace:
    """Mean seconds of finished trials: per step of each (net, batch size, counts), and per multiply-add of all."""

    per_step: dict[tuple[str, int, Counts], float]
    per_multiply_add: float | None


def cost(spec: TrialSpec, finished: Sequence[Finished] = ()) -> Cost:
    """What a trial will take: the time from finished trials of the same net, else from their rate of multiply-adds."""
    return costs([spec], finished)[0]


def costs(specs: Iterable[TrialSpec], finished: Sequence[Finished] = ()) -> list[Cost]:
    """`cost` of each trial; the finished ones are gone through once."""
    pace = pace_of(finished)
    return [cost_at(spec, pace) for spec in specs]


def cost_at(spec: TrialSpec, pace: Pace) -> Cost:
    """What a trial will take at the pace of finished ones."""
    if is_code(spec.data.name):
        return Cost(None, None, None, None, None, None)
    examples, known = planned_examples(spec.data), counts(spec)
    steps_per_epoch, steps = spec.steps(examples) if examples else (None, None)
    if known is None:
        return Cost(None, None, steps, None, None, None)
    number = 8 if spec.train.precision == "float64" else 4
    checkpoint = 2 * number * known.parameters  # weights and momentum
    if steps_per_epoch is None or steps is None:
        return Cost(known.parameters, known.multiply_adds, None, None, checkpoint, None)
    rows, sampled = count_rows(spec.train, steps_per_epoch, steps), spec.probe.running_every
    storage = (
        FIXED_BYTES
        + rows * SCALAR_ROW_BYTES
        + (min(rows, steps // sampled) * known.weight_layers * RUNNING_ROW_BYTES if sampled else 0)
        + len(spec.probe_steps(steps)) * known.weight_layers * SIGNAL_ROW_BYTES
        + count_validations(spec.train, steps_per_epoch, steps) * known.slope_layers * SLOPE_ROW_BYTES
        + checkpoint
    )
    seconds = expected_seconds(spec, steps, known, pace)
    return Cost(known.parameters, known.multiply_adds, steps, storage, checkpoint, seconds)


def pace_of(finished: Iterable[Finished]) -> Pace:
    """The pace of finished trials; those whose net or data is the user's code tell nothing of others."""
    per_step: dict[tuple[str, int, Counts], list[float]] = {}
    rates = []
    for trial in finished:
        known, batch_size = counts(trial.spec), trial.spec.train.batch_size
        if known:
            seconds = trial.wall_s / trial.steps
            per_step.setdefault((trial.spec.net.model_dump_json(), batch_size, known), []).append(seconds)
            rates.append(seconds / (batch_size * known.multiply_adds))
    return Pace({key: fmean(values) for key, values in per_step.items()}, fmean(rates) if rates else None)


def expected_seconds(spec: TrialSpec, steps: int, known: Counts, pace: Pace) -> float | None:
    """Expected wall time, None where no trial has finished."""
    batch_size = spec.train.batch_size
    same = pace.per_step.get((spec.net.model_dump_json(), batch_size, known))
    if same is not None:
        return steps * same
    return None if pace.per_multiply_add is None else steps * batch_size * known.multiply_adds * pace.per_multiply_add


def counts(spec: TrialSpec) -> Counts | None:
    """Parameters and multiply-adds of a trial's net; None where the net or the data is the user's code."""
    if is_code(spec.net.name) or is_code(spec.data.name):
        return None
    return counts_of(spec.net.model_dump_json(), *image_facts(spec))


@lru_cache(maxsize=1024)
def counts_of(net: str, num_classes: int, input_shape: tuple[int, int, int]) -> Counts:
    """Counts of a catalog net, given as JSON; a sweep asks for the same few nets thousands of times."""
    return count(describe(TrialSpec(net=Net.model_validate_json(net)), num_classes, input_shape), input_shape)


@lru_cache(maxsize=1024)
def count_rows(train: Train, steps_per_epoch: int, steps: int) -> int:
    """Rows of scalars that a trial writes."""
    return len(TrialSpec(train=train).row_steps(steps_per_epoch, steps))


@lru_cache(maxsize=1024)
def count_validations(train: Train, steps_per_epoch: int, steps: int) -> int:
    """How often a trial validates, and writes what slopes it learned."""
    return len(TrialSpec(train=train).validation_steps(steps_per_epoch, steps))
