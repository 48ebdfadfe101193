"""Shards: parts of a study in processes of their own give the store that one launch gives."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import initlab
from initlab import StudyError, load
from initlab.engine.lease import Held, lease
from initlab.plan.plan import plan, shard_of
from initlab.study.shard import Shard
from initlab.study.study import load_study
from tests.launch.test_launch import assert_same_numbers, run

ROOT = Path(__file__).parents[2]


def test_three_shards_at_the_same_time_give_the_same_store_as_one_run(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    study = tiny(grid={"init.scheme": ["xavier", "he"], "seed": [0, 1, 2]}, train={"epochs": 1})
    options = ["--out", str(tmp_path / "parts"), "--jobs", "1", "--device", "cpu"]
    command = [sys.executable, "-m", "initlab", "run", str(study), *options, "--shard"]
    processes = [
        subprocess.Popen([*command, f"{k}/3"], cwd=ROOT, stdout=subprocess.PIPE, text=True) for k in range(1, 4)
    ]
    printed = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 3, printed
    whole, parts = run(study, tmp_path / "whole"), load(tmp_path / "parts")
    assert parts.trials.state.tolist() == ["done"] * 6 and parts.trials.attempts.tolist() == [1] * 6
    assert_same_numbers(whole, parts)
    files = [sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if ".lease" not in path.name)
             for out in (tmp_path / "whole", tmp_path / "parts")]  # fmt: skip
    assert files[0] == files[1]
    assert (tmp_path / "whole" / "study.yaml").read_bytes() == (tmp_path / "parts" / "study.yaml").read_bytes()


def test_every_trial_is_in_one_shard_whatever_others_the_study_has(tiny: Callable[..., Path]) -> None:
    def parts(seeds: list[int]) -> dict[str, int]:
        trials = plan(load_study(tiny(grid={"init.scheme": ["xavier", "he"], "seed": seeds})))
        return {trial.id: shard_of(trial, 3) for trial in trials}

    few, many = parts([5]), parts(list(range(40)))
    assert few.items() <= many.items()
    # 80 throws of a die with three sides: each side 27 times, give or take 4 standard deviations of 4.2.
    assert {shard for shard, n in ((k, list(many.values()).count(k)) for k in many.values()) if 10 < n < 44} == {
        1,
        2,
        3,
    }
    assert Shard.number_of("t00000000000b", 4) == 4  # 11 = 2 * 4 + 3, counted from 1


def test_a_trial_is_in_the_shard_of_the_shallow_one_that_it_starts_from(tiny: Callable[..., Path]) -> None:
    study = tiny(
        net={"depth": 9}, train={"shallow_depth": 7}, grid={"train.lr": [0.01, 0.02, 0.03, 0.04], "seed": [0, 1]}
    )
    trials = plan(load_study(study))
    shallow = {(t.spec.seed, t.spec.train.lr): shard_of(t, 7) for t in trials if t.spec.net.depth == 7}
    assert len(shallow) == 8 and len(set(shallow.values())) > 2
    assert {(t.spec.seed, t.spec.train.lr): shard_of(t, 7) for t in trials if t.spec.net.depth == 9} == shallow


@pytest.mark.parametrize("text", ["0/4", "5/4", "x/y", "1", "1/0", "-1/4", "1/4/2", "", "1/99999999", "１/4"])
def test_a_shard_that_is_none_is_refused_in_one_line(text: str, tiny: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(
        StudyError, match=r"--shard: no such part \(got '.*'\); allowed: K/N with K from 1 to N"
    ) as error:
        run(tiny(), tmp_path / "a", shard=text)
    assert len(error.value.lines) == 1 and not (tmp_path / "a").exists()


def test_shards_share_a_folder_with_those_of_the_same_count_alone(tmp_path: Path) -> None:
    with lease(tmp_path, Shard(1, 2)), lease(tmp_path, Shard(2, 2)):
        for other in (Shard(2, 2), Shard(3, 3), None):
            with (
                pytest.raises(Held, match=r"held by another launch \(host .*, pid \d+, since .*, shard [12]/2\)"),
                lease(tmp_path, other),
            ):
                pass
    with lease(tmp_path), pytest.raises(Held), lease(tmp_path, Shard(1, 2)):
        pass
    with lease(tmp_path, Shard(3, 3)):
        pass


def test_one_shard_stopped_leaves_the_others_running(tiny: Callable[..., Path], tmp_path: Path) -> None:
    study = tiny(grid={"seed": [0, 1, 2, 3, 4, 5]}, train={"epochs": 1})
    trials = plan(load_study(study))
    (tmp_path / "a").mkdir()
    with lease(tmp_path / "a", Shard(2, 2)):
        # Of another shard, of which this one knows nothing; then of all, while the other still has to see it.
        (tmp_path / "a" / "STOP-2-of-2").touch()
        first = run(study, tmp_path / "a", shard="1/2", max_trials=1)
        assert first.trials.state.value_counts().to_dict() == {"done": 1, "pending": 5}
        (tmp_path / "a" / "STOP").touch()
        run(study, tmp_path / "a", shard="1/2")
    assert (tmp_path / "a" / "STOP").exists()
    assert len(load(tmp_path / "a").trials.query("state == 'done'")) == 1
    mine = [trial.id for trial in trials if shard_of(trial, 2) == 1]
    assert run(study, tmp_path / "a", shard="1/2").trials.query("state == 'done'").trial.tolist() == mine
    assert not (tmp_path / "a" / "STOP").exists()


def test_trials_finished_before_are_told_from_those_left_for_later(
    tiny: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tiny(grid={"seed": [0, 1, 2]}, train={"epochs": 1})
    for before in ("", " (1 finished before)"):
        initlab.run(study, tmp_path / "a", jobs=1, device="cpu", max_trials=1)
        assert f"1 of 3 trials to run{before}, into" in capsys.readouterr().out
