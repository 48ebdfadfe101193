"""Exported results: what an output folder holds, without its checkpoints, in a few files that `Results` reads alike.

`FOLDER/study.yaml`, `compacted.json` (spec, end and environment of each trial) and one Parquet file per frame of rows,
so that a large sweep is a handful of files. Floats stay exact.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
from pydantic import ValidationError

from initlab.engine.task import State
from initlab.errors import one_line
from initlab.store import files
from initlab.store.checksums import sum_of, sums_in, vouched
from initlab.store.files import StoreError, atomic, read_json, writable, write_csv, write_json
from initlab.store.parquet import parse_parquet, schema_of, write_parquet
from initlab.store.reader import Figures, FinalFigures, StoredTrial, check
from initlab.store.rows import ROWS, Choice, chosen_rows, to_frame, unvouched
from initlab.study.spec import TrialSpec

Form = Literal["parquet", "csv"]
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
            write_parquet(path, pa.Table.from_pandas(frames[name], schema_of(name), preserve_index=False))
        sums = {path.name: sum_of(path) for path in paths.values()}
        # Last: it says that the folder is whole.
        write_json(folder / files.COMPACTED, {"trials": [entry(trial) for trial in trials], "files": sums})
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


def exported_trials(folder: Path) -> list[StoredTrial]:
    """The trials in an export, in their order; a `StoreError` where it is not readable, or of a newer initlab."""
    path = folder / files.COMPACTED
    try:
        trials = [
            StoredTrial(**{**content, "folder": folder, "spec": TrialSpec.model_validate(content["spec"])})
            for content in read_json(path, figures=True)["trials"]
        ]
    except (KeyError, TypeError, ValidationError) as error:
        raise StoreError(f"{path}: not what export writes ({one_line(error)}); export again") from None
    for trial in trials:
        check(FinalFigures if trial.result else Figures, path, trial.status | (trial.result or {}))
        if trial.spec.trial_id != trial.id:
            raise StoreError(f"{path}: not the spec that its id stands for (got {trial.id!r}); export again")
    return trials


def exported_rows(folder: Path, frame: str, problems: list[str], choice: Choice | None = None) -> pd.DataFrame:
    """A frame of rows in an export, or those of a choice; a damaged file is named in `problems`."""
    path, schema = folder / f"{frame}.parquet", schema_of(frame)
    try:
        index = folder / files.COMPACTED
        sums = sums_in(index, read_json(index)) or {}
        content = vouched(path, *sums[path.name]) if path.name in sums else unvouched(path)
        rows = parse_parquet(path, pa.py_buffer(content), schema)
    except StoreError as error:
        problems.append(str(error))
        rows = schema.empty_table()
    if choice:
        places = rows["trial"].to_pandas().groupby(rows["trial"].to_pandas(), sort=False).indices.values()
        rows = pa.concat_tables([rows.slice(0, 0), *(chosen_rows(rows.take(place), choice) for place in places)])
    return to_frame([rows])
