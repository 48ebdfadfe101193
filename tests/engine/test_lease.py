"""The lease: one launch at a time with locks and without, taken over only from the silent, and never through a link."""

import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from initlab import load, run
from initlab.engine import lease as lease_module
from initlab.engine.lease import HELD, LEASE, STALE_S, Held, is_held, lease
from initlab.errors import UserError


@pytest.fixture(params=["locks", "ENOSYS", "ENOTSUP"])
def locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system with locks, and two without."""
    if request.param != "locks":

        def refuse(*_: object) -> None:
            raise OSError(getattr(errno, request.param), "no locks here")

        monkeypatch.setattr(fcntl, "flock", refuse)
    return str(request.param)


def test_one_at_a_time_who_and_since_when(tmp_path: Path, locks: str) -> None:
    assert not is_held(tmp_path)
    with lease(tmp_path):
        assert is_held(tmp_path)
        words = (
            rf"held by another launch \(host \S+, pid {os.getpid()}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d .*\); wait"
        )
        for take_over in (False, True):
            with pytest.raises(Held, match=words), lease(tmp_path, take_over=take_over):
                pass
        assert is_held(tmp_path), "a refused launch takes nothing away"
    assert not is_held(tmp_path)
    with lease(tmp_path):
        pass


def test_a_silent_holder_is_replaced_on_request_alone(tmp_path: Path, locks: str) -> None:
    with lease(tmp_path):
        path = tmp_path / (LEASE if locks == "locks" else LEASE + HELD)
        silent = time.time() - STALE_S - 60
        os.utime(path, (silent, silent))
        with (
            pytest.raises(Held, match=r"no sign of life for 1[78]\d s\); if it is dead, add --take-over"),
            lease(tmp_path),
        ):
            pass
        with lease(tmp_path, take_over=True):
            assert is_held(tmp_path)
            with pytest.raises(Held, match="wait for it"), lease(tmp_path, take_over=True):
                pass
    assert not is_held(tmp_path), "the first holder, back again, leaves the second's lease alone"


def test_a_holder_gives_signs_of_life(tmp_path: Path, locks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_S", 0.01)
    with lease(tmp_path):
        path = tmp_path / (LEASE if locks == "locks" else LEASE + HELD)
        os.utime(path, (1.0, 1.0))
        deadline = time.monotonic() + 30
        while path.stat().st_mtime < 2.0:
            assert time.monotonic() < deadline, "no heartbeat"
            time.sleep(0.01)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [LEASE]


def test_a_lease_that_is_a_link_empties_nothing(tmp_path: Path) -> None:
    precious = tmp_path / "thesis.tex"
    precious.write_text("years of work")
    out = tmp_path / "out"
    out.mkdir()
    (out / LEASE).symlink_to(precious)
    assert not is_held(out)
    with pytest.raises(UserError, match=r"\.lease: a symbolic link \(to .*thesis.tex\); remove it"), lease(out):
        pass
    assert precious.read_text() == "years of work"


BOTH = """
import sys
from contextlib import nullcontext
import initlab
# Every launch believes that it holds the folder.
initlab.engine.lease.lease = lambda *_: nullcontext()
import initlab.launch.run
initlab.launch.run.lease = initlab.engine.lease.lease
from initlab import run
run(sys.argv[1], sys.argv[2], jobs=1, device="cpu", show="nothing")
"""


def test_two_launches_that_both_believe_to_hold_a_folder_end_right(tiny: Callable[..., Path], tmp_path: Path) -> None:
    study = tiny(grid={"seed": [0, 1, 2]})
    script = BOTH.replace("import initlab\n", "import initlab.engine.lease\n", 1)
    both = [subprocess.Popen([sys.executable, "-c", script, str(study), str(tmp_path / "two")]) for _ in range(2)]
    assert [process.wait(300) for process in both] == [0, 0]
    alone, results = run(study, tmp_path / "one", jobs=1, device="cpu", show="nothing"), load(tmp_path / "two")
    assert results.problems == [] and results.trials.state.tolist() == ["done"] * 3
    for frame in ("scalars", "signals", "slopes"):
        times = ["attempt", "wall_s", "images_per_s"]
        expected, got = (getattr(one, frame).drop(columns=times, errors="ignore") for one in (alone, results))
        pd.testing.assert_frame_equal(got, expected, check_exact=True)
