"""Several folders as one, units of columns, arrays with named dimensions, and a store read by DuckDB."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import initlab
from initlab import load
from tests.store.test_store import RESULT, attempt, make_out


def finished(path: Path, seeds: int) -> Path:
    """A folder of finished trials."""
    out, folders = make_out(path, seeds=seeds)
    for folder in folders:
        writer = attempt(folder, range(0, 4))
        writer.close("done", RESULT, RESULT)
    return out


def test_several_folders_are_one_with_a_column_of_the_study(tmp_path: Path) -> None:
    outs = [finished(tmp_path / "a", 1), finished(tmp_path / "b", 2)]
    both = load(*outs)
    assert isinstance(both, initlab.Studies) and len(both) == 2
    for frame in ("trials", "verdicts", "scalars", "signals"):
        joined = getattr(both, frame)
        assert joined.columns[0] == "study"
        assert dict(joined.study.value_counts()) == {str(out): len(getattr(load(out), frame)) for out in outs}, (
            "studies of one name go by their folders"
        )
    alone = load(outs[1]).scalars
    same = both.scalars[both.scalars.study == str(outs[1])].drop(columns="study").reset_index(drop=True)
    pd.testing.assert_frame_equal(same, alone, check_exact=True)
    assert both.slopes.empty and "study" in both.slopes


def test_frames_tell_the_units_of_their_columns(tmp_path: Path) -> None:
    results = load(finished(tmp_path / "out", 1))
    assert results.scalars.attrs["units"] == {
        "step": "updates",
        "epoch": "epochs",
        "images_per_s": "images/s",
        "wall_s": "s",
    }
    assert results.verdicts.attrs["units"] == {"epoch_reached": "epochs"}
    results.export("parquet", tmp_path / "small")
    assert load(tmp_path / "small").signals.attrs == results.signals.attrs


def test_xarray_has_every_number_under_its_names(tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    results = load(finished(tmp_path / "out", 2))
    dataset = results.to_xarray()
    for row in results.scalars.to_dict("records"):
        place = dataset.sel(trial=row["trial"], step=row["step"])
        assert np.array_equal(float(place.val_error), row["val_error"], equal_nan=True)
    for row in results.signals.to_dict("records"):
        place = dataset.sel(trial=row["trial"], probe_step=row["step"], layer=row["layer"])
        assert float(place.forward_var) == row["forward_var"] and str(place.name.values) == row["name"]
    assert list(dataset["init.scheme"].values) == ["he", "he"] and dataset.wall_s.attrs["units"] == "s"


def blocks(document: Path) -> list[str]:
    """The SQL in a document."""
    return [block.partition("```")[0] for block in document.read_text().split("```sql\n")[1:]]


def test_duckdb_reads_a_store_by_its_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    duckdb = pytest.importorskip("duckdb")
    out = finished(tmp_path / "OUT", 2)
    results = load(out)
    results.export("parquet", tmp_path / "small")
    of_export, of_folder = blocks(Path(__file__).parents[2] / "docs/store.md")
    monkeypatch.chdir(tmp_path / "small")
    view, best, variances = (statement for statement in of_export.split(";") if statement.strip())
    duckdb.sql(view)
    depth = results.trials["net.depth"][0]
    assert duckdb.sql(best).fetchall() == [("he", depth, results.scalars.val_error.min())]
    start = results.signals[results.signals.step == 0]
    means = np.log(start.forward_var).groupby(start.layer).mean()
    rows = duckdb.sql(variances).fetchall()
    assert [row[2] for row in rows] == list(means.index)
    assert [row[3] for row in rows] == pytest.approx(list(means), rel=1e-12)
    monkeypatch.chdir(tmp_path)
    curves = duckdb.sql(of_folder).df().sort_values(["trial", "step"]).reset_index(drop=True)
    ours = results.scalars.sort_values(["trial", "step"]).reset_index(drop=True)
    assert list(curves.trial) == list(ours.trial) and list(curves.step) == list(ours.step)
    np.testing.assert_array_equal(curves.val_error, ours.val_error)
