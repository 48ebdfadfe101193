"""The plan: the trials of a study with their ids, what each costs, and mistakes that only show between fields."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from initlab.data.facts import FACTS
from initlab.nets.architecture import Layer, plain, plain_problem
from initlab.nets.counts import Counts, count
from initlab.spec import TrialSpec, drop_unused, is_code
from initlab.study import Study
from initlab.study_file import StudyError, suggestion

SCALAR_ROW_BYTES = 260  # one line of scalars.jsonl, measured
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
    storage_bytes: int | None
    seconds: float | None


@dataclass(frozen=True)
class Finished:
    """What a finished trial took, to expect the time of others from."""

    spec: TrialSpec
    steps: int
    wall_s: float


def plan(study: Study, where: str | None = None) -> list[PlannedTrial]:
    """The trials of a study, cases outermost, the last path of the grid changing fastest.

    Points that differ only in fields that their scheme, net or schedule does not use are one trial.

    Raises:
        StudyError: fields that do not fit together, or a point given twice; lines begin with `where` (the file).
    """
    prefix = f"{where}: " if where else ""
    trials: dict[str, PlannedTrial] = {}
    seen: set[str] = set()
    mistakes = []
    for point in study.points():
        asked = study.trial(point)
        label = ", ".join(f"{path}={value}" for path, value in point.items()) or "the study itself"
        key = asked.model_dump_json()
        if key in seen:
            mistakes.append(f"{prefix}grid: duplicate trial (got {label} twice); keep one")
            continue
        seen.add(key)
        spec, dropped = drop_unused(asked)
        mistakes += [f"{prefix}{path}: {text}" for path, text in conflicts(spec)]
        trial = PlannedTrial(spec.trial_id, spec, frozenset(dropped))
        trials.setdefault(trial.id, trial)
    if mistakes:
        raise StudyError(mistakes)
    return list(trials.values())


def conflicts(spec: TrialSpec) -> Iterable[tuple[str, str]]:
    """(path, explanation) of fields that are each allowed but do not fit together."""
    data, train, net = spec.data, spec.train, spec.net
    if not is_code(data.name):
        if data.name not in FACTS:
            hint = suggestion(data.name, FACTS)
            yield "data.name", f"unknown data set (got {data.name!r}); allowed: {', '.join(FACTS)}, pkg.module:callable{hint}"
            return
        facts = FACTS[data.name]
        for key, most in (("train_examples", facts.train), ("val_examples", facts.val)):
            if (getattr(data, key) or 0) > most:
                yield f"data.{key}", f"more than {data.name} has (got {getattr(data, key)}); allowed: at most {most}"
        examples = min(data.train_examples or facts.train, facts.train)
        if train.batch_size > examples:
            yield "train.batch_size", f"larger than the training set (got {train.batch_size}); allowed: at most {examples}"
        elif spec.steps(examples)[1] < 1:
            least = 1 / spec.steps(examples)[0]
            yield "train.epochs", f"less than one step (got {train.epochs:g}); allowed: at least {least:.3g}"
        if spec.probe.every and spec.probe.examples > examples:
            yield "probe.examples", f"more than the training set has (got {spec.probe.examples}); allowed: at most {examples}"
        size = data.image_size or facts.size
        if data.shift >= size:
            yield "data.shift", f"moves images out of sight (got {data.shift}); allowed: below their {size} pixels"
        if net.name == "plain":
            problem = plain_problem(net.depth, len(net.widths or ()) or net.stages, size)
            if problem:
                yield "net.depth" if problem.startswith("depth") else "net.stages", problem
    if net.name != "plain" and not is_code(net.name):
        yield "net.name", f"unknown net (got {net.name!r}); allowed: plain, pkg.module:callable{suggestion(net.name, ['plain'])}"
    if train.schedule == "step" and not train.milestones:
        yield "train.milestones", "empty (got nothing); the step schedule needs the epochs at which lr falls"


def describe(spec: TrialSpec, num_classes: int, input_shape: tuple[int, int, int]) -> list[Layer]:
    """The layers of a catalog net as the trial asks for it, for images of `input_shape` (channels, height, width)."""
    net = spec.net
    return plain(
        net.depth, net.width, num_classes, input_shape, widths=net.widths, stages=net.stages,
        linear_width=net.linear_width, activation=net.activation, negative_slope=net.negative_slope,
        dropout=spec.train.dropout,
    )  # fmt: skip


def counts(spec: TrialSpec) -> Counts | None:
    """Parameters and multiply-adds of a trial's net; None where the net or the data is the user's code."""
    if is_code(spec.net.name) or is_code(spec.data.name):
        return None
    facts, synthetic = FACTS[spec.data.name], spec.data.name == "synthetic"
    size = spec.data.image_size or facts.size
    shape = (spec.data.channels if synthetic else facts.channels, size, size)
    return count(describe(spec, spec.data.classes if synthetic else facts.num_classes, shape), shape)


def cost(spec: TrialSpec, finished: Sequence[Finished] = ()) -> Cost:
    """What a trial will take: the time from finished trials of the same net, else from their rate of multiply-adds."""
    known = counts(spec)
    if is_code(spec.data.name):
        return Cost(None, None, None, None, None)
    examples = spec.data.train_examples or FACTS[spec.data.name].train
    steps_per_epoch, steps = spec.steps(examples)
    if known is None:
        return Cost(None, None, steps, None, None)
    rows = len(spec.row_steps(steps_per_epoch, steps))
    probes = len(spec.probe_steps(steps))
    # float32 weights and momentum
    storage = FIXED_BYTES + rows * SCALAR_ROW_BYTES + probes * known.weight_layers * SIGNAL_ROW_BYTES + 8 * known.parameters
    return Cost(known.parameters, known.multiply_adds, steps, storage, expected_seconds(spec, steps, known, finished))


def expected_seconds(spec: TrialSpec, steps: int, known: Counts, finished: Sequence[Finished]) -> float | None:
    """Expected wall time from what finished trials took, None where there is none."""
    same, rates = [], []
    for other in finished:
        other_counts = counts(other.spec)
        if other_counts is None:
            continue
        per_step = other.wall_s / other.steps
        if (other.spec.net, other.spec.train.batch_size, other_counts) == (spec.net, spec.train.batch_size, known):
            same.append(per_step)
        rates.append(per_step / (other.spec.train.batch_size * other_counts.multiply_adds))
    if same:
        return steps * sum(same) / len(same)
    if rates:
        return steps * spec.train.batch_size * known.multiply_adds * sum(rates) / len(rates)
    return None
