"""What `initlab status` prints: one page on a folder's trials by state and by cause, however many there are."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from initlab.engine.lease import is_held
from initlab.engine.task import State, cause_of
from initlab.errors import one_line
from initlab.launch.progress import figures
from initlab.report.plan_table import duration
from initlab.store import files
from initlab.store.files import StoreError
from initlab.store.study_file import study_of
from initlab.store.trial_folder import TrialFolder
from initlab.study.paths import naming
from initlab.study.spec import TrialSpec

RUNNING_SHOWN = 12
# Trials finished last, from whose times the rate comes.
RATE_OVER = 100
LINE = 100  # characters of an error


@dataclass(frozen=True)
class Standing:
    """How a trial stands: its state, figures and when it was last heard of (seconds since 1970, 0 never)."""

    id: str
    state: State
    status: dict[str, Any]
    heard: float = 0.0


def status_page(out: Path, every_trial: bool = False) -> Iterator[str]:
    """The page, line by line; `every_trial` adds a line per trial.

    Raises:
        StoreError: no output folder, or a study in it that this initlab does not read.
    """
    study, specs = study_of(out)
    held = is_held(out)
    problems: list[str] = []
    standings = all_standings(out, specs, problems)
    counts = Counter(standing.state for standing in standings)
    states = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    yield f"{out}: {len(standings)} trials of {study.name}: {states}"
    others = sum(standing.id not in specs for standing in standings)
    if others:
        yield f"{others} of them are of an earlier form of the study"
    watched = any(spec.watched for spec in specs.values())
    yield from failure_lines(out, standings, watched)
    name = naming(list(specs.values()))
    running = [standing for standing in standings if standing.state == State.RUNNING]
    for standing in running[:RUNNING_SHOWN]:
        yield f"  {standing.id} {name(specs[standing.id]) if standing.id in specs else ''}{running_text(standing)}"
    if len(running) > RUNNING_SHOWN:
        yield f"  … and {len(running) - RUNNING_SHOWN} more that run; --trials lists all"
    left = counts[State.PENDING] + counts[State.RUNNING] + counts[State.INTERRUPTED]
    # The loops that initlab watched are not its own to run.
    if not watched:
        yield from rate_lines(out, standings, left, held)
    if every_trial:
        for standing in standings:
            text = f" {name(specs[standing.id])}" if standing.id in specs else ""
            yield f"{standing.id} {text}: {standing.state}{figures(standing.status)}"
    yield from problems


def all_standings(out: Path, specs: dict[str, TrialSpec], problems: list[str]) -> list[Standing]:
    """Every trial's standing, those of the study first and in its order."""
    if (out / files.COMPACTED).exists():
        # Here, for pandas takes a while to import.
        from initlab.store.export import exported_trials

        return [Standing(trial.id, State(trial.status["state"]), trial.status) for trial in exported_trials(out)]
    folders = {folder.id: folder for folder in TrialFolder.all_in(out)}
    standings = [
        standing_of(folders[id], problems) if id in folders else Standing(id, State.PENDING, {}) for id in specs
    ]
    return standings + [standing_of(folder, problems) for id, folder in folders.items() if id not in specs]


def standing_of(folder: TrialFolder, problems: list[str]) -> Standing:
    """A trial's standing by its files; a damaged one is named and says nothing."""
    try:
        result = folder.result()
        status = result or folder.status()
        state = folder.state(status, result)
    except (StoreError, ValueError, OSError) as error:
        problems.append(one_line(error))
        return Standing(folder.id, State.INTERRUPTED, {})
    path = folder.result_file if result else folder.status_file
    return Standing(folder.id, state, status, os.stat(path).st_mtime if path.exists() else 0.0)


def failure_lines(out: Path, standings: Sequence[Standing], watched: bool = False) -> Iterator[str]:
    """The failures by cause, the commonest first: how many, the first trial, and what to type next."""
    causes: dict[str, list[Standing]] = {}
    for standing in standings:
        if standing.state == State.FAILED:
            causes.setdefault(cause_of(error_of(standing)), []).append(standing)
    for failed in sorted(causes.values(), key=len, reverse=True):
        first = failed[0].id
        yield f"  {len(failed)} failed, the first {first}: {one_line(error_of(failed[0]), LINE)}"
        yield f"    traceback: {out / files.TRIALS / first / files.STATUS}"
        if not watched:
            yield f"    again: initlab run {out / files.STUDY} --out {out} --only {first}"


def error_of(standing: Standing) -> str:
    """What a failed trial says of its failure."""
    return str(standing.status.get("error", "no error recorded"))


def running_text(standing: Standing) -> str:
    """`: epoch 3.2 of 14, val_error 0.12, heard of 4 s ago`."""
    status = standing.status
    doing = f": {one_line(status['doing'], LINE)}" if "doing" in status else ""
    epochs = f": epoch {status['epoch']:.3g} of {status['epochs']:g}" if "epochs" in status else doing
    error = f", val_error {status['val_error']:.3f}" if isinstance(status.get("val_error"), float) else ""
    return f"{epochs}{error}, heard of {duration(max(0.0, time.time() - standing.heard))} ago"


def rate_lines(out: Path, standings: Sequence[Standing], left: int, held: bool) -> Iterator[str]:
    """How fast trials finish and when the last one will; or how to go on where nothing runs."""
    if not left:
        return
    if not held:
        yield f"no launch is at work here; next: initlab run {out / files.STUDY} --out {out}"
        return
    ends = sorted(standing.heard for standing in standings if standing.state.finished)[-RATE_OVER:]
    if len(ends) < 2 or ends[-1] == ends[0]:
        yield "too few have finished to tell when the last one will"
        return
    each = (ends[-1] - ends[0]) / (len(ends) - 1)
    end = datetime.fromtimestamp(time.time() + left * each).strftime("%Y-%m-%d %H:%M")
    yield f"{3600 / each:.3g} trials an hour; the other {left} take {duration(left * each)}, to {end}"
