"""Results exported to trackers, read back with the trackers' own code; tests are skipped where one is not installed."""

import math
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from initlab import load
from initlab.cli import main
from initlab.errors import UserError
from initlab.store import trackers
from tests.store.test_store import RESULT, attempt, make_out


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A finished trial, one that diverged without a finite figure, and one that is not begun."""
    path, folders = make_out(tmp_path / "out", seeds=3)
    first = attempt(folders[0], range(0, 4))
    first.close("done", RESULT, RESULT)
    lost = {**RESULT, "train_loss": float("nan")}
    diverged = attempt(folders[1], range(0, 2))
    diverged.close("diverged", lost, lost)
    return path


def exported(out: Path, tracker: str) -> Path:
    folder = out.with_name(tracker)
    ran = CliRunner().invoke(main, ["export", str(out), "--to", tracker, "--folder", str(folder)])
    assert ran.exit_code == 0, ran.output
    assert str(folder) in ran.output and tracker in ran.output, "the command that shows them"
    return folder


def expected(out: Path) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """(step, validation error) and (step, log10 of the first layer's forward variance) of the first trial."""
    results = load(out)
    trial = results.trials.trial[0]
    curve, signals = (frame[frame.trial == trial] for frame in (results.scalars, results.signals))
    layer = signals[signals.name == signals.name.iloc[0]]
    errors = [(int(step), error) for step, error in zip(curve.step, curve.val_error, strict=True) if error == error]
    logs = [(int(step), math.log10(value)) for step, value in zip(layer.step, layer.forward_var, strict=True)]
    assert min(layer.forward_var) == 1e-57 and errors
    return errors, logs


def test_tensorboard_reads_the_runs(out: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = exported(out, "tensorboard")
    errors, logs = expected(out)
    assert len(list(folder.iterdir())) == 2, "the trial without rows has no run"
    events = accumulator.EventAccumulator(str(min(folder.iterdir())))
    events.Reload()
    layer = load(out).signals.name[0]
    for tag, points in (("val_error", errors), (f"log10_forward_var/{layer}", logs)):
        read = [(event.step, event.value) for event in events.Scalars(tag)]
        assert [step for step, _ in read] == [step for step, _ in points]
        assert [value for _, value in read] == pytest.approx([value for _, value in points], rel=1e-6), "32-bit floats"
    text = events.Tensors("trial/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| init.scheme | he |" in text and "| state | done |" in text


def test_mlflow_reads_the_runs(out: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    folder = exported(out, "mlflow")
    errors, logs = expected(out)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(load(out).study.name)
    runs = {run.data.tags["state"]: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"done", "diverged"}
    run = runs["done"]
    assert run.data.params["init.scheme"] == "he" and run.info.status == "FINISHED"
    layer = load(out).signals.name[0]
    for tag, points in (("val_error", errors), (f"log10_forward_var/{layer}", logs)):
        history = client.get_metric_history(run.info.run_id, tag)
        assert sorted((metric.step, metric.value) for metric in history) == points, "64-bit floats, to the last bit"


def test_trackio_reads_the_runs(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("trackio") is None:
        pytest.skip("trackio is not installed")
    # So that what the export sets is taken back; Trackio itself is first imported by it.
    monkeypatch.setenv("TRACKIO_DIR", "")
    folder = exported(out, "trackio")
    from trackio.sqlite_storage import SQLiteStorage as storage

    errors, _ = expected(out)
    study = load(out).study.name
    assert (folder / f"{study}.db").exists()
    names = storage.get_runs(study)
    assert len(names) == 2
    rows = storage.get_logs(study, sorted(names)[0])
    assert [(row["step"], row["val_error"]) for row in rows if "val_error" in row] == errors


def test_a_tracker_that_is_not_installed_is_named(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"mlflow is not installed; pip install 'initlab\[mlflow\]'"):
        trackers.export_to_tracker(load(out), "mlflow", out.with_name("new"))
    assert not out.with_name("new").exists()


def test_a_folder_that_holds_something_is_left_alone(out: Path) -> None:
    ran = CliRunner().invoke(main, ["export", str(out), "--to", "tensorboard", "--folder", str(out)])
    assert ran.exit_code == 2 and "not empty; give a new folder" in ran.output
