"""Reads what an output folder holds of each trial: its spec, status, result, and the attempts whose rows count.

Of an attempt that a later one resumed, rows count up to the step resumed from, so none is missing, doubled or half.
A file that cannot be read is named in `problems`, and nothing else is lost with it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from initlab.engine.lease import is_held
from initlab.store import files
from initlab.store.files import StoreError, check_schema, read_json, read_lines
from initlab.store.trial_folder import TrialFolder, attempt_number
from initlab.study.spec import TrialSpec


@dataclass(frozen=True)
class CountedAttempt:
    """An attempt whose rows count up to `last_step`, with the content of its attempt.json."""

    folder: Path
    described: dict[str, Any]
    last_step: float


@dataclass(frozen=True)
class StoredTrial:
    """One trial's folder: its spec, status, result (None while unfinished) and the attempts that count."""

    id: str
    folder: Path
    spec: TrialSpec
    status: dict[str, Any]
    result: dict[str, Any] | None
    chain: list[CountedAttempt]
    attempts: int  # those that do not count too

    @property
    def environment(self) -> dict[str, Any]:
        """Where the last attempt that counts ran."""
        found: dict[str, Any] = self.chain[-1].described["environment"] if self.chain else {}
        return found


def read_trials(out: Path, planned: Sequence[str], problems: list[str]) -> list[StoredTrial]:
    """Every readable trial of an output folder, the planned ones first and in their order."""
    order = {trial: index for index, trial in enumerate(planned)}
    trials = []
    for folder in sorted(TrialFolder.all_in(out), key=lambda folder: order.get(folder.id, len(order))):
        try:
            trials.append(read_trial(folder, out, problems))
        except (StoreError, OSError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            problems.append(reason if isinstance(error, StoreError) else f"{folder.path}: unreadable ({reason})")
    return trials


def read_trial(folder: TrialFolder, out: Path, problems: list[str]) -> StoredTrial:
    """One trial's folder; raises what `read_trials` turns into a problem."""
    spec, result = folder.spec(), folder.result()
    try:
        status = folder.status()
    except StoreError as error:
        # A damaged status is named and says nothing of the trial.
        problems.append(str(error))
        status = {"state": "interrupted"}
    unfinished = result is None and status["state"] in ("done", "diverged")  # only the result means finished
    if unfinished or (status["state"] == "running" and not is_held(out)):
        status = {**status, "state": "interrupted"}
    chain = counting(folder)
    for attempt in chain:
        problems += attempt.described["notes"]
        if result and not (attempt.folder / files.SCALARS).exists():
            problems.append(f"{attempt.folder / files.SCALARS}: absent; its rows are lost")
    status = {**status, **(result or {})}
    return StoredTrial(folder.id, folder.path, spec, status, result, chain, len(folder.attempts()))


def counting(trial: TrialFolder) -> list[CountedAttempt]:
    """The attempts whose rows count, oldest first: the chain of resumptions that ends in the latest."""
    chain: list[CountedAttempt] = []
    newest, last_step = math.inf, math.inf
    for folder in reversed(trial.attempts()):
        # without its description it was killed right after claiming, and wrote nothing
        if attempt_number(folder) > newest or not (folder / files.ATTEMPT).exists():
            continue
        described = read_json(folder / files.ATTEMPT)
        chain.append(CountedAttempt(folder, described, last_step))
        if not described["resumed_from"]:
            break
        newest = attempt_number(trial.path / described["resumed_from"])
        last_step = min(last_step, described["resumed_step"] or 0)
    return chain[::-1]


def line_rows(stored: Sequence[StoredTrial], name: str, problems: list[str]) -> list[dict[str, Any]]:
    """The rows that count of a JSON-lines file of the attempts, with trial and attempt."""
    rows = []
    for trial in stored:
        for counted in trial.chain:
            path = counted.folder / name
            try:
                lines = read_lines(path) if path.exists() else []
            except StoreError as error:
                problems.append(str(error))
                continue
            number = attempt_number(counted.folder)
            rows += [{"trial": trial.id, "attempt": number, **row} for row in lines if row["step"] <= counted.last_step]
    return rows


def signal_frames(stored: Sequence[StoredTrial], problems: list[str]) -> list[pd.DataFrame]:
    """The signals that count of each attempt, with trial and attempt."""
    parts = []
    for trial in stored:
        for counted in trial.chain:
            try:
                table = read_signals(counted.folder)
            except StoreError as error:
                problems.append(str(error))
                continue
            if table is not None:
                frame = table.to_pandas()
                frame.insert(0, "trial", trial.id)
                frame.insert(1, "attempt", attempt_number(counted.folder))
                parts.append(frame[frame.step <= counted.last_step])
    return parts


def read_signals(attempt: Path) -> pa.Table | None:
    """The signals of an attempt: its Parquet file, or what the live stream holds so far.

    Raises:
        StoreError: a Parquet file that is truncated or of a newer initlab.
    """
    if (attempt / files.SIGNALS).exists():
        try:
            table = pq.read_table(attempt / files.SIGNALS)
        except (pa.ArrowException, OSError) as error:
            raise StoreError(
                f"{attempt / files.SIGNALS}: damaged Parquet ({error}); its signals are left out"
            ) from None
        written = (table.schema.metadata or {}).get(b"initlab.schema")
        check_schema(attempt / files.SIGNALS, int(written) if written else None)
        return table
    if not (attempt / files.STREAM).exists():
        return None
    batches = []
    try:
        with pa.ipc.open_stream(attempt / files.STREAM) as stream:
            schema = stream.schema
            while True:
                batches.append(stream.read_next_batch())
    except StopIteration:
        pass
    except (pa.ArrowException, OSError):  # the torn tail of a live or killed writer
        if not batches:
            return None
    return pa.Table.from_batches(batches, schema=schema)
