"""Parquet files of the store: the schema of each frame, written with page checksums, which reading checks."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from initlab.errors import one_line
from initlab.store import files
from initlab.store.columns import COLUMNS
from initlab.store.files import StoreError, atomic, check_schema

TEXT = pa.dictionary(pa.int32(), pa.string())
SCHEMA_KEY = b"initlab.schema"


def schema_of(frame: str, attempt_known: bool = False) -> pa.Schema:
    """The columns of a frame, or all but trial and attempt, as they are where those are known."""
    columns = COLUMNS[frame][2 if attempt_known else 0 :]
    return pa.schema([(column.name, column.type) for column in columns], {SCHEMA_KEY: str(files.SCHEMA)})


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a Parquet file atomically."""
    with atomic(path) as file:
        pq.write_table(table, file, **parquet_options(table.schema))


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """How files are written: with checksums, floats split into bytes before compression, which halves their size."""
    floats = {field.name: "BYTE_STREAM_SPLIT" for field in schema if pa.types.is_floating(field.type)}
    texts = [field.name for field in schema if field.type in (pa.string(), TEXT)]
    checked = {"compression": "zstd", "write_page_checksum": True}
    return {**checked, "column_encoding": floats, "use_dictionary": texts}


def only_texts(frame: str) -> list[str]:
    """The names of a frame's columns of text."""
    return [field.name for field in schema_of(frame) if field.type == pa.string()]


def parse_parquet(path: Path, content: pa.Buffer, schema: pa.Schema) -> pa.Table:
    """The table in a Parquet file of the store, with the columns of a schema; absent ones are null, texts dictionaries.

    Raises:
        StoreError: the file is damaged, or of a newer initlab.
    """
    with damage(path, "Parquet"):
        texts = [field.name for field in schema if field.type == pa.string()]
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True, read_dictionary=texts)
        version = (file.schema_arrow.metadata or {}).get(SCHEMA_KEY)
        check_schema(path, int(version) if version else None)
        known = [name for name in schema.names if name in file.schema_arrow.names]
        return fitted(file.read(known, use_threads=False), schema)


def fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with the columns of a schema, texts as dictionaries; raises what pyarrow raises where they do not fit."""
    table.validate(full=True)
    columns = {name: table[name] for name in table.column_names}
    for field in schema:
        if pa.types.is_integer(field.type) and field.name in columns and columns[field.name].null_count:
            raise pa.ArrowInvalid(f"{field.name}: none in some row")
    small = with_dictionaries(schema)
    empty = {field.name: pa.nulls(len(table), field.type) for field in small if field.name not in columns}
    return pa.table({**columns, **empty}).select(schema.names).cast(small)


def with_dictionaries(schema: pa.Schema) -> pa.Schema:
    """A schema whose texts, which repeat from row to row, are indices into a dictionary."""
    fields = [field.with_type(TEXT) if field.type == pa.string() else field for field in schema]
    return pa.schema(fields, schema.metadata)


@contextmanager
def damage(path: Path, kind: str) -> Iterator[None]:
    """Turn what pyarrow raises on bytes that are no table into a `StoreError` in one line."""
    try:
        yield
    except StoreError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, LookupError, OverflowError, MemoryError) as error:
        raise StoreError(f"{path}: damaged {kind} ({one_line(error)}); its rows are left out") from None
