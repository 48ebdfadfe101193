"""Reads what an output folder holds of each trial: its spec, status, result, and the attempts whose rows count.

Of an attempt that a later one resumed, rows count up to the step resumed from, so none is missing, doubled or half.
A file that cannot be read is named in `problems`, and nothing else is lost with it.
"""

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from initlab.engine.lease import is_held
from initlab.engine.task import State
from initlab.errors import one_line
from initlab.store import files
from initlab.store.columns import names
from initlab.store.files import StoreError, check_schema, read_json, read_lines
from initlab.store.trial_folder import TrialFolder, attempt_number
from initlab.study.spec import TrialSpec


@dataclass(frozen=True)
class CountedAttempt:
    """An attempt whose rows count up to `last_step`, with what its attempt.json says."""

    folder: Path
    description: dict[str, Any]
    last_step: float


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


def read_trials(out: Path, planned: Sequence[str], problems: list[str]) -> list[StoredTrial]:
    """Every readable trial of an output folder, the planned ones first and in their order."""
    order = {trial: index for index, trial in enumerate(planned)}
    trials = []
    for folder in sorted(TrialFolder.all_in(out), key=lambda folder: order.get(folder.id, len(order))):
        try:
            trials.append(read_trial(folder, out, problems))
        except StoreError as error:
            problems.append(one_line(error))
        except (OSError, KeyError, ValueError) as error:
            problems.append(f"{folder.path}: unreadable ({one_line(error)})")
    return trials


def read_trial(folder: TrialFolder, out: Path, problems: list[str]) -> StoredTrial:
    """One trial's folder; raises what `read_trials` turns into a problem."""
    spec, result = folder.spec(), folder.result()
    try:
        status = folder.status()
    except StoreError as error:
        # A damaged status is named and says nothing of the trial.
        problems.append(str(error))
        status = {"state": State.INTERRUPTED.value}
    # Without a result a trial is not finished, whatever its status says.
    unfinished = result is None and status["state"] in (State.DONE, State.DIVERGED)
    if unfinished or (status["state"] == State.RUNNING and not is_held(out)):
        status["state"] = State.INTERRUPTED.value
    if status["state"] == State.RUNNING:
        status["silent_s"] = max(0.0, time.time() - folder.status_file.stat().st_mtime)
    counted = counted_attempts(folder)
    for attempt in counted:
        problems += attempt.description["notes"]
        if result and not (attempt.folder / files.SCALARS).exists():
            problems.append(f"{attempt.folder / files.SCALARS}: absent; its rows are lost")
    environment = counted[-1].description["environment"] if counted else {}
    status |= result or {}
    return StoredTrial(folder.id, folder.path, spec, status, result, len(folder.attempts()), environment, counted)


def counted_attempts(trial: TrialFolder) -> list[CountedAttempt]:
    """The attempts whose rows count, oldest first: the chain of resumptions that ends in the latest."""
    chain: list[CountedAttempt] = []
    newest, last_step = math.inf, math.inf
    for folder in reversed(trial.attempts()):
        # An attempt without its description was killed right after it was claimed, and wrote nothing.
        if attempt_number(folder) > newest or not (folder / files.ATTEMPT).exists():
            continue
        description = read_json(folder / files.ATTEMPT)
        chain.append(CountedAttempt(folder, description, last_step))
        if not description["resumed_from"]:
            break
        newest, last_step = attempt_number(Path(description["resumed_from"])), description["resumed_step"]
    return chain[::-1]


def attempt_rows(stored: Sequence[StoredTrial], frame: str, problems: list[str]) -> pd.DataFrame:
    """A frame of the rows that count of all attempts, with trial and attempt."""
    columns, rows, parts = names(frame), [], []
    for trial in stored:
        for attempt in trial.counted:
            origin: dict[str, Any] = {"trial": trial.id, "attempt": attempt_number(attempt.folder)}
            try:
                if frame != "signals":
                    lines = read_lines(attempt.folder / f"{frame}.jsonl")
                    rows += [origin | row for row in lines if row["step"] <= attempt.last_step]
                elif (signals := read_signals(attempt.folder)) is not None:
                    parts.append(signals[signals.step <= attempt.last_step].assign(**origin))
            except StoreError as error:
                problems.append(str(error))
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(rows, columns=columns)


def read_signals(attempt: Path) -> pd.DataFrame | None:
    """The signals of an attempt: its Parquet file, which may be damaged, or what the live stream holds so far."""
    path = attempt / files.SIGNALS
    if path.exists():
        try:
            return read_parquet(path)
        except (pa.ArrowException, OSError) as error:
            raise StoreError(f"{path}: damaged Parquet ({one_line(error)}); its signals are left out") from None
    batches = []
    # There may be no stream yet, or one with the torn tail of a writer that is at work or was killed.
    with suppress(pa.ArrowException, OSError), pa.ipc.open_stream(attempt / files.STREAM) as stream:
        for batch in stream:
            batches.append(batch)
    signals: pd.DataFrame | None = pa.Table.from_batches(batches).to_pandas() if batches else None
    return signals


def read_parquet(path: Path) -> pd.DataFrame:
    """A Parquet file of the store; raises a `StoreError` for one of a newer initlab, and what pyarrow raises."""
    table = pq.read_table(path)
    schema = (table.schema.metadata or {}).get(b"initlab.schema")
    check_schema(path, int(schema) if schema else None)
    frame: pd.DataFrame = table.to_pandas()
    return frame
