"""One trial in several processes: the numbers of one process, the same checkpoints, and what cannot be shared."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import initlab
from initlab.attempt import gang, run_task
from initlab.launch.settings import resolve
from initlab.nets.layers import StreamDropout, set_dropout_step
from initlab.store.checkpoint import read_checkpoint
from initlab.store.results import Results
from initlab.study.mistakes import StudyError
from initlab.study.study import Study
from initlab.train.group import ALONE, Group

# 20 steps that need everything shared: dropout masks, shifts, a learning rate that falls, slopes, a probe, parts of a
# batch, the gradient's norm
CONTENT: dict[str, Any] = {
    "name": "shared",
    "data": {"name": "digits", "train_examples": 320, "val_examples": 100, "shift": 1},
    "net": {"depth": 8, "width": 4, "activation": "prelu"},
    "train": {
        "epochs": 2.0,
        "lr": 0.01,
        "dropout": 0.3,
        "accumulate": 2,
        "clip_norm": 1.0,
        "log_every": 1,
        "precision": "float64",
        "schedule": "plateau",
        "patience": 1,
        "validate_every": 0.5,
    },
    "probe": {"every": 10, "examples": 8, "running_every": 3},
}
MOMENTS = ["samples", "forward_mean", "forward_var", "backward_mean", "backward_var"]
FIGURES = ["train_loss", "train_error", "val_loss", "val_error", "lr"]


def run(out: Path, devices: int, **train: Any) -> Results:
    study = Study.model_validate({**CONTENT, "train": {**CONTENT["train"], **train}})
    return initlab.run(study, out, device="cpu", jobs=1, devices=devices, show="nothing")


def weights(results: Results) -> Tensor:
    attempts = sorted(results.out.glob("trials/*/attempt-*/checkpoint.pt"))
    return torch.cat([value.double().flatten() for value in read_checkpoint(attempts[-1])["net"].values()])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run(tmp_path_factory.mktemp("alone"), 1)


def test_two_processes_agree_with_one_over_20_steps_in_float64(alone: Results, tmp_path: Path) -> None:
    both = run(tmp_path, 2)
    assert both.trials.state.tolist() == ["done"] and both.scalars.step.max() == 20
    assert (weights(both) - weights(alone)).abs().max() <= 1e-12
    torch.testing.assert_close(
        torch.tensor(both.scalars[FIGURES].to_numpy()),
        torch.tensor(alone.scalars[FIGURES].to_numpy()),
        rtol=0,
        atol=1e-12,
        equal_nan=True,
    )
    assert len(both.signals) == len(alone.signals) == 3 * 8  # one writer
    assert_same_moments(both, alone)


def assert_same_moments(results: Results, alone: Results) -> None:
    assert len(results.running) == 6 * 8 and results.running.name.tolist() == alone.running.name.tolist()
    assert results.running[MOMENTS].to_numpy() == pytest.approx(alone.running[MOMENTS].to_numpy(), rel=1e-9, abs=1e-12)


def test_the_first_step_agrees_in_float32(tmp_path: Path) -> None:
    one, two = (run(tmp_path / str(n), n, epochs=0.1, precision="float32") for n in (1, 2))
    assert one.scalars.step.max() == two.scalars.step.max() == 1
    assert (weights(one) - weights(two)).abs().max() <= 1e-5


def test_a_trial_goes_on_in_another_number_of_processes(
    alone: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for devices, steps in ((1, 5), (2, 7), (1, 99)):
        stops = iter([False] * (steps + 1) + [True])  # `run_task` asks once before it begins
        monkeypatch.setattr(run_task, "stop_check", lambda out, stops=stops: lambda: next(stops))
        results = run(tmp_path, devices)
    assert results.trials.attempts.tolist() == [3] and results.trials.state.tolist() == ["done"]
    assert results.scalars.step.tolist() == alone.scalars.step.tolist()
    assert (weights(results) - weights(alone)).abs().max() <= 1e-12
    assert results.scalars.train_loss.to_numpy()[1:] == pytest.approx(
        alone.scalars.train_loss.to_numpy()[1:], abs=1e-12
    )
    assert_same_moments(results, alone)


def test_a_process_that_dies_fails_the_trial_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gang, "JOIN_AND_FOLLOW", "initlab.errors:absent")
    (trial,) = run(tmp_path, 2).stored
    assert trial.status["state"] == "failed"
    assert "process 1 died" in trial.status["error"] and "absent" in trial.status["error"]


def test_parts_are_the_batch_in_equal_slices() -> None:
    assert [Group(rank, 4).part(32) for rank in range(4)] == [slice(0, 8), slice(8, 16), slice(16, 24), slice(24, 32)]
    assert ALONE.part(32) == slice(0, 32) and ALONE.agree(True) and ALONE.share("x") == "x" and ALONE.leads


def test_masks_are_drawn_for_the_whole_batch_and_sliced() -> None:
    layer, x = StreamDropout(0.5, "dropout1"), torch.ones(6, 5)
    set_dropout_step(layer, seed=1, step=2)
    whole = layer(x)
    parts = []
    for rank in range(3):
        set_dropout_step(layer, seed=1, step=2, rank=rank, size=3)
        parts.append(layer(x[:2]))
    assert torch.equal(torch.cat(parts), whole) and 0 < whole.count_nonzero() < 30


@pytest.mark.parametrize(
    ("content", "devices", "words"),
    [
        (
            {"train": {"batch_size": 32, "accumulate": 8}},
            8,
            r"train.batch_size: does not part into 64 equal slices \(got 32\); .* of --devices times train.accumulate",
        ),
        ({"train": {"batch_size": 30}}, 4, r"train.batch_size: does not part into 4 equal slices \(got 30\)"),
        ({"net": {"norm": "batch"}}, 2, r"net.norm: its statistics are the whole batch's \(got batch\)"),
        ({"train": {"auxiliary": [3]}}, 2, "train.auxiliary: the heads are trained in one process"),
        ({}, 0, r"--devices: out of range \(got 0\); allowed: 1 to 64"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_anything_is_written(
    content: dict[str, Any], devices: int, words: str, tmp_path: Path
) -> None:
    with pytest.raises(StudyError, match=words):
        initlab.run(Study.model_validate({"name": "s", **content}), tmp_path / "out", device="cpu", devices=devices)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"devices": 4}, r"--devices: too few GPUs here \(got 4\); allowed: up to 2, or --device cpu"),
        ({"devices": 2, "jobs": 2}, r"--devices: one trial at a time on several GPUs \(got --jobs 2\)"),
        (
            {"devices": 2, "engine": "ray", "gpus_per_trial": 0.5},
            r"--gpus-per-trial: each of several processes takes one GPU \(got 0.5\); leave it out, or give --devices 1",
        ),
    ],
)
def test_what_gpus_cannot_do_is_refused(
    settings: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("initlab.launch.settings.gpu_count", lambda: 2)
    with pytest.raises(StudyError, match=words):
        initlab.run(Study(name="s"), tmp_path / "out", device="cuda", **settings)


def test_trials_at_once_fill_the_gpus_of_this_machine_under_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("initlab.launch.settings.gpu_count", lambda: 8)
    study = Study(name="s")
    requested = [("ray", 2), ("ray", 8), ("ray", 1), ("inline", 2)]
    jobs = [resolve(study, {"engine": engine, "device": "cuda", "devices": n}).run.jobs for engine, n in requested]
    assert jobs == [4, 1, 8, 1]
