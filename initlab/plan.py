"""The plan: the trials of a study with their ids, what each costs, and mistakes that only show between fields."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

from initlab.data.facts import FACTS
from initlab.nets.architecture import LINEAR_LAYERS, Layer, plain_problem
from initlab.nets.catalog import describe_net, size_problem
from initlab.nets.counts import Counts, count
from initlab.nets.variants import skip_problem
from initlab.shallow import shallow_of
from initlab.spec import Data, Net, Train, TrialSpec, is_code
from initlab.study import Study, varied_mistakes
from initlab.study_file import Mistake, StudyError
from initlab.unused import drop_unused, probes

MOST_TRIALS = 1_000_000
MOST_STEPS = 100_000_000  # of a trial; its rows and probes are laid out in memory
SCALAR_ROW_BYTES = 260  # one line of scalars.jsonl, measured
SLOPE_ROW_BYTES = 175  # one line of slopes.jsonl, measured
RUNNING_ROW_BYTES = 245  # one line of running.jsonl, measured
SIGNAL_ROW_BYTES = 95  # one layer of one probe in Parquet, measured
FIXED_BYTES = 12_000  # the trial's JSON files, measured


@dataclass(frozen=True)
class PlannedTrial:
    """A trial to run: its id, its resolved spec, and the paths that were set but do not matter to it."""

    id: str
    spec: TrialSpec
    dropped: frozenset[str]


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


def plan(study: Study, where: str | None = None) -> list[PlannedTrial]:
    """The trials of a study, cases outermost, the last path of the grid changing fastest.

    Points that differ only in fields that their scheme, net or schedule does not use are one trial; a shallow net that
    trials start from is a trial too, before the first of them.

    Raises:
        StudyError: fields that do not fit together, or a trial given twice; lines begin with `where` (the file).
    """
    per_case = math.prod(len(values) for values in study.grid.values())
    mistakes = dict.fromkeys([*varied_mistakes(study.grid, study.cases), *too_many(study, per_case)])
    if not mistakes:
        mistakes |= dict.fromkeys(duplicate_cases(study))
    trials: dict[str, PlannedTrial] = {}
    for number, point in enumerate([] if mistakes else study.points()):
        spec, dropped = drop_unused(study.trial(point))
        for path, text in conflicts(spec):
            mistakes[place(study, number // per_case, path), text] = None
        if shallow := shallow_of(spec):
            trials.setdefault(shallow.trial_id, PlannedTrial(shallow.trial_id, shallow, frozenset()))
        trial_id = spec.trial_id
        if trial_id in trials:
            dropped |= trials[trial_id].dropped
        trials[trial_id] = PlannedTrial(trial_id, spec, frozenset(dropped))
    if mistakes:
        raise StudyError(f"{where}: {path}: {text}" if where else f"{path}: {text}" for path, text in mistakes)
    return list(trials.values())


def too_many(study: Study, per_case: int) -> Iterable[Mistake]:
    """A grid that multiplies beyond what can be planned."""
    size = per_case * max(1, len(study.cases))
    if size > MOST_TRIALS:
        yield "grid", f"too many trials (got {size:,}); allowed: at most {MOST_TRIALS:,}"


def duplicate_cases(study: Study) -> Iterable[Mistake]:
    """Cases that give the same trials as an earlier one; doubles within the grid are found where its values are."""
    first: dict[str, int] = {}
    for index, case in enumerate(study.cases):
        content = json.dumps(study.trial(case).model_dump(), sort_keys=True)
        earlier = first.setdefault(content, index)
        if earlier != index:
            yield f"cases[{index}]", f"duplicate trial (got the same as cases[{earlier}]); keep one"


def place(study: Study, case: int, path: str) -> str:
    """Where the user gave a field the value that it has in a case: `grid.PATH`, `cases[0].PATH` or `PATH`."""
    if path in study.grid:
        return f"grid.{path}"
    return f"cases[{case}].{path}" if study.cases and path in study.cases[case] else path


def conflicts(spec: TrialSpec) -> Iterable[Mistake]:
    """Fields that are each allowed but do not fit together."""
    data, train, net = spec.data, spec.train, spec.net
    if train.schedule == "step" and not train.milestones:
        yield "train.milestones", "empty (got nothing); allowed: the epochs at which lr falls under the step schedule"
    if is_code(data.name):  # how many images there are, and of what size, is not known yet
        return
    facts = FACTS[data.name]
    for key, most in (("train_examples", facts.train), ("val_examples", facts.val)):
        if most and (getattr(data, key) or 0) > most:
            yield f"data.{key}", f"more than {data.name} has (got {getattr(data, key)}); allowed: at most {most}"
    examples = planned_examples(data)
    if examples is not None and train.batch_size > examples:
        yield "train.batch_size", f"larger than the training set (got {train.batch_size}); allowed: at most {examples}"
    elif examples is not None:
        yield from step_conflicts(spec, examples)
    if examples is not None and probes(spec) and spec.probe.examples > examples:
        got = spec.probe.examples
        yield "probe.examples", f"more than the training set has (got {got}); allowed: at most {examples}"
    size = input_side(data)
    if facts.pictures:
        yield from view_conflicts(data, size)
    elif data.shift >= size:
        yield "data.shift", f"moves images out of sight (got {data.shift}); allowed: below their {size} pixels"
    if net.name == "plain" and max(train.auxiliary, default=0) > net.depth - LINEAR_LAYERS:
        got, most = max(train.auxiliary), net.depth - LINEAR_LAYERS
        yield "train.auxiliary", f"no such convolution (got {got}); allowed: 1 to {most} of this net"
    yield from shallow_conflicts(spec, size)
    yield from layout_conflicts(net, size, "crop" if facts.pictures else "image_size")


def layout_conflicts(net: Net, size: int, key: str) -> Iterable[Mistake]:
    """A net of the catalog that images of `size` pixels a side, by this key of data, do not go through."""
    if is_code(net.name):
        return
    problem = too_small = None
    if net.name == "plain":
        problem = plain_problem(net.depth, len(net.widths or ()) or net.stages, size)
    else:
        too_small = size_problem(net.name, size, size)
    if problem:
        path, text = problem
        yield "net.widths" if path == "stages" and net.widths else f"net.{path}", text
    elif too_small:
        yield f"data.{key}", too_small
    elif net.skip != "none":
        without = net.model_copy(update={"skip": "none"})
        nowhere = skip_problem(describe(TrialSpec(net=without), num_classes=1, input_shape=(1, size, size)))
        if nowhere:
            yield "net.skip", nowhere


def view_conflicts(data: Data, crop: int) -> Iterable[Mistake]:
    """Views of pictures that a square of `crop` pixels cannot be cut from."""
    if data.jitter and data.jitter[0] > data.jitter[1]:
        yield "data.jitter", f"the wrong way round (got {list(data.jitter)}); allowed: [shortest, longest]"
    for key, side in (("jitter", data.jitter and data.jitter[0]), ("val_side", data.val_side)):
        if side is not None and side < crop:
            yield f"data.{key}", f"smaller than the crop (got {side}); allowed: at least {crop} pixels"


def shallow_conflicts(spec: TrialSpec, size: int) -> Iterable[Mistake]:
    """A shallow net that is not one, or cannot be laid out."""
    net, shallow = spec.net, spec.train.shallow_depth
    if shallow is None or is_code(net.name):
        return
    if net.name != "plain":
        yield "train.shallow_depth", f"needs a net of any depth (got {net.name}); allowed: plain"
    elif shallow >= net.depth:
        yield "train.shallow_depth", f"not below the net's own (got {shallow}); allowed: less than {net.depth}"
    elif problem := plain_problem(shallow, len(net.widths or ()) or net.stages, size):
        yield "train.shallow_depth", problem[1]


def input_side(data: Data) -> int:
    """The side in pixels of the net's input, for a built-in data set."""
    facts = FACTS[data.name]
    return (data.crop if facts.pictures else data.image_size) or facts.size


def planned_examples(data: Data) -> int | None:
    """Training images of a built-in data set; None where only the folder can tell."""
    known = FACTS[data.name].train
    return min(data.train_examples or known, known) if known else data.train_examples


def step_conflicts(spec: TrialSpec, examples: int) -> Iterable[Mistake]:
    """Training that has no step, or too many to count and record."""
    per_epoch, steps = spec.steps(examples)
    if steps < 1:
        yield "train.epochs", f"less than one step (got {spec.train.epochs:g}); allowed: at least {1 / per_epoch:.3g}"
    if steps > MOST_STEPS:
        most = MOST_STEPS // per_epoch
        yield "train.epochs", f"more than {MOST_STEPS:,} steps (got {spec.train.epochs:g}); allowed: at most {most}"


def describe(spec: TrialSpec, num_classes: int, input_shape: tuple[int, int, int]) -> list[Layer]:
    """The layers of a catalog net as the trial asks for it, for images of `input_shape` (channels, height, width)."""
    net = spec.net
    return describe_net(
        net.name, num_classes, input_shape, depth=net.depth, width=net.width, widths=net.widths, stages=net.stages,
        linear_width=net.linear_width, downsample=net.downsample, activation=net.activation,
        negative_slope=net.negative_slope, dropout=spec.train.dropout, norm=net.norm, skip=net.skip,
    )  # fmt: skip


def counts(spec: TrialSpec) -> Counts | None:
    """Parameters and multiply-adds of a trial's net; None where the net or the data is the user's code."""
    if is_code(spec.net.name) or is_code(spec.data.name):
        return None
    return counts_of(spec.net.model_dump_json(), *image_facts(spec))


def image_facts(spec: TrialSpec) -> tuple[int, tuple[int, int, int]]:
    """(classes, (channels, height, width)) of the net's inputs, for a built-in data set."""
    facts, synthetic, size = FACTS[spec.data.name], spec.data.name == "synthetic", input_side(spec.data)
    channels = spec.data.channels if synthetic else facts.channels
    classes = spec.data.classes if synthetic else facts.num_classes or spec.data.classes
    return classes, (channels, size, size)


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


def costliest_first(trials: Iterable[PlannedTrial]) -> list[PlannedTrial]:
    """Trials by falling steps x batch x multiply-adds, those of unknown cost last."""

    def size(trial: PlannedTrial) -> int:
        known = cost(trial.spec)
        return -(known.steps or 0) * trial.spec.train.batch_size * (known.multiply_adds or 0)

    return sorted(trials, key=size)
