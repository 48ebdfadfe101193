"""Compacted results: what an output folder holds, without its checkpoints, in a few files that `load` reads alike.

`FOLDER/study.yaml`, `compacted.json` (spec, end and environment of each trial) and one Parquet file per frame of rows:
of a sweep of 1,000 trials a frame is read in a fifth of a second. Floats stay exact.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from initlab.spec import TrialSpec
from initlab.store import files
from initlab.store.files import StoreError, atomic, check_schema, read_json, write_json
from initlab.store.results import (
    ENVIRONMENT,
    SCALAR_COLUMNS,
    SIGNAL_COLUMNS,
    SLOPE_COLUMNS,
    CountedAttempt,
    Results,
    StoredTrial,
)

ROWS = {"scalars": SCALAR_COLUMNS, "signals": SIGNAL_COLUMNS, "slopes": SLOPE_COLUMNS}
FRAMES = ("trials", "verdicts", *ROWS)


def compact(results: Results, folder: Path) -> list[Path]:
    """Write the results into an empty or new folder; returns the files, which `initlab.load(folder)` reads.

    Raises:
        StoreError: the folder holds something, or cannot be written.
    """
    make_empty(folder)
    trials = [
        {
            "id": trial.id, "spec": trial.spec.model_dump(mode="json"), "status": trial.status, "result": trial.result,
            "attempts": trial.attempts,
            "environment": {key: trial.environment.get(key) for key in ENVIRONMENT},
        }
        for trial in results.stored
    ]  # fmt: skip
    with files.writable(folder):
        with atomic(folder / files.STUDY) as file:
            file.write((results.out / files.STUDY).read_bytes())
        for name in ROWS:
            write_frame(folder / f"{name}.parquet", getattr(results, name))
        write_json(folder / files.COMPACTED, {"trials": trials})  # last: with it the folder is whole
    return [folder / name for name in (files.STUDY, files.COMPACTED, *(f"{name}.parquet" for name in ROWS))]


def export_csv(results: Results, folder: Path) -> list[Path]:
    """Write the frames as FRAME.csv into an empty or new folder; returns the files.

    Raises:
        StoreError: the folder holds something, or cannot be written.
    """
    make_empty(folder)
    paths = [folder / f"{name}.csv" for name in FRAMES]
    with files.writable(folder):
        for path in paths:
            with atomic(path) as file:
                file.write(getattr(results, path.stem).to_csv(index=False, lineterminator="\n").encode())
    return paths


def make_empty(folder: Path) -> None:
    """Make a folder, or take an empty one."""
    with files.writable(folder):
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


class Compacted(Results):
    """Results read from the files that `compact` wrote."""

    def read_trials(self) -> list[StoredTrial]:
        return [self.trial_of(entry) for entry in read_json(self.out / files.COMPACTED, figures=True)["trials"]]

    def trial_of(self, entry: dict[str, Any]) -> StoredTrial:
        attempt = CountedAttempt(self.out, {"environment": entry["environment"], "notes": []}, float("inf"))
        spec = TrialSpec.model_validate(entry["spec"])
        return StoredTrial(
            entry["id"], self.out, spec, entry["status"], entry["result"], [attempt], attempts=entry["attempts"]
        )

    def rows(self, name: str) -> pd.DataFrame:
        path = self.out / f"{name}.parquet"
        try:
            table = pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            self.problems.append(f"{path}: damaged Parquet ({' '.join(str(error).split())[:150]}); its rows are lost")
            return pd.DataFrame(columns=ROWS[name])
        check_schema(path, int((table.schema.metadata or {}).get(b"initlab.schema", 0)))
        frame: pd.DataFrame = table.to_pandas()
        return frame
