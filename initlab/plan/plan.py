"""The plan: the trials of a study with their ids, in the order of its grid."""

import gc
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from initlab.plan.conflicts import conflicts
from initlab.plan.cost import cost
from initlab.study.field_types import Spec
from initlab.study.mistakes import Mistake, StudyError
from initlab.study.paths import with_fields
from initlab.study.shard import Shard
from initlab.study.spec import TrialSpec
from initlab.study.study import Study, varied_mistakes
from initlab.study.unused_fields import drop_unused

MOST_TRIALS = 1_000_000


@dataclass(frozen=True)
class PlannedTrial:
    """A trial to run: its id, its resolved spec, and the paths of fields that were set but have no use in it."""

    id: str
    spec: TrialSpec
    dropped: frozenset[str]


def plan(study: Study, where: str | None = None) -> list[PlannedTrial]:
    """The trials of a study, cases outermost, the last path of the grid changing fastest.

    Points that differ only in fields that their scheme, net, optimiser or schedule does not use are one trial. A
    shallow net that trials start from is a trial too, before the first of them.

    Raises:
        StudyError: fields that do not fit together, or a trial given twice; lines begin with `where` (the file).
    """
    per_case = math.prod(len(values) for values in study.grid.values())
    mistakes = dict.fromkeys(varied_mistakes(study.grid, study.cases))
    if (points := per_case * max(1, len(study.cases))) > MOST_TRIALS:
        mistakes["grid", f"too many trials (got {points:,}); allowed: at most {MOST_TRIALS:,}"] = None
    if not mistakes:
        mistakes |= dict.fromkeys(duplicate_cases(study))
    trials: dict[str, PlannedTrial] = {}
    sections: dict[str, Spec] = {}
    with uncollected():
        for number, point in enumerate([] if mistakes else study.points()):
            spec, dropped = drop_unused(study.trial(point, sections))
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


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection for the block: with 100,000 trials it takes a third of the time, and finds nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def shallow_of(spec: TrialSpec) -> TrialSpec | None:
    """The trial whose net this one starts from, alike but for depth, epochs and heads; None where it starts anew.

    Simonyan and Zisserman (2014, sec. 3.1) trained their net of 8 convolutions from random weights and initialised the
    first four convolutions and the three linear layers of deeper nets from it, the layers between at random. Here the
    shallow net is a trial like any other, with an id of its own, so that all deeper ones of a study share it.
    """
    depth, epochs = spec.train.shallow_depth, spec.train.shallow_epochs
    if depth is None:
        return None
    fields = {"net.depth": depth, "train.shallow_depth": None, "train.auxiliary": (), "train.epochs": epochs}
    return drop_unused(with_fields(spec, fields))[0]


def shard_of(trial: PlannedTrial, count: int) -> int:
    """Which of `count` shards a trial is in, from 1: by its id, or by that of the shallow trial that it starts from."""
    shallow = shallow_of(trial.spec)
    return Shard.number_of(shallow.trial_id if shallow else trial.id, count)


def duplicate_cases(study: Study) -> Iterable[Mistake]:
    """Cases that give the same trials as an earlier one; `varied_mistakes` says so of values within the grid."""
    first: dict[str, int] = {}
    for index, case in enumerate(study.cases):
        content = json.dumps(study.trial(case).model_dump(), sort_keys=True)
        earlier = first.setdefault(content, index)
        if earlier != index:
            yield f"cases[{index}]", f"duplicate trial (got the same as cases[{earlier}]); keep one"


def place(study: Study, case: int, path: str) -> str:
    """Where the user set a field of a case: `grid.PATH`, `cases[0].PATH` or `PATH`."""
    if path in study.grid:
        return f"grid.{path}"
    return f"cases[{case}].{path}" if study.cases and path in study.cases[case] else path


def waves(trials: Sequence[PlannedTrial]) -> list[list[PlannedTrial]]:
    """The trials that can run at once, costliest first; those that start from others' weights come after these."""
    from_scratch = [trial for trial in trials if trial.spec.train.shallow_depth is None]
    from_shallow = [trial for trial in trials if trial.spec.train.shallow_depth is not None]
    return [costliest_first(wave) for wave in (from_scratch, from_shallow) if wave]


def costliest_first(trials: Iterable[PlannedTrial]) -> list[PlannedTrial]:
    """Trials by falling steps x batch x multiply-adds, those of unknown cost last; equal ones keep their order."""

    def multiply_adds(trial: PlannedTrial) -> int:
        """Of all steps, 0 where the cost is unknown."""
        expected = cost(trial.spec)
        return (expected.steps or 0) * trial.spec.train.batch_size * (expected.multiply_adds or 0)

    return sorted(trials, key=multiply_adds, reverse=True)
