"""Rows of finished trials merged into few files: `OUT/merged/NNN`, a Parquet file per frame and an index.

A row group holds an attempt's rows of a frame. A batch is renamed into place whole and never changes, and only then are
the files removed that it stands for. Readers look for an attempt's own file first and here where it is gone, so that
they find the same rows before, during and after.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from initlab.store import files
from initlab.store.checksums import INDEX, MERGED, batches, index_of, merged_in, sum_of
from initlab.store.files import StoreError, sync_folder, write_json
from initlab.store.parquet import damage, fitted, only_texts, parquet_options, schema_of

Key = str  # `ID/attempt-000`


def merged_rows(attempt: Path, frame: str, schema: pa.Schema) -> pa.Table | None:
    """An attempt's rows of a frame as a batch holds them; None where no batch has the attempt."""
    out, key = attempt.parents[2], f"{attempt.parent.name}/{attempt.name}"
    batch = merged_in(out, key)
    if batch is None:
        return None
    group = index_of(batch)["groups"][frame].get(key)
    path = batch / f"{frame}.parquet"
    if group is None:
        return fitted(schema.empty_table(), schema)
    with damage(path, "Parquet"):
        rows = opened(path, path.stat().st_mtime_ns).read_row_group(group, schema.names, use_threads=False)
        return fitted(rows, schema)


@lru_cache(maxsize=16)
def opened(path: Path, changed_ns: int) -> Any:
    """A batch's file of a frame, its checksum looked at once."""
    if sum_of(path) != tuple(index_of(path.parent)["files"].get(path.name, ())):
        raise StoreError(f"{path}: damaged (not the bytes that were written); its rows are left out")
    return pq.ParquetFile(path, memory_map=True, read_dictionary=only_texts(path.stem))


def write_batch(out: Path, frames: Sequence[str], rows: Iterator[tuple[Key, dict[str, pa.Table]]]) -> Path:
    """Write a batch of attempts' rows by frame, and rename it into place."""
    number = 1 + max((int(path.name) for path in batches(out)), default=-1)
    final = out / MERGED / f"{number:03d}"
    temporary = final.with_name(f".{final.name}.{os.getpid()}")
    temporary.mkdir()
    keys: list[Key] = []
    groups: dict[str, dict[Key, int]] = {frame: {} for frame in frames}
    writers = {
        frame: pq.ParquetWriter(temporary / f"{frame}.parquet", schema, **parquet_options(schema))
        for frame, schema in ((frame, schema_of(frame)) for frame in frames)
    }
    for key, tables in rows:
        keys.append(key)
        for frame, table in tables.items():
            if len(table):
                groups[frame][key] = len(groups[frame])
                writers[frame].write_table(table.cast(schema_of(frame)), row_group_size=len(table))
    for frame, writer in writers.items():
        writer.close()
        descriptor = os.open(temporary / f"{frame}.parquet", os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    sums = {path.name: sum_of(path) for path in sorted(temporary.iterdir())}
    write_json(temporary / INDEX, {"attempts": keys, "groups": groups, "files": sums})
    temporary.rename(final)
    sync_folder(final.parent)
    return final


def remove_left_over(out: Path) -> None:
    """Remove what a merge that was killed has written so far."""
    for path in (out / MERGED).glob(".[0-9]*.[0-9]*"):
        shutil.rmtree(path)


def remove_own(attempt: Path, names: Sequence[str]) -> None:
    """Remove an attempt's own files of rows, which a batch stands for."""
    for name in (*names, files.STREAM):
        (attempt / name).unlink(missing_ok=True)
