"""What vouches for a trial's files of rows: size and CRC-32, as `files` of its status, its result and checkpoints.

The writer sums what it writes. A reader takes as many bytes of a file as are vouched for: what stands behind them was
written after the last status, or is the torn end that a killed writer left. No torch and no pandas in here.
"""

import zlib
from collections.abc import Mapping
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, TypeAdapter, ValidationError

from initlab.store.files import StoreError, read_json

# Path within the trial's folder, as `attempt-000/scalars.jsonl`, to its bytes and their CRC-32.
Sums = dict[str, tuple[int, int]]
SUMS = TypeAdapter(
    dict[Annotated[str, Field(pattern=r"^(attempt-\d{3,}/)?[a-z.]+$")], tuple[NonNegativeInt, NonNegativeInt]]
)
CHUNK = 1 << 20
MERGED, INDEX = "merged", "index.json"


def sum_of(path: Path) -> tuple[int, int]:
    """Size and CRC-32 of a file; (9, 0xCBF43926) of one that holds 123456789."""
    size = crc = 0
    with open(path, "rb") as file:
        while part := file.read(CHUNK):
            size, crc = size + len(part), zlib.crc32(part, crc)
    return size, crc


class SummedFile(FileIO):
    """A new file, written without a buffer, that knows size and CRC-32 of what it was given."""

    size = crc = 0

    def __init__(self, path: Path) -> None:
        """Create the file, or go on with an empty one."""
        super().__init__(path, "ab")
        self.path = path

    def write(self, content: Any) -> int:
        """Write all of the content; an OSError leaves the sum at what the file holds."""
        rest = memoryview(content).cast("B")
        while len(rest):
            written = super().write(rest)
            self.size, self.crc = self.size + written, zlib.crc32(rest[:written], self.crc)
            rest = rest[written:]
        return len(memoryview(content).cast("B"))

    @property
    def sum(self) -> tuple[int, int]:
        """Size and CRC-32 so far."""
        return self.size, self.crc


def sums_in(path: Path, content: Mapping[str, Any]) -> Sums | None:
    """What a status, result or checkpoint at `path` vouches for, None where an older initlab wrote it."""
    if "files" not in content:
        return None
    try:
        return SUMS.validate_python(content["files"])
    except ValidationError:
        raise StoreError(f"{path}: files: not sizes and checksums; the file was changed by hand") from None


def vouched(path: Path, size: int, crc: int) -> bytes:
    """The first `size` bytes of a file; a `StoreError` where it is not the one that was written."""
    try:
        with open(path, "rb") as file:
            content = file.read(size)
    except OSError as error:
        raise StoreError(f"{path}: {gone(error)}; its rows are lost") from None
    if len(content) < size:
        raise StoreError(f"{path}: damaged (got {len(content)} bytes, {size} were written); its rows are left out")
    if zlib.crc32(content) != crc:
        raise StoreError(f"{path}: damaged (not the bytes that were written); its rows are left out")
    return content


def gone(error: OSError) -> str:
    """`absent`, or why a file cannot be read."""
    return "absent" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"


def lost(folder: Path, sums: Sums) -> str | None:
    """The first file below a trial's folder that is absent or shorter than what was written, None where none is."""
    for name, (size, _) in sums.items():
        path = folder / name
        rows = not name.endswith(".json")
        gone_whole = not path.exists()
        if gone_whole and rows and merged_in(folder.parent.parent, f"{folder.name}/{path.parent.name}"):
            continue
        if not path.is_file() or path.stat().st_size < size:
            return f"{path}: {'absent' if gone_whole else 'damaged'}"
    return None


def batches(out: Path) -> list[Path]:
    """The batches of merged rows in an output folder, oldest first."""
    return sorted(path for path in (out / MERGED).glob("[0-9]*") if path.name.isdecimal())


def merged_in(out: Path, key: str) -> Path | None:
    """The batch that stands for the row files of an attempt, `ID/attempt-000`; None where none does."""
    return next((batch for batch in batches(out) if key in index_of(batch)["attempts"]), None)


def index_of(batch: Path) -> dict[str, Any]:
    """What a batch holds: `attempts`, their row `groups` by frame, and `files`; nothing where it cannot be read."""
    path = batch / INDEX
    try:
        return read_index(path, path.stat().st_mtime_ns)
    except (OSError, StoreError, KeyError):
        return {"attempts": (), "groups": {}, "files": {}}


@lru_cache(maxsize=64)
def read_index(path: Path, changed_ns: int) -> dict[str, Any]:
    """The index of a batch, which never changes."""
    content = read_json(path)
    return {**content, "attempts": frozenset(content["attempts"])}
