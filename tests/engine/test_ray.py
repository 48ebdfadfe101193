"""The Ray engine gives what the inline engine gives, whatever happens to its processes.

Heavy imports are inside functions: every worker process imports this module.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import initlab
from tests.engine.tasks import answers_its_out, submitted, task

ROOT = Path(__file__).parents[2]
TIMES = ["images_per_s", "wall_s"]


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    """One Ray for all tests of this module."""
    from initlab.engine.cluster import ray_running

    with ray_running(2):
        yield


def study(epochs=2, schemes=("gaussian", "he"), every=10, net=None, **run):
    return initlab.Study.model_validate(
        {
            "name": "small",
            "data": {"name": "digits", "image_size": 8, "train_examples": 256, "val_examples": 64},
            "net": net or {"depth": 6, "width": 4, "stages": 2, "linear_width": 8},
            "train": {"epochs": epochs, "batch_size": 32, "lr": 0.01},
            "probe": {"every": every, "examples": 8},
            "grid": {"init.scheme": list(schemes)},
            "run": {"device": "cpu", **run},
        }
    )


def assert_same_numbers(results, expected, ignore=()):
    """Scalars and signals are equal to the last bit, but for what a clock says."""
    from pandas.testing import assert_frame_equal

    for frame in ("scalars", "signals"):
        ours, theirs = (getattr(r, frame).drop(columns=[*TIMES, *ignore], errors="ignore") for r in (results, expected))
        assert len(theirs)
        assert_frame_equal(ours, theirs, check_exact=True)


def killed_after_first_checkpoint(task):
    """`run_task`, but the process of the first attempt is gone as soon as it has a checkpoint."""
    from initlab.attempt.run_task import run_task
    from initlab.store.writer import AttemptWriter

    checkpoint = AttemptWriter.checkpoint

    def checkpoint_and_die(writer, state):
        checkpoint(writer, state)
        if writer.folder.name == "attempt-000":
            os.kill(os.getpid(), signal.SIGKILL)

    AttemptWriter.checkpoint = checkpoint_and_die
    try:
        return run_task(task)
    finally:
        AttemptWriter.checkpoint = checkpoint


def killed_if_gaussian(task):
    if task.specs[0].init.scheme == "gaussian":
        os.kill(os.getpid(), signal.SIGKILL)
    from initlab.attempt.run_task import run_task

    return run_task(task)


def dies_then_stops(task):
    """`follow`, but in attempt 1 it is gone once there is a checkpoint, and in attempt 2 it asks for a stop."""
    from initlab.attempt.gang import follow
    from initlab.train.group import Group

    out = Path(task.out)
    attempts = out / "trials" / task.trials[0]
    agree = Group.agree

    def agree_but(group, answer):
        if (attempts / "attempt-002").exists():
            (out / "STOP").touch()
        elif (attempts / "attempt-001" / "checkpoint.pt").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return agree(group, answer)

    Group.agree = agree_but
    follow(task)


def waits_for_ever(task):
    from torch import distributed, ones

    distributed.all_reduce(ones(1))


@pytest.fixture
def launch_with(monkeypatch):
    """Makes `initlab.run` run another function of this module on every trial."""
    from initlab.launch import tasks

    return lambda function: monkeypatch.setattr(
        tasks, "WORK", replace(tasks.WORK, run=f"{__name__}:{function.__name__}")
    )


def test_numbers_equal_those_of_the_inline_engine(tmp_path, capfd):
    inline = initlab.run(study(), tmp_path / "inline", engine="inline", jobs=1, show="nothing")
    swept = initlab.run(study(), tmp_path / "ray", engine="ray", jobs=2, show="nothing")
    assert list(swept.trials.state) == ["done", "done"]
    assert_same_numbers(swept, inline)
    assert capfd.readouterr() == ("", "")


def test_a_hopeless_trial_is_stopped_at_the_same_step_as_inline(tmp_path):
    asked = study(epochs=4, schemes=["gaussian"])  # std 0.01 at 6 layers stays at chance
    inline = initlab.run(asked, tmp_path / "inline", engine="inline", jobs=1, show="nothing", skip_hopeless=True)
    swept = initlab.run(asked, tmp_path / "ray", engine="ray", jobs=1, show="nothing", skip_hopeless=True)
    assert list(swept.trials.state) == list(inline.trials.state) == ["stopped"]
    assert list(swept.verdicts.verdict) == ["stalled"] and list(swept.trials.epochs_done) == [2.0]
    assert_same_numbers(swept, inline)


def test_a_trial_killed_once_resumes_and_ends_with_the_same_numbers(tmp_path, launch_with):
    small = study(epochs=20, schemes=["he"], checkpoint_every_s=0.02)
    whole = initlab.run(small, tmp_path / "whole", engine="inline", jobs=1, show="nothing")
    launch_with(killed_after_first_checkpoint)
    killed = initlab.run(small, tmp_path / "killed", engine="ray", jobs=1, show="nothing")
    assert list(killed.trials.state) == ["done"]
    assert list(killed.trials.attempts) == [2]
    assert set(killed.scalars.attempt) == {0, 1}, "it was killed on the way, not at an end"
    assert_same_numbers(killed, whole, ignore=["attempt"])


def test_a_trial_that_kills_every_process_fails_and_the_others_go_on(tmp_path, launch_with, capfd):
    launch_with(killed_if_gaussian)
    results = initlab.run(study(), tmp_path, engine="ray", jobs=2, show="nothing")
    assert list(results.trials.state) == ["failed", "done"]
    assert "its process died 3 times" in results.stored[0].status["error"]
    assert capfd.readouterr() == ("", ""), "Ray's own words about dead workers are not shown"


def test_an_exception_is_answered_with_its_words():
    (answer,) = submitted("ray", [task("t0")], "json:loads", jobs=1)
    assert answer.died and answer.ends[0].state == "failed"
    assert answer.ends[0].error.startswith("raised TypeError: the JSON object must be str")


def test_after_an_answer_that_a_stop_was_asked_for_no_task_is_begun():
    tasks = [task(f"t{i}", out="interrupted") for i in range(30)]
    answers = submitted("ray", tasks, "answers_its_out", jobs=1)
    states = {end.trial: end.state for answer in answers for end in answer.ends}
    assert len(states) == 30
    assert states["t0"] == "interrupted"
    assert states["t29"] == "pending"


def test_a_gang_of_ray_train_gives_the_numbers_of_an_inline_one_and_of_one_process(tmp_path, capfd):
    import torch

    from tests.train.test_group import CONTENT, FIGURES, weights

    shared = initlab.Study.model_validate(CONTENT)  # 20 steps in float64
    one, inline = (
        initlab.run(shared, tmp_path / f"{n}", device="cpu", jobs=1, devices=n, show="nothing") for n in (1, 2)
    )
    gang = initlab.run(shared, tmp_path / "ray", device="cpu", engine="ray", devices=2, show="nothing")
    assert list(gang.trials.state) == ["done"] and gang.scalars.step.max() == 20
    assert_same_numbers(gang, inline)
    assert torch.equal(weights(gang), weights(inline))
    assert (weights(gang) - weights(one)).abs().max() <= 1e-12
    torch.testing.assert_close(
        torch.tensor(gang.scalars[FIGURES].to_numpy()),
        torch.tensor(one.scalars[FIGURES].to_numpy()),
        rtol=0,
        atol=1e-12,
        equal_nan=True,
    )
    assert sorted(path.name for path in gang.out.iterdir()) == [".lease", "study.yaml", "trials"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_gang_goes_on_from_checkpoints_through_a_death_a_stop_and_a_change_of_engine(tmp_path, monkeypatch, capsys):
    from initlab.attempt import run_task
    from initlab.launch import tasks

    small, out = study(epochs=40, schemes=["he"], every=200, checkpoint_every_s=0.02), tmp_path / "out"

    def run(engine, out=out):
        return initlab.run(small, out, engine=engine, jobs=1, devices=2, show="lines")

    whole = run("inline", tmp_path / "whole")
    stops = iter([False] * 4 + [True])
    with monkeypatch.context() as patched:
        patched.setattr(run_task, "stop_check", lambda _: lambda: next(stops))
        assert list(run("inline").trials.state) == ["interrupted"]
    follow = f"{__name__}:{dies_then_stops.__name__}"
    monkeypatch.setattr(tasks, "WORK", replace(tasks.WORK, follow=follow))
    stopped = run("ray")
    assert list(stopped.trials.state) == ["interrupted"] and list(stopped.trials.attempts) == [3]
    assert len(list(out.glob("trials/*/attempt-*/checkpoint.pt"))) >= 2, "the death was after a checkpoint"
    assert "failed" not in capsys.readouterr().out
    ended = run("inline")
    assert list(ended.trials.state) == ["done"] and list(ended.trials.attempts) == [4]
    assert_same_numbers(ended, whole, ignore=["attempt"])


@pytest.mark.slow
def test_the_answer_of_the_first_of_a_gang_ends_the_others(tmp_path):
    tasks = [task(f"t{i}", out="pending") for i in range(3)]
    answers = submitted("ray", tasks, "answers_its_out", f"{__name__}:waits_for_ever", jobs=1, devices=2)
    # The first answers without the other; those after it are not begun.
    assert answers == list(map(answers_its_out, tasks))


@pytest.mark.parametrize(
    ("failures", "answered", "found"),
    [
        ({}, True, "done"),
        ({1: ValueError("lost the first")}, True, "done"),  # the first said what went wrong, and ended
        ({1: ValueError("mine")}, False, "ValueError: mine"),
        ({0: "killed"}, False, "Died: process 0 of 2: killed"),
        ({0: ValueError("lost the other"), 1: "killed"}, False, "Died: process 1 of 2: killed"),
        ({1: "killed"}, True, "Died: process 1 of 2: killed"),  # the first's answer is that it lost the other
    ],
)
def test_what_is_made_of_a_gang_that_failed(failures, answered, found, tmp_path, monkeypatch):
    from ray.train import WorkerGroupError

    from initlab.engine import ray_train, submit

    class Trainer:
        def __init__(self, work, *, train_loop_config, **_):
            self.folder = Path(train_loop_config["folder"])

        def fit(self):
            if answered:
                (self.folder / ray_train.ANSWER).write_text(answers_its_out(task("t0", out="done")).model_dump_json())
            if failures:
                raise WorkerGroupError("", {rank: of_ray(failure) for rank, failure in failures.items()})

    def of_ray(failure):
        text = f"The actor died.\nWorker exit detail: {failure} Some common causes include: (1) ..."
        return ray_train.deaths.WorkerHealthCheckFailedError("", RuntimeError(text)) if failure == "killed" else failure

    monkeypatch.setattr(ray_train, "TorchTrainer", Trainer)
    work, resources = submit.Work("", ""), submit.Resources(jobs=1, devices=2)
    try:
        outcome = ray_train.run_gang(task("t0"), work, resources, str(tmp_path)).ends[0].state
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    assert outcome == found


def test_a_gang_that_died_to_the_last_is_answered_in_one_line():
    from types import SimpleNamespace

    from initlab.engine.ray import Died, answer_of

    error = SimpleNamespace(cause=Died("process 1 of 2: killed"))
    answer = answer_of(task("t0"), SimpleNamespace(error=error))
    (end,) = answer.ends
    assert (end.trial, end.state, answer.died) == ("t0", "failed", True)
    assert end.error == "its process died 3 times, last with: process 1 of 2: killed"


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"gpus": 1000.0}, r"--gpus-per-trial: no node .* \(got 1 CPUs and 1000 GPUs\); allowed: up to 2 CPUs"),
        ({"gpus": 1.5}, r"--gpus-per-trial: not whole \(got 1.5\); allowed: a fraction"),
        (
            {"devices": 3},
            r"--devices: the cluster has no room for a trial \(got 3 processes of 1 CPUs and 0 GPUs each\); "
            "allowed: up to 2$",
        ),
        ({"threads": 3}, r"run.threads: no node .* \(got 3 CPUs and 0 GPUs\); allowed: up to 2 CPUs"),
    ],
)
def test_a_request_that_never_fits_is_refused_in_one_line(request_, words):
    from initlab.engine.cluster import EngineError

    with pytest.raises(EngineError, match=words) as error:
        submitted("ray", [task("t0")], "answers_its_out", jobs=1, **request_)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "nothing answers .*Connection refused"),
        ("ray://head:10001", "not an address of a Ray cluster"),
        ("head", "not an address of a Ray cluster"),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once_in_one_line(address, words):
    from initlab.engine.cluster import EngineError, check_reachable

    with pytest.raises(EngineError, match=f"--address: {words}.*allowed: HOST:PORT") as error:
        check_reachable(address)
    assert "\n" not in str(error.value)


def test_ctrl_c_keeps_checkpoints_and_a_second_run_ends_with_the_same_numbers(tmp_path):
    held = study(epochs=8, net={"name": "tests.engine.mine:held"}, isolate="none")
    (tmp_path / "study.yaml").write_text(json.dumps(held.model_dump(mode="json", exclude_unset=True)))
    (tmp_path / "hold").touch()
    how = {"jobs": 1, "allow_code": True, "show": "nothing"}
    script = f"import initlab; print(initlab.run('study.yaml', 'out', engine='ray', **{how}))"
    env = {**os.environ, "HELD": str(tmp_path / "hold"), "PYTHONPATH": str(ROOT)}
    launched = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
    )
    while not (tmp_path / "reached").exists():
        assert launched.poll() is None, launched.communicate()
        time.sleep(0.02)
    os.killpg(launched.pid, signal.SIGINT)  # as a terminal does, to every process of the launch
    while not (tmp_path / "out" / "STOP").exists():
        assert launched.poll() is None, launched.communicate()
        time.sleep(0.02)
    (tmp_path / "hold").unlink()
    said = launched.communicate(timeout=60)
    stopped = initlab.load(tmp_path / "out")
    assert launched.returncode == 0, said
    assert said[1] == ""
    assert sorted(stopped.trials.state) == ["interrupted", "pending"], said
    assert len(list((tmp_path / "out").glob("trials/*/attempt-000/checkpoint.pt"))) == 1
    resumed = initlab.run(held, tmp_path / "out", engine="ray", **how)
    whole = initlab.run(held, tmp_path / "whole", engine="inline", **how)
    assert list(resumed.trials.state) == ["done", "done"]
    assert sorted(resumed.trials.attempts) == [1, 2]
    assert_same_numbers(resumed, whole, ignore=["attempt"])


def test_ray_is_imported_by_neither_initlab_nor_an_inline_run(tmp_path):
    (tmp_path / "study.yaml").write_text(
        json.dumps(study(epochs=1, schemes=["he"]).model_dump(mode="json", exclude_unset=True))
    )
    script = (
        "import sys, initlab; initlab.run('study.yaml', 'out', engine='inline', jobs=1, show='nothing'); "
        "print([name for name in sys.modules if name.partition('.')[0] == 'ray'])"
    )
    said = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"
