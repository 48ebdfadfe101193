"""File names of the output folder, atomic JSON, and the lines of scalars.jsonl, slopes.jsonl and running.jsonl.

Every JSON file carries `schema`; a reader refuses a newer one. Non-finite floats are not JSON, so they are stored as
the strings "NaN", "Infinity" and "-Infinity".
"""

import errno
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from initlab.engine.stopping import STOP as STOP
from initlab.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
STUDY, TRIALS, FIGURES, COMPACTED = "study.yaml", "trials", "figures", "compacted.json"
LITTLE_ROOM = 2**16  # bytes
NON_FINITE = ("NaN", "Infinity", "-Infinity")
TRIAL, STATUS, RESULT = "trial.json", "status.json", "result.json"
ATTEMPT, CHECKPOINT, LOG = "attempt.json", "checkpoint.pt", "log.txt"
SCALARS, STREAM, SIGNALS = "scalars.jsonl", "signals.arrows", "signals.parquet"


class StoreError(UserError):
    """A file of the output folder that cannot be used, in one line."""


@contextmanager
def atomic(path: Path, sync: bool = True) -> Iterator[IO[bytes]]:
    """Write a temporary file and rename it into place, so that a reader sees all of it or none."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Say in one line what could not be written at or below `path`."""
    try:
        yield
    except OSError as error:
        culprit = error.filename or path
        raise StoreError(f"{culprit}: cannot be written ({error.strerror}); give another folder") from error


def no_room(error: BaseException, folder: Path) -> bool:
    """Whether an error comes of a disk that is full: it says so itself, or the disk of `folder` has no more room.

    Libraries turn the system's words for it into their own.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize < LITTLE_ROOM or (disk.f_files > 0 and disk.f_favail == 0)


def write_csv(path: Path, table: "pd.DataFrame", sync: bool = False) -> None:
    """Write a frame atomically, without its index and with exact floats."""
    with atomic(path, sync) as file:
        file.write(table.to_csv(index=False, lineterminator="\n").encode())


def write_json(path: Path, content: dict[str, Any], sync: bool = True) -> None:
    """Write a JSON file atomically, with its schema."""
    with atomic(path, sync) as file:
        file.write((encode({"schema": SCHEMA, **content}, indent=2) + "\n").encode())


def read_json(path: Path, *, figures: bool = False) -> dict[str, Any]:
    """Read a JSON file of the store; with `figures`, the strings of non-finite floats become floats again.

    A `StoreError` says that it is absent, not JSON, or written by a newer initlab.
    """
    try:
        content = decode(path.read_text()) if figures else json.loads(path.read_text())
    except FileNotFoundError:
        raise StoreError(f"{path}: absent; run the study again") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: not readable as JSON ({error}); move it away to run or read without it") from None
    if not isinstance(content, dict):
        raise StoreError(f"{path}: not a JSON object; move it away to run or read without it")
    check_schema(path, content.get("schema"))
    return content


def check_schema(path: Path, schema: Any) -> None:
    """Refuse what a newer initlab wrote."""
    if not isinstance(schema, int) or schema > SCHEMA:
        raise StoreError(f"{path}: unknown schema (got {schema!r}); allowed: up to {SCHEMA}; update initlab to read it")


def encode(value: Any, indent: int | None = None) -> str:
    """JSON with non-finite floats as strings."""
    return json.dumps(without_non_finite(value), indent=indent, allow_nan=False)


def without_non_finite(value: Any) -> Any:
    """Plain data whose non-finite floats are the strings of `NON_FINITE`."""
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)
    if isinstance(value, dict):
        return {key: without_non_finite(part) for key, part in value.items()}
    return [without_non_finite(part) for part in value] if isinstance(value, (list, tuple)) else value


def decode(text: str) -> Any:
    """The inverse of `encode`, but for a non-finite float in a list, which stays a string."""
    return json.loads(text, object_pairs_hook=lambda pairs: {k: float(v) if v in NON_FINITE else v for k, v in pairs})


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file, [] where there is none; a `StoreError` names a line that is not JSON.

    An unterminated last line is the trace of a crash and is dropped.
    """
    if not path.exists():
        return []
    text = path.read_bytes()
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text[: text.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            row = decode(line.decode())
        except (json.JSONDecodeError, UnicodeDecodeError):
            row = None
        if not isinstance(row, dict) or "step" not in row:
            raise StoreError(f"{path}: line {number} is not JSON (got {line[:40]!r}); the file was changed by hand")
        rows.append(row)
    return rows
