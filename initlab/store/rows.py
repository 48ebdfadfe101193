"""The rows of attempts: from their files, as they are vouched for, to one frame."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from initlab.store import files
from initlab.store.checksums import gone, vouched
from initlab.store.files import NON_FINITE, StoreError, read_lines
from initlab.store.parquet import damage, fitted, parse_parquet, schema_of
from initlab.store.reader import CountedAttempt, StoredTrial
from initlab.store.trial_folder import attempt_number

ROWS = ("scalars", "signals", "slopes", "running")


def attempt_rows(stored: Sequence[StoredTrial], frame: str, problems: list[str]) -> pd.DataFrame:
    """A frame of the rows that count of all attempts, with trial and attempt."""
    tables = [trial_rows(trial, frame, problems) for trial in stored]
    return to_frame(pa.concat_tables(tables) if tables else schema_of(frame).empty_table())


def trial_rows(trial: StoredTrial, frame: str, problems: list[str]) -> pa.Table:
    """A trial's rows that count, with trial and attempt; what is damaged is named in `problems`."""
    tables = [schema_of(frame).empty_table()]
    for attempt in trial.counted:
        try:
            rows = counted_rows(attempt, frame)
        except StoreError as error:
            problems.append(str(error))
            continue
        origin = [pa.repeat(trial.id, len(rows)), pa.repeat(attempt_number(attempt.folder), len(rows))]
        tables.append(pa.table([*origin, *rows.columns], schema_of(frame)))
    return pa.concat_tables(tables)


def to_frame(table: pa.Table) -> pd.DataFrame:
    """A table as a frame, which takes over its memory column by column."""
    frame: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True, ignore_metadata=True)
    return frame


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
            content, torn = vouched(path, *sum_of_file) if sum_of_file else b"", False
        if content:
            return PARSERS[path.suffix](path, content, schema, torn)
    return schema.empty_table()


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
        return fitted(pa.Table.from_batches(batches), schema) if batches else schema.empty_table()


def parse_lines(path: Path, content: bytes, schema: pa.Schema, torn: bool) -> pa.Table:
    """The rows in a JSON-lines file, with the columns of a schema."""
    rows = read_lines(path, content)
    with damage(path, "rows"):
        columns = {}
        for field in schema:
            values = [row.get(field.name) for row in rows]
            if pa.types.is_floating(field.type):
                values = [float(value) if value in NON_FINITE else value for value in values]
            # Arrow would cut 1.5 down to 1.
            elif pa.types.is_integer(field.type) and not all(type(value) is int for value in values):
                raise pa.ArrowInvalid(f"{field.name}: not an integer in some row")
            columns[field.name] = pa.array(values, field.type)
        return fitted(pa.table(columns), schema)


PARSERS = {".parquet": parse_signals, ".arrows": parse_stream, ".jsonl": parse_lines}
