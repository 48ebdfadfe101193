"""The code that a trial names: hashed only where the user allows it, and refused once it is edited."""

from hashlib import sha256
from pathlib import Path

import pytest

from initlab.study.mistakes import StudyError
from initlab.study.spec import TrialSpec
from initlab.study.trial_code import check_sources, code_names, source_hashes

TRIAL = TrialSpec.model_validate({"net": {"name": "trialcode:net"}, "init": {"scheme": "trialcode:scheme"}})
NAMES = {"net.name": "trialcode:net", "init.scheme": "trialcode:scheme"}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "trialcode.py").write_text("raise RuntimeError('hashed without being run')")
    return tmp_path / "trialcode.py"


def test_each_field_that_names_code_has_the_hash_of_its_file(module: Path):
    assert code_names(TRIAL) == NAMES
    assert source_hashes(TRIAL, allow_code=True) == dict.fromkeys(NAMES, sha256(module.read_bytes()).hexdigest())
    assert source_hashes(TrialSpec(), allow_code=False) == {}


def test_code_is_not_looked_for_before_it_is_allowed():
    with pytest.raises(StudyError, match=r"^net.name: names code \(got 'trialcode:net'\), .* --allow-code"):
        source_hashes(TRIAL, allow_code=False)


def test_code_that_was_edited_since_the_launch_is_refused(module: Path):
    planned = source_hashes(TRIAL, allow_code=True)
    check_sources(TRIAL, planned)
    module.write_text("# edited")
    with pytest.raises(RuntimeError, match=r"^net.name: the source of 'trialcode:net' changed since"):
        check_sources(TRIAL, planned)


def test_code_that_the_launch_did_not_plan_is_refused(module: Path):
    with pytest.raises(RuntimeError, match=r"^net.name: the source"):
        check_sources(TRIAL, {})
