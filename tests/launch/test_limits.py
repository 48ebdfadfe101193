"""What ends a launch or a trial of it: exits of users' code, failures alike, a full disk, the end of the time."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

import initlab
from initlab.launch.settings import JOB_MARGIN_S, resolve, time_left
from initlab.report.summary import Ending, summary
from initlab.store import writer
from initlab.store.files import StoreError, write_json
from initlab.study.study import load_study
from tests.engine.mine import net

ROOT = Path(__file__).parents[2]


def leaving(num_classes: int, input_shape: tuple[int, int, int], how: str = "") -> nn.Module:
    """A small net whose building ends in another way than by a net."""
    print(f"building, to {how}")
    if how.startswith("_exit"):
        os._exit(int(how[5:]))
    if how == "SystemExit":
        sys.exit(0)
    if how == "GeneratorExit":
        raise GeneratorExit
    return net(num_classes, input_shape)


def study_of(tiny: Callable[..., Path], *ways: str, **run: object) -> Path:
    return tiny(
        net={"name": "tests.launch.test_limits:leaving"},
        train={"epochs": 1},
        run=run,
        grid={"net.options": [{"how": way} for way in ways]},
    )


def test_an_exit_of_users_code_is_one_failed_trial_of_a_launch_of_one_job(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    results = initlab.run(study_of(tiny, "_exit0", "train"), tmp_path, jobs=1, device="cpu", allow_code=True)
    assert results.trials.state.tolist() == ["failed", "done"]
    assert summary(results).ending == Ending.FAILED
    error, log = results.stored[0].status["error"], results.stored[1].folder / "attempt-000" / "log.txt"
    assert error.startswith("its process died with exit code 0")
    assert log.read_text() == "building, to train\n"


def test_no_exit_of_users_code_ends_a_launch_without_processes_of_its_own(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    study = study_of(tiny, "_exit0", "_exit7", "SystemExit", "GeneratorExit", "train", isolate="none", max_failures=10)
    results = initlab.run(study, tmp_path, jobs=1, device="cpu", show="nothing", allow_code=True)
    assert results.trials.state.tolist() == ["failed"] * 4 + ["done"]
    assert summary(results).ending == Ending.FAILED
    errors = [trial.status["error"] for trial in results.stored[:4]]
    assert errors == ["SystemExit: os._exit(0)", "SystemExit: os._exit(7)", "SystemExit: 0", "GeneratorExit: "]


def test_failures_alike_end_a_launch_with_exit_code_1(tiny: Callable[..., Path], tmp_path: Path) -> None:
    study = tiny(net={"name": "tests.engine.mine:net", "options": {"fail": True}}, grid={"seed": [*range(9)]})
    options = {"jobs": 1, "device": "cpu", "allow_code": True, "max_failures": 2}
    results = initlab.run(study, tmp_path / "a", overrides=["run.isolate=none"], show="nothing", **options)  # type: ignore[arg-type]
    assert sorted(results.trials.state) == ["failed"] * 2 + ["pending"] * 7
    assert summary(results).ending == Ending.FAILED


def test_what_was_interrupted_counts_more_than_what_failed(tiny: Callable[..., Path], tmp_path: Path) -> None:
    study = tiny(net={"name": "tests.engine.mine:net", "options": {"fail": True}}, grid={"seed": [0, 1]})
    options = {"jobs": 1, "device": "cpu", "allow_code": True, "show": "nothing"}
    results = initlab.run(study, tmp_path, overrides=["run.isolate=none"], **options)  # type: ignore[arg-type]
    write_json(results.stored[1].folder / "status.json", {"state": "interrupted"})
    lines, errors, ending = summary(initlab.load(tmp_path))
    assert ending == Ending.STOPPED
    assert lines[-1] == "stopped with 1 of 2 trials to go; the same command goes on"
    assert errors[0].startswith("1 of 2 trials failed")


@pytest.mark.parametrize("place", ["checkpoint", "record", "status"])
def test_a_disk_that_is_full_for_a_while_loses_nothing(
    place: str,
    tiny: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("initlab.engine.task_queue.ROOM_CHECK_S", 0.1)
    name = {"checkpoint": "write_checkpoint", "record": "encode", "status": "write_json"}[place]
    real, calls = getattr(writer, name), []

    def full_once(*arguments: object, **options: object) -> object:
        calls.append(name)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **options)

    study = tiny(grid={"seed": [0, 1]}, run={"checkpoint_every_s": 0.001})
    whole = initlab.run(study, tmp_path / "whole", jobs=1, device="cpu", show="nothing")
    monkeypatch.setattr(writer, name, full_once)
    results = initlab.run(study, tmp_path / "full", jobs=1, device="cpu")
    assert results.trials.state.tolist() == ["done", "done"] and results.problems == []
    assert results.scalars.train_loss.equals(whole.scalars.train_loss)
    said = capsys.readouterr().out
    assert said.count("paused until there is; make some") == 1 and "failed" not in said


def test_the_time_ends_with_the_first_of_two_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    assert time_left(None) == (None, "")
    assert time_left(2.0) == (7200.0, "2 hours are over")
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 1000))
    seconds, because = time_left(2.0)
    assert seconds == pytest.approx(1000 - JOB_MARGIN_S, abs=3) and because == "the Slurm job is about to end"


def test_a_name_that_is_too_long_is_said_in_one_line(tiny: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot be written \(File name too long\); give another folder"):
        initlab.run(tiny(), tmp_path / ("x" * 300), show="nothing")
    with pytest.raises(StoreError, match="no such output folder"):
        initlab.load(tmp_path / ("x" * 300))


def test_a_running_trials_last_sign_of_life_is_told(tiny: Callable[..., Path], tmp_path: Path) -> None:
    from initlab.engine.lease import lease
    from initlab.report.status_page import status_page

    results = initlab.run(tiny(), tmp_path, jobs=1, device="cpu", show="nothing")
    folder = results.stored[0].folder
    (folder / "result.json").unlink()
    write_json(folder / "status.json", {"state": "running"})
    os.utime(folder / "status.json", (time.time() - 100,) * 2)
    with lease(tmp_path):
        running = initlab.load(tmp_path)
        page = "\n".join(status_page(tmp_path))
    assert running.trials.silent_s.item() == pytest.approx(100, abs=20)
    assert "heard of 1.7 min ago" in page, page
    assert initlab.load(tmp_path).trials.silent_s.isna().all()


def test_files_of_the_working_folder_do_not_pass_for_modules(tiny: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("random.py", "torch.py", "queue.py", "click.py"):
        (tmp_path / name).write_text("open('executed', 'w').close()\nraise SystemExit('executed')\n")
    study = tiny(train={"epochs": 1}, run={"isolate": "trial"})
    command = [sys.executable, "-m", "initlab", "run", study.name, "--jobs", "1", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert said.returncode == 0, said
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(("run", "isolate"), [({}, "none"), ({"trial_timeout": 60}, "trial")])
def test_a_trial_with_a_time_limit_has_a_process_that_is_watched(
    tiny: Callable[..., Path], run: dict[str, object], isolate: str
) -> None:
    study = load_study(tiny(run=run))
    assert resolve(study, {"jobs": 1}).run.isolate == isolate
