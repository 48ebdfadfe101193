"""Exported results: the same frames to the last bit, and clear words where they can't be read or written."""

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from initlab import load
from initlab.store import files
from initlab.store.export import FRAMES
from initlab.store.files import StoreError, read_json, write_json
from tests.store.test_store import RESULT, attempt, make_out


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Four trials: resumed, with slopes, diverged without a finite figure, and not begun."""
    path, folders = make_out(tmp_path / "out", seeds=4)
    attempt(folders[0], range(0, 5), checkpoint=3)
    second = attempt(folders[0], range(4, 8))
    second.close("done", RESULT, RESULT)
    learned = attempt(folders[1], range(0, 4), slopes=True)
    learned.close("done", RESULT, RESULT)
    lost = {**RESULT, "train_loss": float("nan"), "val_error": float("inf")}
    diverged = attempt(folders[2], range(0, 2))
    diverged.close("diverged", lost, lost)
    return path


def test_every_frame_is_the_same_to_the_last_bit(out: Path, tmp_path: Path) -> None:
    before = load(out)
    paths = before.export("parquet", tmp_path / "small")
    assert all(path.exists() for path in paths)
    after = load(tmp_path / "small")
    assert len(before.scalars) == 4 + 4 + 4 + 2 and before.signals.forward_var.min() == 1e-57, "resumed after step 3"
    for name in FRAMES:
        pd.testing.assert_frame_equal(getattr(after, name), getattr(before, name), check_exact=True)
    assert [trial.spec for trial in after.stored] == [trial.spec for trial in before.stored]
    assert (after.planned, after.problems) == (before.planned, [])
    text = (tmp_path / "small" / files.COMPACTED).read_text()
    assert '"host"' not in text and '"pid"' not in text, "what tells of the machine alone stays behind"


def test_csv_files_hold_every_number(out: Path, tmp_path: Path) -> None:
    results = load(out)
    paths = results.export("csv", tmp_path / "csv")
    assert [path.name for path in paths] == [f"{name}.csv" for name in FRAMES]
    read = pd.read_csv(tmp_path / "csv/signals.csv")
    pd.testing.assert_frame_equal(read, results.signals, check_dtype=False, check_exact=True)


def test_a_damaged_file_is_named_and_the_others_are_read(out: Path, tmp_path: Path) -> None:
    load(out).export("parquet", tmp_path / "small")
    path = tmp_path / "small/signals.parquet"
    path.write_bytes(path.read_bytes()[:100])
    results = load(tmp_path / "small")
    assert results.signals.empty and len(results.scalars) == 14
    assert len(results.problems) == 1 and "signals.parquet: damaged" in results.problems[0]


def test_what_a_newer_initlab_wrote_is_refused(out: Path, tmp_path: Path) -> None:
    load(out).export("parquet", tmp_path / "small")
    path = tmp_path / "small/scalars.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"initlab.schema": "99"}), path)
    content = read_json(tmp_path / "small" / files.COMPACTED)
    write_json(tmp_path / "small" / files.COMPACTED, {"trials": content["trials"]})
    results = load(tmp_path / "small")
    assert results.scalars.empty and "scalars.parquet: unknown schema (got 99)" in results.problems[0]
    write_json(tmp_path / "small" / files.COMPACTED, {**content, "schema": 99})
    with pytest.raises(StoreError, match=r"compacted.json: unknown schema \(got 99\)"):
        load(tmp_path / "small")


def test_nothing_is_written_over(out: Path, tmp_path: Path) -> None:
    for form in ("parquet", "csv"):
        with pytest.raises(StoreError, match=r"out: not empty; give a new folder"):
            load(out).export(form, out)
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot be written"):
        load(out).export("parquet", tmp_path / "file")
