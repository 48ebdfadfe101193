"""Compacted results: what an output folder holds, without its checkpoints, in a few files that `Results` reads alike.

`FOLDER/study.yaml`, `compacted.json` (spec, end and environment of each trial) and one Parquet file per frame of rows,
so that a large sweep is a handful of files. Floats stay exact.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from initlab.store import files
from initlab.store.files import StoreError, atomic, check_schema, read_json, writable, write_csv, write_json
from initlab.store.reader import CountedAttempt, StoredTrial
from initlab.study.spec import TrialSpec

ROWS = ("scalars", "signals", "slopes", "running")
FRAMES = ("trials", "verdicts", *ROWS)
KEPT = ("device", "precision", "threads", "torch_version", "python_version", "initlab_version", "git_commit")


def export_parquet(
    folder: Path, study: bytes, trials: Sequence[StoredTrial], frames: Mapping[str, pd.DataFrame]
) -> list[Path]:
    """Write a study, its trials and the frames of `ROWS` into an empty or new folder, which `initlab.load` reads.

    Raises:
        StoreError: the folder holds something, or cannot be written.
    """
    make_empty(folder)
    paths = [folder / files.STUDY, *(folder / f"{name}.parquet" for name in ROWS), folder / files.COMPACTED]
    with writable(folder):
        with atomic(paths[0]) as file:
            file.write(study)
        for path in paths[1:-1]:
            write_frame(path, frames[path.stem])
        write_json(paths[-1], {"trials": [entry(trial) for trial in trials]})  # last: the folder is whole
    return paths


def entry(trial: StoredTrial) -> dict[str, Any]:
    """A trial without its rows, and without what tells of the machine alone."""
    state = trial.status["state"]
    status = {**trial.status, "state": "interrupted" if state == "running" else state}
    return {
        "id": trial.id,
        "spec": trial.spec.model_dump(mode="json"),
        "status": status,
        "result": trial.result,
        "attempts": trial.attempts,
        "environment": {key: trial.environment.get(key) for key in KEPT},
    }


def export_csv(folder: Path, frames: Mapping[str, pd.DataFrame]) -> list[Path]:
    """Write the frames as FRAME.csv into an empty or new folder; returns the files.

    Raises:
        StoreError: the folder holds something, or cannot be written.
    """
    make_empty(folder)
    paths = [folder / f"{name}.csv" for name in frames]
    with writable(folder):
        for path in paths:
            write_csv(path, frames[path.stem], sync=True)
    return paths


def make_empty(folder: Path) -> None:
    """Make a folder, or take an empty one."""
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StoreError(f"{folder}: not empty; give a new folder")


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """One Parquet file, its floats split into bytes before compression: half the size of the default."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"initlab.schema": b"%d" % files.SCHEMA})
    floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    with atomic(path) as file:
        pq.write_table(table, file, compression="zstd", use_dictionary=False, use_byte_stream_split=floats)


def compacted_trials(folder: Path) -> list[StoredTrial]:
    """The trials that `compact` wrote, in their order.

    Raises:
        StoreError: not readable, or of a newer initlab.
    """
    found = []
    try:
        for one in read_json(folder / files.COMPACTED, figures=True)["trials"]:
            attempt = CountedAttempt(folder, {"environment": one["environment"], "notes": []}, float("inf"))
            spec = TrialSpec.model_validate(one["spec"])
            found.append(StoredTrial(one["id"], folder, spec, one["status"], one["result"], [attempt], one["attempts"]))
    except (KeyError, TypeError, ValidationError) as error:
        reason = " ".join(str(error).split())[:150]
        raise StoreError(f"{folder / files.COMPACTED}: not what export writes ({reason}); export again") from None
    return found


def compacted_rows(folder: Path, file: str, columns: list[str], problems: list[str]) -> pd.DataFrame:
    """The rows of all trials that an output folder has in each attempt's `file`; a damaged file is named in `problems`.

    Raises:
        StoreError: of a newer initlab.
    """
    path = folder / f"{Path(file).stem}.parquet"
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        problems.append(f"{path}: damaged Parquet ({' '.join(str(error).split())[:150]}); its rows are lost")
        return pd.DataFrame(columns=columns)
    check_schema(path, int((table.schema.metadata or {}).get(b"initlab.schema", 0)))
    return table.to_pandas().reindex(columns=columns)  # an older export lacks columns of today
