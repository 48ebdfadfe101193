"""`initlab compact`: the same rows before, during and after, however it is killed, in few files."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest

from initlab import load
from initlab.store import files
from initlab.store.compact import compact
from initlab.store.export import FRAMES
from initlab.store.trial_folder import TrialFolder
from tests.store.test_damage import publish
from tests.store.test_store import RESULT, attempt, make_out, without_sums


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Trials that were resumed and done, done, diverged, interrupted and killed."""
    path, folders = make_out(tmp_path / "out", seeds=5)
    publish(attempt(folders[0], range(0, 6), checkpoint=4, slopes=True))
    attempt(folders[0], range(5, 9), checkpoint=8, slopes=True).close("done", RESULT, RESULT)
    attempt(folders[1], range(0, 4), checkpoint=3).close("done", RESULT, RESULT)
    attempt(folders[2], range(0, 3)).close("diverged", RESULT, RESULT)
    attempt(folders[3], range(0, 4), checkpoint=3).close("interrupted", {"step": 3})
    publish(attempt(folders[4], range(0, 5)))
    return path


def frames(out: Path) -> dict[str, pd.DataFrame]:
    results = load(out)
    read = {name: getattr(results, name) for name in FRAMES}
    assert results.problems == []
    return read


def check_same(out: Path, before: dict[str, pd.DataFrame]) -> None:
    for name, frame in frames(out).items():
        pd.testing.assert_frame_equal(frame, before[name], check_exact=True)


def test_the_rows_are_the_same_in_fewer_files_and_again_changes_nothing(out: Path) -> None:
    before = frames(out)
    assert list(compact(out))[-1] == "3 of 5 trials are merged; unfinished: 2"
    check_same(out, before)
    done = before["trials"].trial[1]
    assert 1 + len(list((out / files.TRIALS / done).rglob("*"))) <= 8
    assert all(TrialFolder(out, trial).finished for trial in before["trials"].trial[:3])
    merged = sorted((out / "merged").rglob("*"))
    list(compact(out))
    assert sorted((out / "merged").rglob("*")) == merged
    check_same(out, before)


def test_a_store_of_an_older_initlab_is_merged_too(out: Path) -> None:
    for folder in TrialFolder.all_in(out):
        without_sums(folder.path)
    before = frames(out)
    list(compact(out))
    assert not list((out / files.TRIALS).glob("*/*/signals.parquet"))
    check_same(out, before)


def test_a_trial_that_finishes_later_goes_into_a_batch_of_its_own(out: Path) -> None:
    list(compact(out))
    folder = out / files.TRIALS / load(out).trials.trial[3]
    attempt(folder, range(4, 7), checkpoint=6).close("done", RESULT, RESULT)
    before = frames(out)
    list(compact(out))
    assert [path.name for path in sorted((out / "merged").glob("0*"))] == ["000", "001"]
    check_same(out, before)


@pytest.mark.parametrize("step", range(40))
def test_a_crash_at_any_step_leaves_the_rows_and_the_next_call_ends_it(
    out: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, calls = frames(out), 0

    class Killed(BaseException):
        pass

    def killing(real: Callable) -> Callable:
        def call(*args: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls > step:
                raise Killed
            return real(*args, **options)

        return call

    with monkeypatch.context() as patch:
        # After a kill nothing more happens: no clean-up that an exception would do removes or renames anything.
        for owner, name in ((os, "fsync"), (os, "replace"), (Path, "rename"), (Path, "unlink"), (Path, "mkdir")):
            patch.setattr(owner, name, killing(getattr(owner, name)))
        with suppress(Killed):
            list(compact(out))
    check_same(out, before)
    list(compact(out))
    check_same(out, before)
    assert not list((out / "merged").glob(".[0-9]*"))


READ = """
import sys, initlab
from pathlib import Path
from tests.store.test_compact import frames
before = frames(Path(sys.argv[1]))
print("ready", flush=True)
while not Path(sys.argv[2]).exists():
    for name, frame in frames(Path(sys.argv[1])).items():
        assert frame.equals(before[name]), name
"""


def test_a_reader_meanwhile_sees_the_same_rows(out: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", READ, str(out), str(tmp_path / "end")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout and reader.stdout.readline() == "ready\n"
        list(compact(out))
        (tmp_path / "end").touch()
        assert reader.wait(60) == 0


def test_damage_to_merged_rows_is_named_with_its_trials_or_file(out: Path) -> None:
    list(compact(out))
    before = frames(out)
    for name in ("index.json", "signals.parquet", "scalars.parquet"):
        path = out / "merged" / "000" / name
        content = path.read_bytes()
        for place in range(0, len(content), max(1, len(content) // 25)):
            path.write_bytes(content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :])
            results = load(out)
            got = {frame: getattr(results, frame) for frame in FRAMES}
            same = all(got[frame].equals(before[frame]) for frame in FRAMES)
            assert same or results.problems, f"{name} at byte {place}"
        path.write_bytes(content)
    check_same(out, before)
