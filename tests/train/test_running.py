"""Running moments in training: when they are taken, that they change nothing, and that they go on after a stop."""

from pathlib import Path
from typing import Any

import pytest

import initlab
from initlab.attempt import run_task
from initlab.plan.cost import RUNNING_ROW_BYTES, cost
from initlab.store.columns import names
from initlab.store.results import Results
from initlab.study.spec import TrialSpec
from initlab.study.study import Study
from tests.train.test_trial import HARD, same_weights, spec, train

MOMENTS = ["forward_mean", "forward_var", "backward_mean", "backward_var"]


def running(every: int, **sections: dict[str, Any]) -> TrialSpec:
    return spec(**{**sections, "probe": {"running_every": every, **sections.get("probe", {})}})


def test_ids_are_those_of_before_where_it_is_off() -> None:
    assert TrialSpec().probe.running_every == 0
    assert spec(probe={"running_every": 0}).trial_id == spec().trial_id != running(3).trial_id


@pytest.mark.parametrize("sections", [{}, HARD, {"train": {"auxiliary": (2,)}}], ids=["plain", "hard", "auxiliary"])
def test_the_trajectory_is_bit_identical_with_and_without_them(sections: dict[str, Any]) -> None:
    watched, records, _ = train(running(1, **sections))
    plain, without, _ = train(spec(**sections))
    assert same_weights(watched, plain)
    assert records.timeless() == without.timeless()
    assert repr(records.probes) == repr(without.probes)
    assert len(records.moment_rows) == 6 and without.moment_rows == []


def test_rows_hold_the_updates_sampled_since_the_row_before() -> None:
    # 18 updates, rows at 0, 4, 6, 8, 12, 16, 18; the 5th, 10th and 15th update are sampled
    memory = train(running(5))[1]
    assert [(step, {row["samples"] for row in rows}) for step, _, rows in memory.moment_rows] == [
        (6, {1}),
        (12, {1}),
        (16, {1}),
    ]
    assert [epoch for _, epoch, _ in memory.moment_rows] == pytest.approx([1, 2, 16 / 6])
    by_two = train(running(2, train={"log_every": 100}))[1]
    assert [(step, rows[0]["samples"]) for step, _, rows in by_two.moment_rows] == [(6, 3), (12, 3), (18, 3)]


WHOLE: dict[str, Any] = {  # every update is of all images, and the probe's batch is those too
    "name": "whole",
    "data": {"name": "digits", "train_examples": 64, "val_examples": 20, "flip": False},
    "net": {"depth": 7, "width": 4},
    "train": {"epochs": 6.0, "lr": 0.02, "batch_size": 64, "log_every": 1, "precision": "float64"},
    "probe": {"every": 1, "examples": 64, "running_every": 2},
}


def run(out: Path, **train: Any) -> Results:
    study = Study.model_validate({**WHOLE, "train": {**WHOLE["train"], **train}})
    return initlab.run(study, out, device="cpu", jobs=1, show="nothing")


def test_the_frame_holds_what_the_probe_measured_before_the_same_update(tmp_path: Path) -> None:
    results = run(tmp_path)
    frame = results.running
    assert list(frame.columns) == names("running")
    assert frame.step.tolist() == [2] * 7 + [4] * 7 + [6] * 7
    probed = results.signals[results.signals.step.isin([1, 3, 5])]
    keys = ["layer", "name", "op"]
    assert frame[keys].to_numpy().tolist() == probed[keys].to_numpy().tolist()
    for column in MOMENTS:  # the order of the images, so of sums, differs
        assert frame[column].to_numpy() == pytest.approx(probed[column].to_numpy(), rel=1e-10, abs=1e-14), column
    stored = next(tmp_path.glob("trials/*/attempt-000/running.jsonl")).read_bytes()
    assert len(stored) / len(frame) == pytest.approx(RUNNING_ROW_BYTES, rel=0.1)
    without = results.stored[0].spec.model_copy(update={"probe": TrialSpec().probe.model_copy(update={"every": 1})})
    more = cost(results.stored[0].spec).storage_bytes - cost(without).storage_bytes
    assert more == 21 * RUNNING_ROW_BYTES


def test_a_resumed_trial_has_every_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole", log_every=3).running
    for steps in (2, 1, 99):
        stops = iter([False] * (steps + 1) + [True])  # `run_task` asks once before it begins
        monkeypatch.setattr(run_task, "stop_check", lambda out, stops=stops: lambda: next(stops))
        results = run(tmp_path / "parts", log_every=3)
    assert results.trials.attempts.tolist() == [3]
    assert results.running.drop(columns="attempt").equals(whole.drop(columns="attempt"))


@pytest.mark.parametrize("stop_at", [1, 5, 7, 12])
def test_open_sums_go_on_after_an_interruption(stop_at: int) -> None:
    trial_spec = running(3, **HARD, probe={"every": 0})
    trial_spec = trial_spec.model_copy(update={"train": trial_spec.train.model_copy(update={"log_every": 100})})
    whole = train(trial_spec)[1]
    calls = iter(range(10_000))
    before = train(trial_spec, should_stop=lambda: next(calls) >= stop_at)[1]
    after = train(trial_spec, resumed=before.states[-1])[1]
    assert repr(before.moment_rows + after.moment_rows) == repr(whole.moment_rows)
    assert [step for step, _, _ in whole.moment_rows] == [6, 12, 18]
