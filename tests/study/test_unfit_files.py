"""A STUDY that has no end, or is too large, is refused by kind and size before it is read."""

import os
import time
from pathlib import Path

import pytest

from initlab import StudyError, load_study
from initlab.study.yaml_text import MOST_BYTES


def refusal(path: Path) -> str:
    started = time.process_time()
    with pytest.raises(StudyError) as error:
        load_study(path)
    assert time.process_time() - started < 1
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null"])
def test_a_device_is_refused(path: str) -> None:
    assert refusal(Path(path)).startswith(f"{path}: a device, a pipe or a socket, not a study file; give")


def test_a_pipe_is_refused_though_nobody_writes_to_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "a device, a pipe or a socket" in refusal(tmp_path / "pipe")


def test_a_file_of_50_megabytes_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    with open(path, "w") as file:
        file.truncate(50_000_000)
    assert "too large for a study (got 50,000,000 bytes); allowed: 2,000,000" in refusal(path)
    path.write_text(f"name: a\nquestion: {'x' * (MOST_BYTES - 20)}\n")
    assert path.stat().st_size <= MOST_BYTES
