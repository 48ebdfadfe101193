"""--skip-hopeless: what is stopped, what is said of it, and that nothing is lost by it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import initlab
from initlab.launch.folder import reopen, settled
from initlab.store.trial_folder import TrialFolder
from initlab.verdict.hopeless import stop_step
from tests.cli.test_cli import here as command
from tests.launch.test_launch import assert_same_numbers, run


@pytest.fixture
def study(tiny: Callable[..., Path]) -> Path:
    """Std 0.001 at 7 layers never moves; He learns: 8 epochs of 8 steps, probes at 0, 5, 10, ..."""
    return tiny(train={"epochs": 8, "lr": 0.02}, init={"scheme": "gaussian"}, grid={"init.std": [0.001, 0.25]})


def test_a_stalled_trial_is_stopped_at_half_and_a_run_without_the_flag_ends_it_bit_identical(
    study: Path, tmp_path: Path
) -> None:
    whole = run(study, tmp_path / "whole")
    assert whole.verdicts.verdict.tolist()[0] == "stalled" and whole.verdicts.verdict.tolist()[1] != "stalled"
    out = tmp_path / "a"
    stopped = run(study, out, skip_hopeless=True)
    assert stopped.trials.state.tolist() == ["stopped", "done"]
    assert stopped.trials.epochs_done.tolist() == [4.0, 8.0]
    first = stopped.verdicts.iloc[0]
    assert first.verdict == "stalled" and first.reason.endswith("; stopped as hopeless at epoch 4 of 8")
    again = run(study, out, skip_hopeless=True)
    assert again.trials.state.tolist() == ["stopped", "done"] and again.trials.attempts.tolist() == [1, 1]
    ended = run(study, out)
    assert ended.trials.state.tolist() == ["done", "done"] and ended.trials.attempts.tolist() == [2, 1]
    assert_same_numbers(ended, whole)


def test_in_a_pack_the_stalled_trial_leaves_where_it_is_stopped_alone(study: Path, tmp_path: Path) -> None:
    alone = run(study, tmp_path / "a", skip_hopeless=True)
    packed = run(study, tmp_path / "b", skip_hopeless=True, pack=2)
    assert packed.trials.state.tolist() == ["stopped", "done"]
    assert packed.trials.epochs_done.tolist() == [4.0, 8.0]
    assert packed.scalars.step.tolist() == alone.scalars.step.tolist()


def test_the_flag_changes_no_id_and_no_number_of_a_trial_that_learns(study: Path, tmp_path: Path) -> None:
    plain, skipping = run(study, tmp_path / "a"), run(study, tmp_path / "b", skip_hopeless=True)
    assert plain.trials.trial.tolist() == skipping.trials.trial.tolist()
    learns = plain.trials.trial.iloc[1]
    for results in (plain, skipping):
        results.scalars = results.scalars[results.scalars.trial == learns].reset_index(drop=True)
        results.signals = results.signals[results.signals.trial == learns].reset_index(drop=True)
    assert_same_numbers(plain, skipping)


def test_the_replay_of_a_finished_trial_says_when_the_flag_stops_it(study: Path, tmp_path: Path) -> None:
    whole = run(study, tmp_path / "whole")
    for trial, expected in zip(whole.stored, (32, None), strict=True):
        signals = whole.signals[whole.signals.trial == trial.id]
        probes = {step: rows.to_dict("records") for step, rows in signals.groupby("step")}
        rows = whole.scalars[whole.scalars.trial == trial.id].to_dict("records")
        found = stop_step(rows, probes, batch_size=32, steps_per_epoch=8, steps=64, chance=trial.status["chance"])
        assert found == expected


def test_the_command_counts_what_was_saved_and_ends_with_0(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "a"
    ran = command("run", study, "--out", out, "--jobs", 1, "--device", "cpu", "--skip-hopeless")
    assert ran.exit_code == 0, ran.stderr
    assert "stopped 1 hopeless trials, saved 32 of 128 steps" in ran.stdout
    assert re.search(r"plain-7 gaussian seed 0 init.std=0.001: stopped, epoch 4", ran.stdout)
    shown = command("status", out, "--trials")
    assert "1 stopped" in shown.stdout and "stopped, epoch 4" in shown.stdout


def test_a_stopped_trial_that_is_to_go_on_is_no_longer_called_so(study: Path, tmp_path: Path) -> None:
    results = run(study, tmp_path / "a", skip_hopeless=True)
    first, second = (TrialFolder(results.out, trial.id) for trial in results.stored)
    assert settled(first, skip_hopeless=True) and settled(second, skip_hopeless=False)
    assert not settled(first, skip_hopeless=False)
    reopen(first)  # as a launch does for those that it was asked for, before any runs
    reopen(second)
    assert initlab.load(tmp_path / "a").trials.state.tolist() == ["interrupted", "done"]
    assert initlab.load(tmp_path / "a").verdicts.verdict.isna().tolist() == [True, False]
