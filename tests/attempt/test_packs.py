"""Packs of a launch: what goes together, and the same ids, store, verdicts and numbers as alone."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import initlab
from initlab import Results, StudyError
from initlab.attempt.attempt import Attempt
from initlab.attempt.run_task import run_task, runs_as_pack
from initlab.engine.task import Answer, DataAccess, Provenance, Task, TrialEnd
from initlab.launch.settings import resolve
from initlab.launch.tasks import notes, retried_alone, tasks
from initlab.plan.packs import packs
from initlab.plan.plan import PlannedTrial, plan
from initlab.study.run_options import Run
from initlab.study.study import Study

NOBODY = Provenance(command="", git_commit=None)
GRID = {"init.scheme": ["gaussian", "xavier", "he"], "seed": [0, 1, 2, 3], "net.depth": [22, 30]}


def trials(**sections: object) -> list[PlannedTrial]:
    return plan(Study.model_validate({"name": "s", "data": {"image_size": 16}, **sections}))


@pytest.mark.parametrize(
    ("size", "sizes"), [(1, [1] * 24), (24, [12, 12]), (12, [12, 12]), (11, [6] * 4), (5, [4] * 6), (2, [2] * 12)]
)
def test_packs_are_of_one_depth_and_cut_evenly(size: int, sizes: list[int]) -> None:
    found, lines = packs(trials(grid=GRID), size)
    assert sorted(map(len, found)) == sizes
    assert lines == []
    assert all(len({trial.spec.net.depth for trial in pack}) == 1 for pack in found)
    assert {trial.id for pack in found for trial in pack} == {trial.id for trial in trials(grid=GRID)}


@pytest.mark.parametrize(
    ("grid", "count"),
    [
        ({"train.lr": [0.1, 0.01], "train.momentum": [0.5, 0.9], "train.weight_decay": [0, 1e-4]}, 1),
        ({"data.scale": [1.0, 16.0], "data.flip": [True, False], "probe.every": [0, 10]}, 1),
        ({"probe.running_every": [0, 5, 20]}, 1),
        ({"train.schedule": ["constant", "cosine"], "train.validate_every": [0.5, 1]}, 1),
        ({"train.clip_norm": [None, 1.0], "train.warmup_epochs": [0.0, 1.0]}, 1),
        ({"train.batch_size": [32, 64]}, 2),
        ({"train.optimizer": ["sgd", "adamw"]}, 2),
        ({"train.decay_exempt": ["none", "norms_and_biases"]}, 2),
        ({"train.epochs": [14, 15]}, 2),
        ({"train.precision": ["float32", "float64"]}, 2),
        ({"train.dropout": [0.0, 0.5]}, 2),
        ({"net.activation": ["relu", "prelu"]}, 2),
        ({"data.train_examples": [500, 600]}, 2),
        ({"data.image_size": [16, 32]}, 2),
    ],
)
def test_what_sets_packs_apart(grid: dict[str, list], count: int) -> None:
    found, _ = packs(trials(grid={**grid, "seed": [0, 1]}), 100)
    assert len(found) == count


def test_trials_that_run_alone_are_counted_with_their_reasons() -> None:
    asked = trials(cases=[{"net.norm": "batch"}, {"train.auxiliary": [3]}, {"seed": 7}, {"seed": 8}, {"net.depth": 22}])
    found, lines = packs(asked, 4)
    assert sorted(map(len, found)) == [1, 1, 1, 2]
    assert lines == [
        "--pack 4: 3 of 5 trials run alone: 1 (BatchNorm), 1 (auxiliary classifiers), "
        "1 (no other of their net, batch size, precision, optimiser and steps)"
    ]


def test_optimisers_that_no_pack_can_take_run_alone() -> None:
    grid = {"train.optimizer": ["muon", "torch.optim:NAdam", "adamw"], "train.accumulate": [1, 2]}
    found, lines = packs(trials(grid={**grid, "seed": [0, 1]}), 2)
    assert sorted(map(len, found)) == [1] * 10 + [2]
    assert lines == [
        "--pack 2: 10 of 12 trials run alone: 4 (the optimiser muon), 4 (the optimiser torch.optim:NAdam), "
        "2 (accumulated gradients)"
    ]


def run(study: Path, out: Path, **options: object) -> Results:
    defaults = {"device": "cpu", "jobs": 1, "show": "nothing"}
    return initlab.run(study, out, **{**defaults, **options})  # type: ignore[arg-type]


def assert_same(alone: Results, packed: Results) -> None:
    """Within what float64 rounds."""
    assert alone.trials.trial.tolist() == packed.trials.trial.tolist()
    pd.testing.assert_frame_equal(alone.verdicts, packed.verdicts)
    times = ["images_per_s", "wall_s", "attempt"]
    for one, other in ((alone.scalars, packed.scalars), (alone.signals, packed.signals)):
        one, other = (frame.drop(columns=[c for c in times if c in frame]) for frame in (one, other))
        pd.testing.assert_frame_equal(one, other, rtol=1e-9, atol=1e-15)


DOUBLE = {"epochs": 2, "lr": 0.01, "log_every": 3, "precision": "float64"}


def test_a_packed_study_has_the_store_of_one_run_alone(tiny: Callable[..., Path], tmp_path: Path) -> None:
    study = tiny(train=DOUBLE, grid={"init.scheme": ["xavier", "he"], "train.lr": [0.01, 1e9]})
    alone, packed = run(study, tmp_path / "a"), run(study, tmp_path / "b", pack=4)
    assert sorted(packed.trials.state) == ["diverged", "diverged", "done", "done"]
    assert_same(alone, packed)
    one = tmp_path / "b" / "trials" / packed.trials.trial[0]
    assert json.loads((one / "result.json").read_text())["packed"] == 4
    files = [{p.relative_to(tmp_path / out).as_posix() for p in (tmp_path / out).rglob("*")} for out in "ab"]
    assert files[0] == files[1]
    checkpoint, same = (tmp_path / out / one.relative_to(tmp_path / "b") / "attempt-000/checkpoint.pt" for out in "ba")
    assert checkpoint.stat().st_size == pytest.approx(same.stat().st_size, rel=0.05)  # its own weights, not the pack's


def test_a_packed_study_has_the_running_moments_of_one_run_alone(tiny: Callable[..., Path], tmp_path: Path) -> None:
    study = tiny(train=DOUBLE, grid={"seed": [0, 1], "probe.running_every": [2, 3]})
    alone, packed = run(study, tmp_path / "a"), run(study, tmp_path / "b", pack=4)
    assert_same(alone, packed)
    records = [json.loads(path.read_text()) for path in (tmp_path / "b").glob("trials/*/result.json")]
    assert [record["packed"] for record in records] == [4] * 4
    one, other = (results.running.drop(columns="attempt") for results in (alone, packed))
    assert one.trial.nunique() == 4
    pd.testing.assert_frame_equal(one, other, rtol=1e-9, atol=1e-12)  # a mean is a difference


def test_the_study_says_how_many_make_a_pack_and_the_caller_overrules_it(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    study = tiny(train={**DOUBLE, "epochs": 1}, run={"pack": 2}, grid={"seed": [0, 1, 2, 3]})
    packed = run(study, tmp_path / "b")
    assert_same(run(study, tmp_path / "a", pack=1), packed)
    found = [json.loads(p.read_text()).get("packed") for p in sorted((tmp_path / "b").glob("trials/*/result.json"))]
    assert found == [2, 2, 2, 2]


def test_a_stopped_pack_goes_on(tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny(train=DOUBLE, grid={"seed": [0, 1]})
    alone = run(study, tmp_path / "a")
    calls = iter(range(100))
    monkeypatch.setattr("initlab.attempt.run_task.stop_check", lambda out: lambda: next(calls) >= 9)
    stopped = run(study, tmp_path / "b", pack=2)
    assert stopped.trials.state.tolist() == ["interrupted", "interrupted"]
    monkeypatch.undo()
    resumed = run(study, tmp_path / "b", pack=2)
    assert resumed.trials.state.tolist() == ["done", "done"]
    assert resumed.trials.attempts.tolist() == [2, 2]
    assert_same(alone, resumed)


def test_a_trial_that_fails_to_start_leaves_the_others_of_its_pack(tiny: Callable[..., Path], tmp_path: Path) -> None:
    study = initlab.load_study(tiny(train={"epochs": 1}, grid={"seed": [0, 1, 2]}))
    pack = plan(study)
    sources = {trial.id: {"data.name": "what it was before"} if trial.spec.seed == 1 else {} for trial in pack}
    settings = resolve(study, {"engine": "inline", "jobs": 1, "device": "cpu", "pack": 3})
    (task,) = tasks(tmp_path, [pack], sources, settings)
    answer = run_task(task)
    assert [end.state for end in answer.ends] == ["done", "failed", "done"]
    assert (answer.stop_requested, answer.died, answer.alone_because) == (False, False, None)
    states = [json.loads((tmp_path / "trials" / t.id / "status.json").read_text())["state"] for t in pack]
    assert states == ["done", "failed", "done"]


def test_the_unfinished_trials_of_a_pack_whose_process_died_are_asked_for_again(tmp_path: Path) -> None:
    ids = [trial.id for trial in trials(grid={"seed": [0, 1, 2, 3]})]
    for trial_id in ids:
        (tmp_path / "trials" / trial_id).mkdir(parents=True)
    (tmp_path / "trials" / ids[1] / "result.json").write_text('{"schema": 1}')

    def answer(ids: list[str], died: bool) -> Answer:
        return Answer(ends=tuple(TrialEnd(trial=i, state="failed", error="signal 9") for i in ids), died=died)

    assert retried_alone(tmp_path, answer(ids[:3], died=True)) == [ids[0], ids[2]]
    assert retried_alone(tmp_path, answer(ids[:3], died=False)) == []
    assert retried_alone(tmp_path, answer(ids[3:], died=True)) == []


class Sorting(nn.Module):
    """Branches on what it sees, which torch cannot do for several at once."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.mean() > 0 else -x


def sorting(num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    return nn.Sequential(nn.Flatten(), Sorting(), nn.Linear(int(np.prod(input_shape)), num_classes))


@pytest.mark.parametrize("name", ["tests.attempt.test_packs:sorting", "tests.engine.mine:noisy"])
def test_nets_of_yours_that_cannot_be_packed_run_alone_and_one_line_says_so(
    name: str, tiny: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tiny(net={"name": name}, grid={"seed": [0, 1]})
    alone = run(study, tmp_path / "a", allow_code=True)
    packed = run(study, tmp_path / "b", allow_code=True, pack=2, show="lines")
    assert packed.trials.state.tolist() == ["done", "done"]
    pd.testing.assert_series_equal(alone.scalars.train_loss, packed.scalars.train_loss, check_exact=True)
    said = [line for line in capsys.readouterr().out.splitlines() if "ran alone" in line]
    assert len(said) == 1
    assert "torch cannot run the net for several at once" in said[0]


def test_a_net_of_yours_that_torch_can_run_for_several_is_packed(tiny: Callable[..., Path], tmp_path: Path) -> None:
    study = tiny(net={"name": "tests.engine.mine:net"}, train=DOUBLE, grid={"seed": [0, 1]})
    assert_same(run(study, tmp_path / "a", allow_code=True), run(study, tmp_path / "b", allow_code=True, pack=2))


@pytest.mark.slow
def test_a_pack_whose_process_dies_is_taken_apart(tiny: Callable[..., Path], tmp_path: Path) -> None:
    study = tiny(
        net={"name": "tests.engine.mine:net", "options": {"kill": "always"}}, train={"epochs": 1}, grid={"seed": [0, 1]}
    )
    results = run(study, tmp_path / "a", jobs=2, allow_code=True, pack=2)
    assert results.trials.state.tolist() == ["failed", "failed"]
    assert all("signal 9" in trial.status["error"] for trial in results.stored)


@pytest.mark.parametrize("pack", [0, -3])
def test_a_pack_out_of_range_is_refused(pack: int, tiny: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=rf"--pack: out of range \(got {pack}\); allowed: at least 1"):
        run(tiny(), tmp_path / "a", pack=pack)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("changes", "sections", "expected"),
    [
        ({}, {}, True),
        ({"compile": None}, {}, True),
        ({"compile": False}, {}, False),
        ({"device": "cpu"}, {}, False),
        ({"devices": 2}, {}, False),
        ({}, {"net": {"norm": "batch"}}, False),
        ({}, {"net": {"width": 512}, "train": {"batch_size": 64}}, False),  # 1.5e12 FLOP a step
    ],
)
def test_a_small_net_alone_runs_as_a_pack_of_one_on_a_gpu(
    changes: dict[str, object], sections: dict[str, object], expected: bool
) -> None:
    (trial,) = trials(**sections)
    run = Run.model_validate({"device": "cuda", "compile": True, **changes})
    attempt = object.__new__(Attempt)  # without its folder, which plays no part here
    attempt.task = Task(out="", trials=("t",), run=run, access=DataAccess(), provenance=NOBODY)
    attempt.spec, attempt.device = trial.spec, torch.device(run.device or "cpu")
    assert runs_as_pack(attempt) is expected


def test_trials_that_ran_uncompiled_are_named_by_reason() -> None:
    reasons = {"a": "no triton", "b": None, "c": "no triton"}
    ends = tuple(TrialEnd(trial=i, state="done", uncompiled_because=reason) for i, reason in reasons.items())
    assert list(notes(Answer(ends=ends))) == ["a, c: ran uncompiled: no triton"]
    assert list(notes(Answer(ends=ends[1:2]))) == []


def test_how_a_gpu_is_used_is_not_part_of_a_trial_and_a_cpu_ignores_it(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    plain = run(tiny(), tmp_path / "a")
    asked = run(tiny(run={"compile": True, "channels_last": True}), tmp_path / "b")
    assert asked.trials.trial.tolist() == plain.trials.trial.tolist()
    columns = ["trial", "step", "train_loss", "val_loss"]
    pd.testing.assert_frame_equal(asked.scalars[columns], plain.scalars[columns], check_exact=True)
    assert all("eager" not in stored.status for stored in asked.stored)
