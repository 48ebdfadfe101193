"""A trial's folder says the same to launcher, worker and reader, and imports fast."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from initlab.store.files import StoreError, write_json
from initlab.store.trial_folder import TrialFolder
from initlab.study.spec import TrialSpec


@pytest.fixture
def folder(tmp_path: Path) -> TrialFolder:
    trial = TrialFolder(tmp_path, "t1")
    trial.path.mkdir(parents=True)
    return trial


def test_the_paths_are_those_of_the_contract(tmp_path: Path) -> None:
    trial = TrialFolder(tmp_path, "tabc")
    paths = (trial.trial_file, trial.status_file, trial.result_file)
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        "trials/tabc/trial.json",
        "trials/tabc/status.json",
        "trials/tabc/result.json",
    ]


def test_a_folder_that_is_not_there_is_a_pending_trial_without_attempts(tmp_path: Path) -> None:
    trial = TrialFolder(tmp_path, "t1")
    assert trial.status() == {"state": "pending"} and trial.result() is None and not trial.finished
    assert trial.attempts() == [] and trial.next_attempt() == 0 and trial.checkpoint() is None
    with pytest.raises(StoreError, match=r"trial\.json: absent"):
        trial.spec()


def test_what_is_written_is_read(folder: TrialFolder) -> None:
    spec = TrialSpec(seed=3)
    write_json(folder.trial_file, {"spec": spec.model_dump(mode="json")})
    write_json(folder.result_file, {"state": "diverged", "train_loss": math.inf})
    assert folder.spec() == spec
    assert folder.finished and folder.result() == {"schema": 1, "state": "diverged", "train_loss": math.inf}
    write_json(folder.trial_file, {"spec": {"seed": "three"}})
    with pytest.raises(StoreError, match=r"trial\.json: not a trial that this initlab reads"):
        folder.spec()
    write_json(folder.status_file, {"epoch": 2.0})
    assert folder.status() == {"schema": 1, "state": "interrupted", "epoch": 2.0}, "no state in it"


def test_checkpoints_come_newest_first_and_none_from_before_a_forced_attempt(folder: TrialFolder) -> None:
    for number in (0, 1, 3, 4):
        (folder.path / f"attempt-{number:03d}").mkdir()
    for number in (0, 1, 3):
        (folder.path / f"attempt-{number:03d}/checkpoint.pt").touch()
    assert [path.parent.name for path in folder.checkpoints()] == ["attempt-003", "attempt-001", "attempt-000"]
    write_json(folder.trial_file, {"first_attempt": 1})
    assert [path.parent.name for path in folder.checkpoints()] == ["attempt-003", "attempt-001"]
    assert folder.checkpoint() == folder.path / "attempt-003/checkpoint.pt"
    write_json(folder.trial_file, {"first_attempt": 4})
    assert folder.checkpoint() is None


def test_it_needs_neither_torch_nor_pandas() -> None:
    code = "import sys, initlab.store.trial_folder; assert not {'torch', 'pandas', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
