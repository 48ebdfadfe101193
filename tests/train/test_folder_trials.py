"""Trials on folders of pictures: the same numbers however they are read, interrupted or run; bad folders fail early."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import initlab
from initlab.plan.plan import plan
from initlab.store.files import CHECKPOINT, STOP, read_json
from initlab.study.mistakes import StudyError
from initlab.study.spec import TrialSpec
from initlab.study.study import Study
from tests.data.pictures import CLASSES, write_folder, write_picture

FOLDER: dict[str, Any] = {
    "name": "folder",
    "data": {"name": "imagefolder", "classes": 3, "crop": 12, "jitter": [14, 24], "color_std": 0.1, "flip": True},
    "net": {"depth": 5, "width": 4, "stages": 2, "linear_width": 8},
    "train": {"epochs": 4, "batch_size": 8, "lr": 0.01, "dropout": 0.2, "log_every": 1, "schedule": "plateau"},
    "probe": {"every": 4, "examples": 8},
}
TIMES = ["attempt", "images_per_s", "wall_s"]


def study(**sections: dict[str, Any]) -> Study:
    return Study.model_validate({**FOLDER, **{k: {**FOLDER.get(k, {}), **v} for k, v in sections.items()}})


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., initlab.Results]:
    """Runs the study on tmp_path/set into tmp_path/OUT, on the CPU."""
    write_folder(tmp_path / "set")
    monkeypatch.setenv("INITLAB_CACHE", str(tmp_path / "cache"))

    def run(out: str, jobs: int = 1, **sections: dict[str, Any]) -> initlab.Results:
        return initlab.run(
            study(**sections), tmp_path / out, jobs=jobs, device="cpu", data_dir=tmp_path / "set", show="nothing"
        )

    return run


def numbers(results: initlab.Results) -> str:
    scalars, signals = results.scalars.drop(columns=TIMES), results.signals.drop(columns="attempt")
    return scalars.to_csv(index=False) + signals.to_csv(index=False)


def weights(results: initlab.Results) -> list[torch.Tensor]:
    path = max(results.out.glob(f"trials/*/attempt-*/{CHECKPOINT}"))
    return list(torch.load(path, weights_only=True)["net"].values())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_trial_ends_bit_identical(
    workers: int, launched: Callable[..., initlab.Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from initlab.train.trial import Trial

    whole = launched("whole")
    update = Trial.update

    def stopping(trial: Trial) -> None:
        update(trial)
        if trial.step == 5:  # in the middle of the second of four epochs of three steps
            (tmp_path / "cut" / STOP).touch()

    monkeypatch.setattr("initlab.attempt.run_task.STOP_CHECK_S", -1.0)
    with monkeypatch.context() as patched:
        patched.setattr(Trial, "update", stopping)
        cut = launched("cut", run={"workers": workers})
    assert cut.trials.state.tolist() == ["interrupted"]
    again = launched("cut", run={"workers": workers})
    assert again.trials.state.tolist() == ["done"]
    assert again.trials.attempts.tolist() == [2]
    assert numbers(again) == numbers(whole)
    assert all(map(torch.equal, weights(again), weights(whole)))


def test_a_trial_in_a_process_of_its_own_reads_with_further_processes(launched: Callable[..., initlab.Results]) -> None:
    separate = launched("separate", jobs=2, run={"workers": 1}, train={"epochs": 1})
    assert separate.trials.state.tolist() == ["done"]
    assert numbers(separate) == numbers(launched("here", data={"cache": True}, train={"epochs": 1}))


def test_schemes_see_the_same_pictures(launched: Callable[..., initlab.Results]) -> None:
    results = launched("schemes", grid={"init.scheme": ["he", "gaussian"]}, train={"epochs": 0.34})
    first = results.signals[(results.signals.step == 0) & (results.signals.layer == 0)]
    assert len(first) == 2
    std = (2 / 27) ** 0.5
    ratio = first.forward_var.max() / first.forward_var.min()
    assert ratio == pytest.approx((std / 0.01) ** 2, rel=1e-4)


def test_pictures_on_the_device_are_decoded_once_for_all_trials_and_change_no_number(
    launched: Callable[..., initlab.Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from initlab.data import pictures

    for path in (tmp_path / "set").glob("*/*/*.jpg"):
        write_picture(path, (20, 20), len(CLASSES) + int(path.stem))
    sections: dict[str, Any] = {
        "data": {"jitter": None},
        "train": {"epochs": 1},
        "grid": {"init.scheme": ["he", "xavier"]},
    }
    read = launched("read", **sections)
    decode, decoded = pictures.decode, list[Path]()
    monkeypatch.setattr(pictures, "decode", lambda path, side: decoded.append(path) or decode(path, side))
    held = launched("held", run={"resident": True}, **sections)
    assert numbers(held) == numbers(read)
    assert len(decoded) == len(set(decoded)) == 42, "30 for training and 12 for validation"
    assert held.trials.trial.tolist() == read.trials.trial.tolist()


def test_a_bad_picture_fails_the_trial_in_one_line(launched: Callable[..., initlab.Results], tmp_path: Path) -> None:
    (tmp_path / "set/val/cat/001.jpg").write_text("x")
    results = launched("bad")
    (status,) = [trial.status for trial in results.stored]
    assert status["state"] == "failed"
    assert "val/cat/001.jpg: not a readable picture" in status["error"]
    assert "\n" not in status["error"]


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"data": {"classes": 4}}, r"has 3 class folders \(wanted 4\); set data.classes"),
        ({"data": {"jitter": [10, 24]}}, r"data.jitter: smaller than the crop \(got 10\); allowed: at least 12"),
        ({"data": {"jitter": [24, 14]}}, r"data.jitter: the wrong way round \(got \[24, 14\]\)"),
        ({"data": {"val_side": 11}}, r"data.val_side: smaller than the crop \(got 11\)"),
        ({"data": {"train_examples": 4}}, r"train.batch_size: larger than the training set \(got 8\)"),
        ({"net": {"stages": 6, "depth": 12}}, r"net.stages: too many for images of 12 pixels"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(
    sections: dict[str, Any], words: str, launched: Callable[..., initlab.Results], tmp_path: Path
) -> None:
    with pytest.raises((StudyError, ValueError), match=words):
        launched("never", **sections)
    assert not (tmp_path / "never").exists()


def test_a_training_set_smaller_than_the_batch_fails_in_one_line(launched: Callable[..., initlab.Results]) -> None:
    results = launched("small", train={"batch_size": 64})
    assert "train.batch_size: no step to train (got 64" in results.stored[0].status["error"]


def test_left_out_files_are_counted_aloud(
    launched: Callable[..., initlab.Results], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "set/train/ant/notes.txt").touch()
    initlab.run(study(train={"epochs": 0.34}), tmp_path / "out", device="cpu", jobs=1, data_dir=tmp_path / "set")
    assert "left out 1 files that are no pictures by their suffix, e.g. train/ant/notes.txt" in capsys.readouterr().out


def test_ids_hold_names_and_sizes_and_neither_folder_nor_workers() -> None:
    (trial,) = plan(study())
    (same,) = plan(study(run={"workers": 7}, data={"folder": "/elsewhere", "cache": True}))
    assert trial.id == same.id
    assert trial.spec.trial_id == TrialSpec.model_validate(trial.spec.model_dump()).trial_id
    assert trial.id not in {plan(study(data={"jitter": [14, 25]}))[0].id, plan(study(data={"crop": 13}))[0].id}


def test_statistics_are_measured_once_for_all_trials(launched: Callable[..., initlab.Results], tmp_path: Path) -> None:
    results = launched("grid", grid={"init.scheme": ["he", "xavier"], "seed": [0, 1]}, train={"epochs": 0.34})
    assert len(list((tmp_path / "cache").glob("statistics-*.npz"))) == 1
    assert [read_json(t.folder / "result.json")["chance"] for t in results.stored] == pytest.approx([2 / 3] * 4)


def test_a_trial_on_a_folder_is_tested_as_it_was_validated_and_at_any_scale(
    launched: Callable[..., initlab.Results], tmp_path: Path
) -> None:
    results = launched("out", train={"epochs": 1})
    (trial,) = results.stored
    tested = initlab.evaluate(trial.folder, data_dir=tmp_path / "set", device="cpu")
    assert tested.described["scales"] == [14], "8/7 of 12, as in validation"
    assert tested.val_error == pytest.approx(results.scalars.val_error.iloc[-1], abs=1e-12)
    assert tested.per_class.images.tolist() == [4, 4, 4]
    assert tested.per_class.name.tolist() == ["ant", "bee", "cat"]
    for views in ("10", "dense"):
        more = initlab.evaluate(trial.folder, views, [12, 17], data_dir=tmp_path / "set", device="cpu")
        assert more.scores.sum(1).tolist() == pytest.approx([1.0] * 12)
        few = initlab.evaluate(trial.folder, views, [12, 17], data_dir=tmp_path / "set", device="cpu", batch_size=1)
        assert torch.allclose(more.scores, few.scores, atol=1e-6), "mixed sizes, together or one by one"
