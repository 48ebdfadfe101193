"""Exported results: what an output folder holds, without its checkpoints, in a few files that `Results` reads alike.

`FOLDER/study.yaml`, `compacted.json` (spec, end and environment of each trial) and one Parquet file per frame of rows,
so that a large sweep is a handful of files. Floats stay exact.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from initlab.engine.task import State
from initlab.errors import one_line
from initlab.store import files
from initlab.store.columns import names
from initlab.store.files import StoreError, atomic, read_json, writable, write_csv, write_json
from initlab.store.reader import StoredTrial, read_parquet
from initlab.study.spec import TrialSpec

Form = Literal["parquet", "csv"]
ROWS = ("scalars", "signals", "slopes", "running")
FRAMES = ("trials", "verdicts", *ROWS)
ENVIRONMENT = ("device", "precision", "threads", "torch_version", "python_version", "initlab_version", "git_commit")


def export(
    folder: Path, form: Form, study: Path, trials: Sequence[StoredTrial], frames: Mapping[str, pd.DataFrame]
) -> list[Path]:
    """Write frames into an empty or new folder, as csv or with the study and trials beside them; returns the files."""
    paths = {name: folder / f"{name}.{form}" for name in frames}
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StoreError(f"{folder}: not empty; give a new folder")
        if form == "csv":
            for name, path in paths.items():
                write_csv(path, frames[name], sync=True)
            return list(paths.values())
        with atomic(folder / files.STUDY) as file:
            file.write(study.read_bytes())
        for name, path in paths.items():
            write_frame(path, frames[name])
        # Last: it says that the folder is whole.
        write_json(folder / files.COMPACTED, {"trials": [entry(trial) for trial in trials]})
    return [folder / files.STUDY, *paths.values(), folder / files.COMPACTED]


def entry(trial: StoredTrial) -> dict[str, Any]:
    """A trial without its rows, and without what concerns the machine alone."""
    running = trial.status["state"] == State.RUNNING
    return {
        "id": trial.id,
        "spec": trial.spec.model_dump(mode="json"),
        "status": {**trial.status, "state": State.INTERRUPTED} if running else trial.status,
        "result": trial.result,
        "attempts": trial.attempts,
        "environment": {key: trial.environment.get(key) for key in ENVIRONMENT},
    }


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write a Parquet file, its floats split into bytes before compression: half the size of the default."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"initlab.schema": b"%d" % files.SCHEMA})
    floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    with atomic(path) as file:
        pq.write_table(table, file, compression="zstd", use_dictionary=False, use_byte_stream_split=floats)


def exported_trials(folder: Path) -> list[StoredTrial]:
    """The trials in an export, in their order; a `StoreError` where it is not readable, or of a newer initlab."""
    path = folder / files.COMPACTED
    try:
        return [
            StoredTrial(**{**content, "folder": folder, "spec": TrialSpec.model_validate(content["spec"])})
            for content in read_json(path, figures=True)["trials"]
        ]
    except (KeyError, TypeError, ValidationError) as error:
        raise StoreError(f"{path}: not what export writes ({one_line(error)}); export again") from None


def exported_rows(folder: Path, frame: str, problems: list[str]) -> pd.DataFrame:
    """A frame of rows in an export; a damaged file is named in `problems`, that of a newer initlab a `StoreError`."""
    path = folder / f"{frame}.parquet"
    try:
        rows = read_parquet(path)
    except (pa.ArrowException, OSError) as error:
        problems.append(f"{path}: damaged Parquet ({one_line(error)}); its rows are lost")
        rows = pd.DataFrame()
    # An older export lacks columns of today.
    return rows.reindex(columns=names(frame))
