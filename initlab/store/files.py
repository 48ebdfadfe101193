"""File names of the output folder, atomic JSON, and the lines of scalars.jsonl, slopes.jsonl and running.jsonl.

Every JSON file carries `schema`, of which a reader refuses a newer one, and `crc`, the CRC-32 of the rest of it.
Non-finite floats are not JSON, so they are stored as the strings "NaN", "Infinity" and "-Infinity".
"""

import errno
import json
import math
import os
import re
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from initlab.engine.task import STOP as STOP
from initlab.errors import UserError, one_line

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
STUDY, TRIALS, FIGURES, COMPACTED = "study.yaml", "trials", "figures", "compacted.json"
# A file is written in seconds, but on a disk that stalls.
LEFT_OVER_S = 600.0
CRC_LINE = b"# CRC-32 of the lines above: "
MOVE = "move it away to run or read without it"
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
        sync_folder(path.parent)


def sweep(folders: Iterable[Path]) -> list[Path]:
    """Remove the temporary files that killed writers left in these folders, where those are there; returns them."""
    left = [Path(entry) for folder in folders if folder.is_dir() for entry in os.scandir(folder) if is_left_over(entry)]
    for path in left:
        path.unlink(missing_ok=True)
    return left


def is_left_over(entry: os.DirEntry[str]) -> bool:
    """Whether a file is one that `atomic` would have renamed long ago; a younger one may be another shard's."""
    if not re.fullmatch(r"\.[a-z.]+\.\d+", entry.name) or not entry.is_file(follow_symlinks=False):
        return False
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > LEFT_OVER_S
    # Renamed by its writer just now.
    except FileNotFoundError:
        return False


def sync_folder(path: Path) -> None:
    """Put the names in a folder on the disk."""
    folder = os.open(path, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Say in one line what could not be written at or below `path`."""
    try:
        yield
    except OSError as error:
        # A temporary file of `atomic` says nothing to a user.
        culprit = re.sub(r"(?<![^/])\.([^/]+)\.\d+$", r"\1", str(error.filename or path))
        raise StoreError(f"{culprit}: cannot be written ({error.strerror}); give another folder") from error


def write_text(path: Path, text: str) -> Path:
    """Write a text for a reader, its folder too; returns the path, or says in one line why it cannot be written."""
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path, sync=False) as file:
            file.write(text.encode())
    return path


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
    """Write a JSON file atomically, with its schema and checksum."""
    content = without_non_finite({"schema": SCHEMA, **content})
    # Content that was read without this room may have that of before.
    content.pop("crc", None)
    with atomic(path, sync) as file:
        file.write((json.dumps({**content, "crc": crc_of(content)}, indent=2, allow_nan=False) + "\n").encode())


def crc_of(content: dict[str, Any]) -> int:
    """CRC-32 of what a JSON file says, however it is laid out."""
    return zlib.crc32(json.dumps(content).encode())


def read_json(path: Path, *, figures: bool = False) -> dict[str, Any]:
    """Read a JSON file of the store; with `figures`, the strings of non-finite floats become floats again.

    A `StoreError` says that it is absent, not JSON, not what was written, or written by a newer initlab.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise StoreError(f"{path}: absent; run the study again") from None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); {MOVE}") from None
    # Not UTF-8, not JSON, a number of too many digits or brackets nested too deep.
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: not readable as JSON ({one_line(error)}); {MOVE}") from None
    if not isinstance(content, dict):
        raise StoreError(f"{path}: not a JSON object; {MOVE}")
    check_schema(path, content.get("schema"))
    # An older initlab wrote none.
    crc = content.pop("crc", None)
    if crc is not None and crc != crc_of(content):
        raise StoreError(f"{path}: damaged, or changed by hand (its checksum is of other content); {MOVE}")
    return with_non_finite(content) if figures else content


def write_study(path: Path, text: str) -> None:
    """Write the study of an output folder, with the checksum of its lines as a comment in its last."""
    with atomic(path) as file:
        file.write(text.encode() + CRC_LINE + b"%d\n" % zlib.crc32(text.encode()))


def study_problem(path: Path) -> str | None:
    """What to say of a study of an output folder that is not as it was written, None where nothing is."""
    text, line, crc = path.read_bytes().rpartition(CRC_LINE)
    if not line or crc == b"%d\n" % zlib.crc32(text):
        return None
    return f"{path}: damaged, or changed by hand; take away its last line where it is right as it is"


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
    return with_non_finite(json.loads(text))


def with_non_finite(value: Any) -> Any:
    """Plain data with the strings of `NON_FINITE` in its objects as the floats that they stand for."""
    if isinstance(value, dict):
        return {
            key: float(part) if isinstance(part, str) and part in NON_FINITE else with_non_finite(part)
            for key, part in value.items()
        }
    return [with_non_finite(part) for part in value] if isinstance(value, list) else value


def read_lines(path: Path, content: bytes) -> list[dict[str, Any]]:
    """The rows in a JSON-lines file, non-finite floats as strings; a `StoreError` names a line that is not one.

    An unterminated last line is the trace of a crash and is dropped.
    """
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    rows = json_rows(b",".join(lines))
    if rows is None or len(rows) != len(lines):
        number = next((i for i, line in enumerate(lines) if len(json_rows(line) or ()) != 1), 0)
        text = f"line {number + 1} is not JSON (got {lines[number][:40]!r})"
        raise StoreError(f"{path}: {text}; the file was changed by hand")
    return rows


def json_rows(text: bytes) -> list[dict[str, Any]] | None:
    """JSON objects that stand between commas, each with a step; None where that is not what the text is."""
    try:
        rows: list[Any] = json.loads(b"[" + text + b"]")
    except (ValueError, RecursionError):
        return None
    return rows if all(isinstance(row, dict) and "step" in row for row in rows) else None
