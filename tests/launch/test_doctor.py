"""`initlab doctor`: each lack is said with its fix, and what a run needs decides the exit code."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from initlab.cli import main
from initlab.launch import doctor
from initlab.launch.doctor import Finding, examine


def test_all_works_here_but_data_that_is_not_at_hand(tmp_path: Path) -> None:
    findings = {finding.what: finding for finding in examine(tmp_path / "not" / "yet", None, None)}
    assert [name for name, finding in findings.items() if not finding.works and finding.needed] == []
    assert {"python", "torch", "gpus", "cores", "ray", "room", "disk", "clock", "locks", "cache", "data"} == {*findings}
    assert str(findings["data"]).endswith("; give --data-dir DIR or set INITLAB_DATA=DIR")
    assert "digits, synthetic" in str(findings["data"]) and "not cifar10" in str(findings["data"])
    assert list(tmp_path.iterdir()) == []


def test_a_lack_of_what_a_run_needs_is_exit_code_1_with_its_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(doctor.fcntl, "flock", no_locks)
    shown = CliRunner().invoke(main, ["doctor", "--out", str(tmp_path)])
    assert shown.exit_code == 0, "a run goes on without locks"
    assert "absent  locks     none (Function not implemented); a run holds its folder by a file" in shown.stdout
    refused = CliRunner().invoke(main, ["doctor", "--out", str(tmp_path), "--address", "127.0.0.1:1"])
    assert refused.exit_code == 1
    assert "BROKEN  cluster   --address: nothing answers" in refused.stdout


def test_what_no_run_needs_is_called_absent() -> None:
    assert str(Finding("data", False, "none", "get some", needed=False)) == "absent  data      none; get some"
    assert str(Finding("disk", True, "fast", "buy one")) == "ok      disk      fast"
