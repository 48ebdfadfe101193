"""The rows of attempts: from their files, as they are vouched for, to one frame."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from initlab.store import files
from initlab.store.checksums import gone, vouched
from initlab.store.files import NON_FINITE, StoreError, read_lines
from initlab.store.merged import merged_rows
from initlab.store.parquet import damage, fitted, parse_parquet, schema_of, with_dictionaries
from initlab.store.reader import CountedAttempt, StoredTrial
from initlab.store.trial_folder import attempt_number

ROWS = ("scalars", "signals", "slopes", "running")


Moment = float | Literal["end"]
# Of the steps and epochs of a trial's rows, which rows are wanted.
Choice = Callable[[NDArray[np.int64], NDArray[np.float64]], NDArray[np.bool_]]


def attempt_rows(
    stored: Sequence[StoredTrial], frame: str, problems: list[str], choice: Choice | None = None
) -> pd.DataFrame:
    """A frame of the rows that count of all attempts, or those of a choice, with trial and attempt."""
    tables = [schema_with_origin(frame).empty_table()]
    with system_memory():
        for trial in stored:
            rows = trial_rows(trial, frame, problems)
            tables.append(chosen_rows(rows, choice) if choice else rows)
        return to_frame(tables)


@contextmanager
def system_memory() -> Iterator[None]:
    """Have pyarrow take memory from the system's allocator, with which reading many small files takes half the time."""
    pool = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(pool)


def nearest(epochs: Sequence[Moment]) -> Choice:
    """The choice of the rows whose epoch is a trial's nearest to one of these, where `end` is its last."""

    def choice(step: NDArray[np.int64], epoch: NDArray[np.float64]) -> NDArray[np.bool_]:
        """The rows at these epochs."""
        moments = [epoch.max() if moment == "end" else moment for moment in epochs]
        return np.isin(epoch, [epoch[np.abs(epoch - moment).argmin()] for moment in moments])

    return choice


def trial_rows(trial: StoredTrial, frame: str, problems: list[str]) -> pa.Table:
    """A trial's rows that count, with trial and attempt; what is damaged is named in `problems`."""
    tables = [schema_with_origin(frame).empty_table()]
    for attempt in trial.counted:
        try:
            tables.append(attempt_table(trial.id, attempt, frame))
        except StoreError as error:
            problems.append(str(error))
    return pa.concat_tables(tables)


def attempt_table(trial: str, attempt: CountedAttempt, frame: str) -> pa.Table:
    """An attempt's rows that count, with trial and attempt; a `StoreError` says what is damaged."""
    rows = counted_rows(attempt, frame)
    same = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), len(rows)), [trial])
    origin = [same, pa.repeat(attempt_number(attempt.folder), len(rows))]
    return pa.table([*origin, *rows.columns], schema_with_origin(frame))


def schema_with_origin(frame: str) -> pa.Schema:
    """The schema of a frame as its rows are read."""
    return with_dictionaries(schema_of(frame))


def chosen_rows(rows: pa.Table, choice: Choice) -> pa.Table:
    """The rows of one trial that a choice wants."""
    return rows.filter(pa.array(choice(rows["step"].to_numpy(), rows["epoch"].to_numpy()))) if len(rows) else rows


def to_frame(tables: list[pa.Table]) -> pd.DataFrame:
    """Tables as one frame. The list is emptied, and the frame made column by column: few are in memory twice."""
    table = pa.concat_tables(tables)
    tables.clear()
    columns = {}
    for name in table.column_names:
        column = table[name].unify_dictionaries()
        table = table.drop_columns(name)
        texts = column.cast(pa.large_string()) if pa.types.is_dictionary(column.type) else column
        del column
        columns[name] = texts.to_pandas()
    return pd.DataFrame(columns, copy=False)


def counted_rows(attempt: CountedAttempt, frame: str) -> pa.Table:
    """An attempt's rows of a frame up to its last step that counts; a `StoreError` says what is damaged."""
    rows = read_rows(attempt, frame)
    return rows if math.isinf(attempt.last_step) else rows.filter(pc.field("step") <= attempt.last_step)


def read_rows(attempt: CountedAttempt, frame: str) -> pa.Table:
    """All rows of a frame in an attempt's file of it, none where there is no such file."""
    schema = schema_of(frame, attempt_known=True)
    for name in (files.SIGNALS, files.STREAM) if frame == "signals" else (f"{frame}.jsonl",):
        path = attempt.folder / name
        if attempt.sums is None:
            # An older initlab vouched for nothing.
            content, torn = unvouched(path), True
        else:
            sum_of_file = attempt.sums.get(f"{attempt.folder.name}/{name}")
            try:
                content, torn = vouched(path, *sum_of_file) if sum_of_file else b"", False
            except StoreError:
                rows = None if path.exists() else merged_rows(attempt.folder, frame, schema)
                if rows is None:
                    raise
                return rows
        if content:
            return PARSERS[path.suffix](path, content, schema, torn)
    merged = merged_rows(attempt.folder, frame, schema) if attempt.sums is None else None
    return with_dictionaries(schema).empty_table() if merged is None else merged


def unvouched(path: Path) -> bytes:
    """What a file holds, nothing where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise StoreError(f"{path}: {gone(error)}; its rows are left out") from None


def parse_signals(path: Path, content: bytes, schema: pa.Schema, torn: bool) -> pa.Table:
    """The rows in the Parquet file of a finished attempt."""
    return parse_parquet(path, pa.py_buffer(content), schema)


def parse_stream(path: Path, content: bytes, schema: pa.Schema, torn: bool) -> pa.Table:
    """The rows in a live stream; one that may be `torn` ends before the batch that a killed writer left unfinished."""
    batches: list[pa.RecordBatch] = []
    source, ends = pa.BufferReader(content), [0]
    with damage(path, "stream"):
        try:
            stream = pa.ipc.open_stream(source)
            ends.append(source.tell())
            for batch in stream:
                batches.append(batch)
                ends.append(source.tell())
        except (pa.ArrowException, OSError):
            if not torn:
                raise
        # What is longer than any part before it is not the last one, and no kill has torn it.
        if len(content) - ends[-1] > max((end - start for start, end in pairwise(ends)), default=0):
            raise pa.ArrowInvalid(f"unreadable from byte {ends[-1]} on")
        return fitted(pa.Table.from_batches(batches), schema) if batches else with_dictionaries(schema).empty_table()


def parse_lines(path: Path, content: bytes, schema: pa.Schema, torn: bool) -> pa.Table:
    """The rows in a JSON-lines file, with the columns of a schema."""
    rows = read_lines(path, content)
    with damage(path, "rows"):
        columns = {}
        for field in schema:
            values = [row.get(field.name) for row in rows]
            types = set(map(type, values))
            if pa.types.is_floating(field.type) and str in types:
                values = [float(value) if value in NON_FINITE else value for value in values]
            # Arrow would cut 1.5 down to 1.
            if pa.types.is_integer(field.type) and types - {int}:
                raise pa.ArrowInvalid(f"{field.name}: not an integer in some row")
            columns[field.name] = pa.array(values, field.type)
        return fitted(pa.table(columns), schema)


PARSERS = {".parquet": parse_signals, ".arrows": parse_stream, ".jsonl": parse_lines}
