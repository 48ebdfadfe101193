"""On a GPU: whole runs. Interrupted ones end as others do, and what they store is what float64 says on the CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import initlab
from initlab.attempt import run_task
from initlab.attempt.assemble import bare_net
from initlab.store.checkpoint import read_checkpoint
from initlab.store.results import Results
from initlab.study.study import Study
from tests.gpu.conftest import images, spec

pytestmark = pytest.mark.gpu
Stop = Callable[[int], None]


def run(out: Path, device: torch.device, pack: int = 1, **sections: Any) -> Results:
    """A study of `spec` under the inline engine, in this process."""
    content = spec().model_dump(mode="json", include={"data", "net", "train", "probe"}, exclude_unset=True)
    content = {"name": "gpu", **content, **{k: {**content.get(k, {}), **v} for k, v in sections.items()}}
    study = Study.model_validate(content)
    return initlab.run(study, out, engine="inline", device=device.type, jobs=1, pack=pack, show="nothing")


def checkpoints(results: Results) -> list[dict[str, Any]]:
    """The last checkpoint of each trial."""
    return [
        read_checkpoint(trial / sorted(trial.glob("attempt-*"))[-1] / "checkpoint.pt") for trial in folders(results)
    ]


def folders(results: Results) -> list[Path]:
    """The trials' folders, in order."""
    return sorted((results.out / "trials").iterdir())


def flat(state: dict[str, Any]) -> Tensor:
    """All weights of a checkpoint in a row."""
    return torch.cat([value.double().flatten() for value in state["net"].values()])


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Stop:
    """Lets the next run be interrupted after so many updates."""

    def set_stop(steps: int) -> None:
        """`run_task` asks once before it begins."""
        stops = iter([False] * (steps + 1) + [True] * 1000)
        monkeypatch.setattr(run_task, "stop_check", lambda out: lambda: next(stops))

    return set_stop


def test_an_interrupted_trial_ends_with_the_very_weights_of_an_undisturbed_one(
    device: torch.device, tmp_path: Path, stop_after: Stop
) -> None:
    whole = run(tmp_path / "whole", device)
    for steps in (7, 4, 99):
        stop_after(steps)
        parts = run(tmp_path / "parts", device)
    assert parts.trials.attempts.tolist() == [3] and parts.trials.state.tolist() == ["done"]
    # To the bit, as cuDNN is told to be deterministic.
    assert torch.equal(flat(*checkpoints(parts)), flat(*checkpoints(whole)))
    assert parts.scalars.train_loss[1:].tolist() == whole.scalars.train_loss[1:].tolist()


def test_an_interrupted_pack_goes_on_alone(device: torch.device, tmp_path: Path, stop_after: Stop) -> None:
    grid = {"grid": {"seed": [0, 1]}}
    whole = run(tmp_path / "whole", device, **grid)
    stop_after(8)
    run(tmp_path / "parts", device, pack=2, **grid)
    stop_after(99)
    parts = run(tmp_path / "parts", device, **grid)
    assert parts.trials.state.tolist() == ["done"] * 2
    for one, other in zip(checkpoints(parts), checkpoints(whole), strict=True):
        # float32, 8 of the 20 updates in another order of sums
        torch.testing.assert_close(flat(one), flat(other), rtol=1e-3, atol=1e-5)


WHOLE_BATCH: dict[str, Any] = {  # every update is of all images, and the probe's batch is those too
    "data": {
        "name": "synthetic",
        "image_size": 16,
        "train_examples": 64,
        "val_examples": 32,
        "flip": False,
        "shift": 0,
    },
    "train": {"epochs": 6, "batch_size": 64, "dropout": 0.0, "precision": "float64"},
    "probe": {"every": 1, "examples": 64, "running_every": 2},
}
MOMENTS = ["forward_mean", "forward_var", "backward_mean", "backward_var"]


@pytest.mark.parametrize("pack", [1, 2], ids=["alone", "packed"])
def test_running_moments_are_what_the_probe_measured_before_the_same_update(
    device: torch.device, tmp_path: Path, pack: int
) -> None:
    results = run(tmp_path, device, pack=pack, **WHOLE_BATCH, grid={"seed": [0, 1]})
    running, signals = results.running, results.signals
    assert len(running) == 2 * 3 * 7 and running.step.unique().tolist() == [2, 4, 6]
    keys = ["trial", "step", "name"]
    joined = running.assign(step=running.step - 1).merge(signals, on=keys, suffixes=("", "_probe"), validate="1:1")
    assert len(joined) == len(running)
    for column in MOMENTS:  # the order of the images, so of sums, differs
        assert joined[column].tolist() == pytest.approx(joined[f"{column}_probe"].tolist(), rel=1e-9, abs=1e-13), column


def test_evaluate_gives_the_errors_that_float64_gives_on_the_cpu(device: torch.device, tmp_path: Path) -> None:
    results = run(tmp_path, device)
    cpu = images(torch.device("cpu"), torch.float64)
    net = bare_net(spec(), cpu).double()
    (state,) = checkpoints(results)
    net.load_state_dict(state["net"])
    net.eval()
    batches = list(cpu.val_batches(64))
    with torch.no_grad():
        error = 1 - torch.cat([net(x).argmax(1) == labels for x, labels in batches]).double().mean().item()
    tested = initlab.evaluate(folders(results)[0], device=device.type)
    assert tested.val_error == pytest.approx(error) == results.trials.val_error.iloc[0]
    # At the images' own side: pixels that a device resizes may differ from another's by a grey level.
    scores = [
        initlab.evaluate(folders(results)[0], "10", scales=[16], device=place).scores for place in ("cpu", device.type)
    ]
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-4, atol=1e-5)
