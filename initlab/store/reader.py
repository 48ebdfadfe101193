"""Reads what an output folder holds of each trial: its spec, status, result, and the attempts whose rows count.

Of an attempt that a later one resumed, rows count up to the step resumed from, so none is missing, doubled or half.
A file that cannot be read is named in `problems`, and nothing else is lost with it.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from initlab.engine.task import State
from initlab.errors import one_line
from initlab.store import files
from initlab.store.checksums import Sums, sums_in
from initlab.store.files import StoreError, read_json
from initlab.store.trial_folder import TrialFolder
from initlab.study.spec import TrialSpec

ATTEMPT_NAME = r"^attempt-\d{3,}$"


class Figures(BaseModel):
    """What status.json and result.json say in numbers, where they say it; anything else may stand beside it."""

    # Numbers are strict: text that reads as one is none.
    model_config = ConfigDict(strict=True, extra="allow")

    state: Annotated[State, Field(strict=False)] = State.INTERRUPTED
    attempt: str = Field("", pattern=ATTEMPT_NAME)
    step: int = 0
    steps: int = 0
    train_examples: int = Field(0, ge=0)
    num_classes: int = Field(2, ge=1)
    epoch: float = 0.0
    epochs: float = 0.0
    chance: float = math.nan
    chance_loss: float = math.nan
    chance_spread: float | None = None
    train_loss: float = math.nan
    train_error: float = math.nan
    val_loss: float = math.nan
    val_error: float = math.nan
    images_per_s: float = math.nan
    wall_s: float = math.nan
    error: str = ""


class FinalFigures(Figures):
    """What a trial that is judged by its rows says in any case."""

    train_examples: int = Field(ge=0)
    num_classes: int = Field(ge=1)
    chance: float
    epoch: float


class Description(BaseModel):
    """What attempt.json says; anything else may stand beside it."""

    model_config = ConfigDict(strict=True, extra="allow")

    resumed_from: str | None = Field(pattern=ATTEMPT_NAME)
    resumed_step: int | None
    environment: dict[str, str | int | float | None]
    notes: list[str]


@dataclass(frozen=True)
class CountedAttempt:
    """An attempt whose rows count up to `last_step`, with what its attempt.json says."""

    folder: Path
    description: Description
    last_step: float
    sums: Sums | None  # of the trial's files, None where an older initlab wrote it


@dataclass(frozen=True)
class StoredTrial:
    """One trial as stored: its spec, status, result (None while unfinished) and the attempts whose rows count."""

    id: str
    folder: Path
    spec: TrialSpec
    status: dict[str, Any]
    result: dict[str, Any] | None
    attempts: int  # all of them, not only those that count
    environment: dict[str, Any]  # of the last attempt that counts
    counted: Sequence[CountedAttempt] = ()


def read_trials(out: Path, planned: Mapping[str, TrialSpec], problems: list[str]) -> list[StoredTrial]:
    """Every readable trial of an output folder, the planned ones first and in their order, begun or not."""
    folders = {folder.id: folder for folder in TrialFolder.all_in(out)}
    trials = []
    for trial_id in [*planned, *(id for id in folders if id not in planned)]:
        folder = folders.get(trial_id) or TrialFolder(out, trial_id)
        if trial_id not in folders:
            pending = {"state": State.PENDING.value}
            trials.append(StoredTrial(trial_id, folder.path, planned[trial_id], pending, None, 0, {}))
            continue
        try:
            trials.append(read_trial(folder, problems))
        except StoreError as error:
            problems.append(one_line(error))
        except OSError as error:
            problems.append(f"{folder.path}: cannot be read ({one_line(error)})")
    return trials


def read_trial(folder: TrialFolder, problems: list[str]) -> StoredTrial:
    """One trial's folder; raises what `read_trials` turns into a problem."""
    description = folder.description()
    spec, result = folder.spec(description), folder.result()
    if spec.trial_id != folder.id:
        raise StoreError(f"{folder.trial_file}: not the spec that its id stands for; move the folder away")
    try:
        status = folder.status()
        check(FinalFigures if status["state"] == State.STOPPED else Figures, folder.status_file, status)
    except StoreError as error:
        # A damaged status is named and says nothing of the trial.
        problems.append(str(error))
        status = {"state": State.INTERRUPTED.value}
    if result is not None:
        check(FinalFigures, folder.result_file, result)
        if missing := folder.lost_by(result):
            problems.append(f"{missing}, though the trial has its result; the next run does it again")
            result = None
    elif problem := folder.lost_attempt(status):
        problems.append(problem)
    sums = sums_in(folder.status_file, status) if result is None else sums_in(folder.result_file, result)
    status["state"] = folder.state(status, result).value
    if status["state"] == State.RUNNING:
        status["silent_s"] = max(0.0, time.time() - folder.status_file.stat().st_mtime)
    counted = counted_attempts(folder, description.get("first_attempt", 0), sums)
    for attempt in counted:
        problems += attempt.description.notes
    environment = counted[-1].description.environment if counted else {}
    status |= result or {}
    # They vouch for files, and are nobody's figures.
    for content in (status, result or {}):
        content.pop("files", None)
    return StoredTrial(folder.id, folder.path, spec, status, result, len(folder.attempts()), environment, counted)


def check(model: type[BaseModel], path: Path, content: dict[str, Any]) -> Any:
    """The content of a JSON file as a model; a `StoreError` names what is not a value for its key."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place, given = ".".join(map(str, first["loc"])), str(first["input"])[:40]
        raise StoreError(
            f"{path}: {place}: {first['msg'].lower()} (got {given}); the file was changed by hand"
        ) from None


def counted_attempts(trial: TrialFolder, first: int, sums: Sums | None) -> list[CountedAttempt]:
    """The attempts whose rows count, oldest first: the chain of resumptions from `first` on that ends in the latest."""
    # An attempt without its description was killed right after it was claimed, and wrote nothing.
    described = [folder for folder in trial.attempts(first) if (folder / files.ATTEMPT).exists()]
    chain: list[CountedAttempt] = []
    last_step = math.inf
    folder = described[-1] if described else None
    while folder:
        path = folder / files.ATTEMPT
        content = read_json(path)
        trial.check_own(path, content)
        if content.get("attempt", folder.name) != folder.name:
            raise StoreError(f"{path}: of another attempt (got {content['attempt']!r}); move it away")
        description: Description = check(Description, path, content)
        chain.append(CountedAttempt(folder, description, last_step, sums))
        earlier = folder.with_name(description.resumed_from) if description.resumed_from else None
        if earlier and (earlier not in described or described.index(earlier) >= described.index(folder)):
            raise StoreError(f"{earlier}: absent, though {folder.name} went on from it; its rows are lost")
        folder, last_step = earlier, description.resumed_step if description.resumed_step is not None else math.inf
    return chain[::-1]
