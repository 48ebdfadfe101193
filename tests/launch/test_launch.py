"""Launching studies in this process and in workers: same numbers, failures contained, nothing run twice."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import initlab
from initlab import Results, StudyError
from initlab.engine.lease import Held, lease
from initlab.launch.machine import command_line
from initlab.plan.plan import plan
from initlab.store.files import StoreError

TIMES = ["images_per_s", "wall_s"]
HERE = {"isolate": "none"}  # a net of one's own in this process, where torch is up, as all others


def run(study: Path, out: Path, jobs: int = 1, **options: object) -> Results:
    return initlab.run(study, out, jobs=jobs, device="cpu", show="nothing", **options)  # type: ignore[arg-type]


def assert_same_numbers(a: Results, b: Results) -> None:
    attempt = ["attempt"]
    pd.testing.assert_frame_equal(
        a.scalars.drop(columns=TIMES + attempt), b.scalars.drop(columns=TIMES + attempt), check_exact=True
    )
    pd.testing.assert_frame_equal(a.signals.drop(columns=attempt), b.signals.drop(columns=attempt), check_exact=True)


@pytest.fixture
def pair(tiny: Callable[..., Path]) -> Path:
    return tiny(grid={"init.scheme": ["xavier", "he"]})


def test_one_process_and_two_give_the_same_numbers(tiny: Callable[..., Path], tmp_path: Path) -> None:
    # One of them a user's net, with a parameter and dropout of its own.
    study = tiny(run=HERE, cases=[{"init.scheme": "xavier"}, {"net.name": "tests.engine.mine:noisy"}])
    here, workers = (run(study, tmp_path / str(jobs), jobs=jobs, allow_code=True) for jobs in (1, 2))
    assert here.trials.state.tolist() == ["done", "done"]
    assert_same_numbers(here, workers)


def test_a_second_run_does_only_what_has_no_result(pair: Path, tmp_path: Path) -> None:
    first = run(pair, tmp_path / "a", only=[plan(initlab.load_study(pair))[0].id])
    assert first.trials.state.tolist() == ["done", "pending"]
    second = run(pair, tmp_path / "a")
    assert second.trials.state.tolist() == ["done", "done"]
    assert second.trials.attempts.tolist() == [1, 1]
    assert run(pair, tmp_path / "a").trials.attempts.tolist() == [1, 1]
    assert_same_numbers(second, run(pair, tmp_path / "b"))


def test_exported_results_are_read_alike_and_not_added_to(pair: Path, tmp_path: Path) -> None:
    results = run(pair, tmp_path / "a")
    results.export("parquet", tmp_path / "small")
    small = initlab.load(tmp_path / "small")
    assert_same_numbers(results, small)
    pd.testing.assert_frame_equal(small.forecasts, results.forecasts)
    with pytest.raises(StoreError, match="small: holds exported results, which can't be added to; give another --out"):
        run(pair, tmp_path / "small")
    assert not (tmp_path / "small" / ".lease").exists()


def test_force_makes_a_fresh_attempt_with_the_same_numbers(pair: Path, tmp_path: Path) -> None:
    first = run(pair, tmp_path / "a")
    before = first.scalars, first.signals
    forced = run(pair, tmp_path / "a", force=True)
    assert forced.trials.attempts.tolist() == [2, 2]
    assert forced.scalars.attempt.unique().tolist() == [1]
    pd.testing.assert_frame_equal(
        before[0].drop(columns=[*TIMES, "attempt"]), forced.scalars.drop(columns=[*TIMES, "attempt"])
    )


def test_a_changed_study_adds_its_trials_and_keeps_the_old_ones(tiny: Callable[..., Path], tmp_path: Path) -> None:
    run(tiny(grid={"seed": [0, 1]}), tmp_path / "a")
    results = run(tiny(grid={"seed": [1, 2]}), tmp_path / "a")
    trials = results.trials.set_index("seed")
    assert trials.in_study.to_dict() == {0: False, 1: True, 2: True}
    assert trials.attempts.tolist() == [1, 1, 1]


def test_a_trial_that_raises_is_recorded_with_its_traceback_and_the_others_go_on(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    study = tiny(
        net={"name": "tests.engine.mine:net"},
        run=HERE,
        cases=[{"net.options": {"fail": True}}, {"net.options": {"hidden": 4}}],
    )
    results = run(study, tmp_path / "a", allow_code=True)
    states = dict(zip(results.trials["net.options"].astype(str), results.trials.state, strict=True))
    assert states == {"{'fail': True}": "failed", "{'hidden': 4}": "done"}
    failed = results.trials.loc[results.trials.state == "failed", "trial"].item()
    status = json.loads((tmp_path / "a" / "trials" / failed / "status.json").read_text())
    assert status["error"] == "RuntimeError: this net cannot be built"
    assert "mine.py" in status["traceback"]


def test_a_trial_whose_process_is_killed_once_is_run_again(tiny: Callable[..., Path], tmp_path: Path) -> None:
    flag = tmp_path / "kill"
    flag.touch()
    study = tiny(net={"name": "tests.engine.mine:net", "options": {"kill": str(flag)}})
    results = run(study, tmp_path / "a", jobs=2, allow_code=True)
    assert results.trials.state.tolist() == ["done"]
    assert results.trials.attempts.tolist() == [2]
    assert_same_numbers(results, run(study, tmp_path / "b", allow_code=True, overrides="run.isolate=none"))


def test_a_trial_that_always_takes_its_process_down_fails_and_the_others_go_on(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    study = tiny(net={"name": "tests.engine.mine:net"}, grid={"net.options": [{"kill": "always"}, {"hidden": 4}]})
    results = run(study, tmp_path / "a", jobs=2, allow_code=True)
    assert results.trials.state.tolist() == ["failed", "done"]
    assert results.trials.attempts.tolist() == [3, 1]
    assert results.stored[0].status["error"] == "its process died 3 times, last with signal 9"


def test_code_is_imported_only_when_allowed(tiny: Callable[..., Path], tmp_path: Path) -> None:
    study = tiny(net={"name": "tests.engine.mine:net"})
    with pytest.raises(StudyError, match=r"net.name: names code \(got 'tests.engine.mine:net'\).*--allow-code"):
        run(study, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_users_data_set_and_net_are_learned_and_their_source_is_recorded(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    study = tiny(
        data={"name": "tests.engine.mine:squares", "train_examples": 128, "val_examples": None, "options": {"size": 8}},
        net={"name": "tests.engine.mine:net", "options": {"hidden": 16}},
        train={"epochs": 4},
        run=HERE,
    )
    results = run(study, tmp_path / "a", allow_code=True)
    assert results.trials.val_error.tolist() == [0.0]
    assert results.trials.verdict.tolist() == ["converged"]
    described = json.loads(next((tmp_path / "a").glob("trials/*/trial.json")).read_text())
    assert {path: len(digest) for path, digest in described["source"].items()} == {"data.name": 64, "net.name": 64}


def test_code_that_changed_since_a_trial_ran_is_refused(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = tmp_path / "changing_net.py"
    source = "from tests.engine.mine import net\n"
    module.write_text(source)
    study = tiny(net={"name": "changing_net:net"}, run=HERE)
    run(study, tmp_path / "a", allow_code=True)
    module.write_text(source + "# edited\n")
    with pytest.raises(StoreError, match=r"the code of net\.name changed since this trial ran; add --force"):
        run(study, tmp_path / "a", allow_code=True)
    assert run(study, tmp_path / "a", allow_code=True, force=True).trials.attempts.tolist() == [2]


def test_after_a_bug_in_ones_own_net_is_fixed_the_same_command_runs_the_unfinished_alone(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    module, out = tmp_path / "buggy_net.py", tmp_path / "a"
    source = "from tests.engine.mine import net\n\ndef make(hidden=4, **given):\n    return net(hidden=BUG, **given)\n"
    module.write_text(source.replace("BUG", "hidden // (hidden != 12)"))
    study = tiny(net={"name": "buggy_net:make"}, run=HERE, grid={"net.options": [{"hidden": 4}, {"hidden": 12}]})
    first = run(study, out, allow_code=True)
    assert first.trials.state.tolist() == ["done", "failed"]
    written = result_of(out).stat().st_mtime_ns
    module.write_text(source.replace("BUG", "hidden"))
    # As in a process that starts now.
    monkeypatch.delitem(sys.modules, "buggy_net")
    fixed = initlab.run(study, out, jobs=1, device="cpu", allow_code=True)
    assert fixed.trials.state.tolist() == ["done", "done"] and fixed.trials.attempts.tolist() == [1, 2]
    assert (out / "trials" / first.trials.trial[0] / "result.json").stat().st_mtime_ns == written
    said = capsys.readouterr().out
    assert "the code of net.name changed: what it ran and did not finish starts anew (trials: 1)" in said
    assert f"stays as it is (trials: 1); --force --only ID runs one anew, as {first.trials.trial[0]}" in said


def test_an_output_folder_is_held_by_one_launch_at_a_time(tiny: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with lease(tmp_path / "a"), pytest.raises(Held, match=r"held by another launch \(host .*, pid \d+, since "):
        run(tiny(), tmp_path / "a")
    assert run(tiny(), tmp_path / "a").trials.state.tolist() == ["done"]


def test_what_kills_left_over_is_swept_by_the_next_run(tiny: Callable[..., Path], tmp_path: Path) -> None:
    results = run(tiny(), tmp_path / "a")
    folder = results.stored[0].folder
    (folder / "result.json").unlink()
    left = [folder / ".status.json.17", folder / "attempt-000/.checkpoint.pt.4711", tmp_path / "a/.study.yaml.3"]
    for path in [*left, folder / ".hidden", folder / "notes.3"]:
        path.write_text("half")
        os.utime(path, (time.time() - 3600,) * 2)
    young = tmp_path / "a/.study.yaml.5"
    young.write_text("half")
    run(tiny(), tmp_path / "a")
    assert [path for path in left if path.exists()] == []
    assert young.exists(), "another shard may be writing it"
    assert (folder / ".hidden").exists() and (folder / "notes.3").exists(), "what is not ours stays"


def test_a_diverged_trial_is_a_result_not_a_failure(tiny: Callable[..., Path], tmp_path: Path) -> None:
    results = run(tiny(train={"lr": 1e6}), tmp_path / "a")
    assert results.trials.state.tolist() == ["diverged"]
    assert results.trials.verdict.tolist() == ["diverged"]
    assert run(tiny(train={"lr": 1e6}), tmp_path / "a").trials.attempts.tolist() == [1]


def test_trials_says_where_and_with_what_each_ran(pair: Path, tmp_path: Path) -> None:
    import torch

    trials = run(pair, tmp_path / "a").trials
    assert trials.device.tolist() == ["cpu", "cpu"]
    assert trials.precision.tolist() == ["float32", "float32"]
    assert trials.torch_version.tolist() == [torch.__version__] * 2
    expected = [
        "trial",
        "state",
        "attempts",
        "seed",
        "net.name",
        "net.depth",
        "init.scheme",
        "verdict",
        "val_error",
        "best_val_error",
        "epochs_done",
        "wall_s",
        "silent_s",
        "device",
        "precision",
        "torch_version",
        "git_commit",
        "in_study",
    ]
    assert list(trials.columns) == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"jobs": 0}, r"--jobs: out of range \(got 0\); allowed: at least 1"),
        ({"only": ["tzzz"]}, r"--only: no such trial \(got 'tzzz'\)"),
        ({"address": "auto"}, r"--address: only for --engine ray"),
        ({"gpus_per_trial": 0.0}, r"--gpus-per-trial: out of range"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(
    tiny: Callable[..., Path], tmp_path: Path, options: dict, words: str
) -> None:
    with pytest.raises(StudyError, match=words):
        run(tiny(), tmp_path / "a", **options)
    assert not (tmp_path / "a").exists()


def test_a_file_in_place_of_the_output_folder_is_refused(tiny: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(StoreError, match=r"a: cannot be written \(File exists\)"):
        run(tiny(), tmp_path / "a")
    assert (tmp_path / "a").read_text() == "mine"


def test_absent_data_files_are_said_before_anything_starts(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INITLAB_DATA", raising=False)
    with pytest.raises(StudyError, match=r"data\.name: cifar10 needs a folder \(got none\)"):
        run(tiny(data={"name": "cifar10"}), tmp_path / "a")
    with pytest.raises(StudyError, match=r"wanted cifar-10-batches-py/data_batch_1, .*test_batch\)"):
        run(tiny(data={"name": "cifar10"}), tmp_path / "a", data_dir=tmp_path)
    assert not (tmp_path / "a").exists()


def result_of(out: Path, index: int = 0) -> Path:
    return sorted(out.glob("trials/*/result.json"))[index]


def test_a_torn_result_stops_a_launch_in_words_and_loses_nothing(pair: Path, tmp_path: Path) -> None:
    run(pair, tmp_path / "a")
    result_of(tmp_path / "a").write_text("{")
    with pytest.raises(StoreError, match=r"result\.json: not readable as JSON .*move it away"):
        run(pair, tmp_path / "a")
    result_of(tmp_path / "a").unlink()
    assert run(pair, tmp_path / "a").trials.state.tolist() == ["done", "done"]


def test_a_trial_without_its_result_is_not_done_whatever_its_status_says(pair: Path, tmp_path: Path) -> None:
    run(pair, tmp_path / "a")
    result_of(tmp_path / "a").unlink()
    assert sorted(initlab.load(tmp_path / "a").trials.state) == ["done", "interrupted"]


def test_a_damaged_status_or_a_foreign_folder_is_named_and_its_trial_kept(pair: Path, tmp_path: Path) -> None:
    run(pair, tmp_path / "a")
    folder = result_of(tmp_path / "a").parent
    (folder / "status.json").write_text("[]")
    (folder / "attempt-000.bak").mkdir()
    results = initlab.load(tmp_path / "a")
    assert results.trials.state.tolist() == ["done", "done"]
    assert results.problems == [f"{folder / 'status.json'}: not a JSON object; move it away to run or read without it"]


def test_a_lost_trial_json_is_written_again(pair: Path, tmp_path: Path) -> None:
    run(pair, tmp_path / "a")
    folder = result_of(tmp_path / "a").parent
    (folder / "trial.json").unlink()
    (folder / "result.json").unlink()
    assert run(pair, tmp_path / "a").trials.state.tolist() == ["done", "done"]


def test_force_after_an_attempt_was_removed_trains_anew(tiny: Callable[..., Path], tmp_path: Path) -> None:
    import shutil

    run(tiny(), tmp_path / "a")
    run(tiny(), tmp_path / "a", force=True)
    shutil.rmtree(next((tmp_path / "a").glob("trials/*/attempt-000")))
    forced = run(tiny(), tmp_path / "a", force=True)
    assert forced.scalars.attempt.unique().tolist() == [2]
    assert forced.scalars.step.min() == 0


def test_code_edited_between_two_runs_of_one_process_is_run_as_it_stands(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = tmp_path / "edited_net.py"
    study = tiny(net={"name": "edited_net:make"})
    rows = []
    for hidden in (4, 12):
        module.write_text(
            f"from tests.engine.mine import net\n\ndef make(**given):\n    return net(hidden={hidden}, **given)\n"
        )
        rows.append(
            run(study, tmp_path / "a", allow_code=True, force=True).signals.query("layer == 1").weight_var.iloc[0]
        )
    assert rows[0] == pytest.approx(2 / 4, rel=0.7)
    assert rows[1] == pytest.approx(2 / 12, rel=0.7)
    assert rows[0] > rows[1]


@pytest.mark.parametrize("options", [{"engine": "foo"}, {"device": "gpu"}, {"gpus_per_trial": float("nan")}])
def test_settings_that_python_passes_are_checked_too(tiny: Callable[..., Path], tmp_path: Path, options: dict) -> None:
    with pytest.raises(StudyError, match="allowed: "):
        initlab.run(tiny(), tmp_path / "a", show="nothing", **options)
    assert not (tmp_path / "a").exists()


def test_only_and_overrides_may_be_single_texts(tiny: Callable[..., Path], tmp_path: Path) -> None:
    (trial,) = run(tiny(), tmp_path / "a", overrides="seed=7").trials.trial
    assert run(tiny(), tmp_path / "a", overrides="seed=7", only=trial[:6]).trials.seed.tolist() == [7]


def test_an_output_folder_that_cannot_be_made_is_refused_in_words(tiny: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot be written \(Not a directory\); give another folder"):
        run(tiny(), tmp_path / "file" / "out")


@pytest.mark.parametrize("program", ["/opt/bin/initlab", "/opt/lib/initlab/__main__.py"])
def test_the_recorded_command_names_no_folder_and_is_the_same_by_module(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [program, "run", "a b.yaml", "--jobs", "2"])
    assert command_line() == "initlab run 'a b.yaml' --jobs 2"


def test_a_trial_out_of_memory_is_tried_once_more_with_the_device_to_itself(
    tiny: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    once.write_bytes(b"1")
    twice.write_bytes(b"22")
    options = [{"full": str(once)}, {"full": str(twice)}, {}]
    study = tiny(net={"name": "tests.engine.mine:greedy"}, grid={"net.options": options}, train={"epochs": 1}, run=HERE)
    results = initlab.run(study, tmp_path / "a", jobs=2, device="cpu", allow_code=True)
    assert results.trials.state.tolist() == ["done", "failed", "done"]
    assert results.trials.attempts.tolist() == [2, 2, 1]
    assert "2 trials ran out of the device's memory; each is tried once more, alone on it" in capsys.readouterr().out
    # Alone from the start, it had the device to itself.
    twice.write_bytes(b"22")
    assert run(study, tmp_path / "b", allow_code=True).trials.attempts.tolist() == [1, 1, 1]
