"""What `initlab plan` prints: a line per trial with its cost, and the cost of all of them."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from initlab.engine.task import State
from initlab.plan.cost import Cost, Pace, cost
from initlab.plan.packs import packs
from initlab.plan.plan import plan
from initlab.report.text_table import text_table
from initlab.store import files
from initlab.store.files import StoreError
from initlab.store.trial_folder import TrialFolder
from initlab.study.paths import field_text, other_differences
from initlab.study.spec import TrialSpec
from initlab.study.study import load_study

# Columns that are set to the right.
NUMBERS = ["parameters", "multiply-adds", "steps", "checkpoint", "storage", "time"]


def plan_lines(study: str | Path, overrides: Sequence[str] = (), out: str | Path | None = None) -> Iterator[str]:
    """Lines of text: header, one per trial beginning with its id, totals, and notes.

    The time comes from finished trials in `out` (default `results/NAME`), `–` where there is none.

    Raises:
        StudyError: as `load_study` and `plan`.
    """
    loaded = load_study(study, overrides)
    trials = plan(loaded, str(study))
    pace = Pace.of(finished_trials(Path(out) if out else Path("results") / loaded.name))
    costs = [cost(trial.spec, pace) for trial in trials]
    varying = other_differences([trial.spec for trial in trials])
    rows = []
    for trial, expected in zip(trials, costs, strict=True):
        spec = trial.spec
        name = [spec.net.label, spec.init.scheme, str(spec.seed), *(field_text(spec, path) for path in varying)]
        rows.append([trial.id, *name, *numbers(expected)])
    header = ["trial", "net", "init", "seed", *varying, *NUMBERS]
    yield from text_table([header, *rows], right=range(len(header) - len(NUMBERS), len(header)))
    yield total(costs)
    for path, count in sorted(Counter(path for trial in trials for path in trial.dropped).items()):
        because = "scheme, net, optimiser or schedule"
        yield f"{path} has no use in {count} of {len(trials)} trials ({because}); dropped from them"
    yield from packs(trials, loaded.run.pack)[1]
    points = sum(1 for _ in loaded.points())
    if points > len(trials):
        yield f"{points} points of cases and grid are {len(trials)} trials: some differ only in what has no use in them"


@lru_cache(maxsize=1024)
def numbers(cost: Cost) -> list[str]:
    """A trial's cost as text, in the order of `NUMBERS`, `–` for what is not known."""
    values = [cost.parameters, cost.multiply_adds, cost.steps, cost.checkpoint_bytes, cost.storage_bytes, cost.seconds]
    forms: list[Callable[[float], str]] = [*["{:,}".format] * 3, megabytes, megabytes, duration]
    return ["–" if value is None else form(value) for value, form in zip(values, forms, strict=True)]


def total(costs: Sequence[Cost]) -> str:
    """Trials, steps, storage and time of all, one after another."""
    steps = sum(cost.steps or 0 for cost in costs)
    storage = megabytes(sum(cost.storage_bytes or 0 for cost in costs))
    seconds = [cost.seconds for cost in costs if cost.seconds is not None]
    time = f", {duration(sum(seconds))} one after another" if len(seconds) == len(costs) else ""
    return f"{len(costs)} trials, {steps:,} steps, {storage}{time}"


def megabytes(size: float) -> str:
    """`3.9 MB`."""
    return f"{size / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """`15 s`, `3.6 min` or `2.1 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def finished_trials(out: Path) -> list[tuple[TrialSpec, float]]:
    """Finished trials in an output folder or an export, with their seconds per step, to expect the time of others from.

    Of a trial that was trained in a pack, its share of the pack's time.
    """
    ends: list[tuple[TrialSpec, dict[str, Any] | None]] = []
    if (out / files.COMPACTED).exists():
        # Here, for pandas takes a while to import.
        from initlab.store.export import exported_trials

        ends += [(trial.spec, trial.result) for trial in exported_trials(out)]
    for folder in TrialFolder.all_in(out):
        # `status` names what cannot be read; here it only means one trial less to learn from.
        with suppress(StoreError):
            ends.append((folder.spec(), folder.result()))
    return [
        (spec, result["wall_s"] / result.get("packed", 1) / result["steps"])
        for spec, result in ends
        if result and result.get("state") == State.DONE
    ]
