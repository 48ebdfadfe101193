"""`initlab verify`: each fault named by trial and file, and mended so that the next run ends as if nothing had been."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from initlab import load, run
from initlab.cli import main
from initlab.store import files
from tests.conftest import write_tiny


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two trials, trained."""
    folder = tmp_path_factory.mktemp("verify")
    run(write_tiny(folder, train={"epochs": 1}, grid={"seed": [0, 1]}), folder / "out", jobs=1, device="cpu")
    return folder


def verify(out: Path, *options: str) -> tuple[int, list[str]]:
    """Exit code and lines, those on stderr first; the folder is named as users do, from where they are."""
    done = CliRunner().invoke(main, ["verify", os.path.relpath(out), *options])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done.exit_code, [*done.stderr.splitlines(), *done.stdout.splitlines()]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def drop_a_row_of_an_old_store(path: Path) -> None:
    """A line of scalars is gone, and nothing vouches for it."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
    for name in (files.STATUS, files.RESULT):
        old = path.parent.parent / name
        content = {key: value for key, value in json.loads(old.read_text()).items() if key not in ("crc", "files")}
        old.write_text(json.dumps(content))


def leave_over(path: Path) -> None:
    left = path.with_name(f".{path.name}.123")
    left.write_bytes(b"half")
    os.utime(left, (time.time() - 3600,) * 2)


ANEW = "set aside as result.json.damaged; the next run does this trial anew"
FAULTS: list[tuple[str, Callable[[Path], object], str, str]] = [
    ("attempt-000/scalars.jsonl", flip, "scalars.jsonl: damaged (not the bytes", ANEW),
    ("attempt-000/scalars.jsonl", drop_a_row_of_an_old_store, "(1 missing, the first at step", ANEW),
    ("attempt-000/signals.parquet", flip, "signals.parquet: damaged (not the bytes", ANEW),
    ("attempt-000/signals.parquet", Path.unlink, "signals.parquet: absent, though the trial has its result", ANEW),
    ("attempt-000/attempt.json", flip, "attempt.json: ", ANEW),
    ("attempt-000", shutil.rmtree, "attempt-000/attempt.json: absent, though the trial has its result", ANEW),
    ("result.json", flip, "result.json: ", ANEW),
    ("trial.json", flip, "trial.json: ", "trial.json: written again, as the study has it"),
    ("status.json", flip, "status.json: ", "status.json: written again"),
    ("status.json", leave_over, ".status.json.123: left over", ".status.json.123: removed"),
    ("attempt-000/checkpoint.pt", flip, "damaged checkpoint", "checkpoint.pt: set aside as checkpoint.pt.damaged"),
]


@pytest.mark.parametrize(("name", "damage", "fault", "mended"), FAULTS)
def test_a_fault_is_named_mended_and_the_next_run_ends_as_before(
    whole: Path, tmp_path: Path, name: str, damage: Callable[[Path], object], fault: str, mended: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole / "out", out)
    assert verify(out) == (0, [f"{os.path.relpath(out)}: 2 trials, all whole"])
    trial = load(out).trials.trial[1]
    damage(out / files.TRIALS / trial / name)
    code, lines = verify(out)
    assert code == 1 and any(trial in line and fault in line for line in lines), lines
    assert lines[-1].endswith("faults") and all(f"trials/{trial}" in line for line in lines[:-1])
    code, lines = verify(out, "--repair")
    assert code == 0 and any(trial in line and mended in line for line in lines), lines
    assert verify(out)[0] == 0
    run(whole / "tiny.yaml", out, jobs=1, device="cpu", show="nothing")
    assert verify(out)[0] == 0
    before, after = load(whole / "out"), load(out)
    assert after.trials.state.tolist() == ["done", "done"]
    for frame in ("scalars", "signals"):
        times = ["attempt", "wall_s", "images_per_s"]
        expected, got = (getattr(one, frame).drop(columns=times, errors="ignore") for one in (before, after))
        pd.testing.assert_frame_equal(got, expected, check_exact=True)
