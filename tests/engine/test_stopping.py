"""Signals that mean a stop: to the launch alone, to all of its processes at once, twice, and the end of its time."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from initlab.engine.stopping import SIGNALS, STOP, signals_held, stop_asked, stop_file_on_signal
from tests.engine.tasks import task

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_makes_the_stop_file_and_all_is_as_before_afterwards(number: signal.Signals, tmp_path: Path) -> None:
    before, said = signal.getsignal(number), list[str]()
    with stop_file_on_signal(tmp_path / STOP, said.append):
        assert not stop_asked(task("t", str(tmp_path)))
        os.kill(os.getpid(), number)
        assert (tmp_path / STOP).exists() and stop_asked(task("t", str(tmp_path)))
        assert said == [f"stopping ({number.name}): every trial keeps a checkpoint (Ctrl-C to stop at once)"]
        # A scheduler that repeats itself has no wish to lose a checkpoint.
        os.kill(os.getpid(), signal.SIGTERM)
    assert not (tmp_path / STOP).exists() and signal.getsignal(number) == before


def test_a_second_ctrl_c_interrupts_and_a_third_does_nothing_more(tmp_path: Path) -> None:
    with stop_file_on_signal(tmp_path / STOP, lambda line: None):
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_the_end_of_the_time_makes_the_stop_file_too(tmp_path: Path) -> None:
    said = list[str]()
    with stop_file_on_signal(tmp_path / STOP, said.append, 0.05, "2 hours are over"):
        until = time.monotonic() + 5
        while not said and time.monotonic() < until:
            time.sleep(0.01)
        assert (tmp_path / STOP).exists()
        assert said[0].startswith("stopping (2 hours are over): ")


def test_a_process_that_ignores_the_signals_ignores_those_of_its_first_moment() -> None:
    code = "from initlab.engine.stopping import ignore_stop_signals as i; print('up', flush=True); i(); input()"
    with signals_held():
        started = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
    for number in SIGNALS:
        started.send_signal(number)
    assert started.stdout and started.stdout.readline() == b"up\n"
    for number in SIGNALS:
        started.send_signal(number)
    started.communicate(b"\n", timeout=30)
    assert started.returncode == 0


def descendants(pid: int) -> list[int]:
    """A process and all that it started, read from /proc."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] != "Z":
            parents[int(stat.parent.name)] = int(fields[1])
    family = [pid]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
    return family


@contextmanager
def launched(study: Path, out: Path, *options: str) -> Iterator[tuple["subprocess.Popen[str]", list[int]]]:
    """A launch by the command line in which every worker has taken steps, with all of its processes."""
    command = [sys.executable, "-m", "initlab", "run", str(study), "--out", str(out), "--device", "cpu", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    launch = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, env=environment
    )
    jobs = int(options[options.index("--jobs") + 1])
    until = time.monotonic() + 120
    while sum(json.loads(path.read_text()).get("step", 0) > 2 for path in out.glob("trials/*/status.json")) < jobs:
        assert launch.poll() is None and time.monotonic() < until, launch.communicate()
        time.sleep(0.05)
    family = descendants(launch.pid)
    try:
        yield launch, family
    finally:
        launch.kill()


def assert_stopped_and_gone(launch: "subprocess.Popen[str]", family: list[int], out: Path, checkpoints: int) -> None:
    said = launch.communicate(timeout=90)[0]
    assert launch.returncode == 3, said
    left = [pid for pid in family if alive(pid)]
    assert left == [], said
    assert len(list(out.glob("trials/*/attempt-000/checkpoint.pt"))) == checkpoints, said
    assert not (out / STOP).exists()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


LONG = {"train": {"epochs": 10_000, "log_every": 3}, "probe": {"every": 0}, "grid": {"seed": [0, 1, 2]}}


def test_a_signal_to_all_processes_at_once_keeps_every_checkpoint(tiny: Callable[..., Path], tmp_path: Path) -> None:
    with launched(tiny(**LONG), tmp_path / "out", "--jobs", "2") as (launch, family):
        assert len(family) == 3
        for pid in family:
            os.kill(pid, signal.SIGTERM)
        assert_stopped_and_gone(launch, family, tmp_path / "out", checkpoints=2)


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_every_signal_to_all_or_one_stops_with_checkpoints(
    number: signal.Signals, jobs: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    for to_all in (True, False):
        out = tmp_path / f"out-{to_all}"
        with launched(tiny(**LONG), out, "--jobs", jobs) as (launch, family):
            for pid in family if to_all else family[:1]:
                os.kill(pid, number)
            assert_stopped_and_gone(launch, family, out, checkpoints=int(jobs))


@pytest.mark.slow
def test_a_signal_to_a_trial_of_two_processes_keeps_its_checkpoint(tiny: Callable[..., Path], tmp_path: Path) -> None:
    study = tiny(**{**LONG, "grid": {"seed": [0, 1]}})
    with launched(study, tmp_path / "out", "--jobs", "1", "--devices", "2") as (launch, family):
        assert len(family) == 2
        for pid in family:
            os.kill(pid, signal.SIGTERM)
        assert_stopped_and_gone(launch, family, tmp_path / "out", checkpoints=1)


@pytest.mark.slow
def test_two_ctrl_c_leave_no_worker(tiny: Callable[..., Path], tmp_path: Path) -> None:
    with launched(tiny(**LONG), tmp_path / "out", "--jobs", "2") as (launch, family):
        os.kill(launch.pid, signal.SIGINT)
        time.sleep(0.1)
        os.kill(launch.pid, signal.SIGINT)
        assert "stopped" in launch.communicate(timeout=60)[0] and launch.returncode == 3
        time.sleep(0.5)
        assert not any(map(alive, family))


@pytest.mark.slow
def test_a_launch_that_is_killed_leaves_no_worker(tiny: Callable[..., Path], tmp_path: Path) -> None:
    with launched(tiny(**LONG), tmp_path / "out", "--jobs", "2") as (launch, family):
        launch.kill()
        until = time.monotonic() + 60
        while any(map(alive, family)) and time.monotonic() < until:
            time.sleep(0.1)
        assert not any(map(alive, family))
        assert len(list((tmp_path / "out").glob("trials/*/attempt-000/checkpoint.pt"))) == 2
