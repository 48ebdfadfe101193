"""The command line: exit codes, stopping and resuming, what is printed, what is imported."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from initlab import Results, load
from initlab.cli import main
from tests.conftest import write_tiny
from tests.launch.test_launch import assert_same_numbers, run

ROOT = Path(__file__).parents[2]
PATIENCE = 300  # seconds until something hangs, on a machine that has much else to do
# Two trials of 64 steps, a row every 5, that wait in the middle to be stopped: see `Held`. They need no process each,
# like those of initlab's nets.
HELD = {
    "net": {"name": "tests.engine.mine:held"},
    "train": {"epochs": 8, "log_every": 5},
    "run": {"isolate": "none"},
    "grid": {"seed": [0, 1]},
}


def initlab(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "initlab", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE, **options)  # type: ignore[call-overload]


def here(*arguments: object) -> Result:
    """The same command in this process, where Python and torch are up already."""
    return CliRunner().invoke(main, [*map(str, arguments)], catch_exceptions=False)


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "initlab", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    )


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def steps_done(out: Path) -> int:
    """Lines of scalars that any attempt has written."""
    return sum(path.read_bytes().count(b"\n") for path in out.glob("trials/*/attempt-*/scalars.jsonl"))


def test_help_and_version_and_the_module_are_the_command() -> None:
    assert "initlab run sweeps/demo.yaml" in initlab("--help").stdout
    assert re.fullmatch(r"initlab, version \d+\.\d+\.\d+\n", initlab("--version").stdout)
    for command in main.commands:
        shown = here(command, "--help")
        assert shown.exit_code == 0
        assert "Usage:" in shown.stdout


def test_all_done_is_0_and_what_came_of_it_is_printed(tiny: Callable[..., Path], tmp_path: Path) -> None:
    done = here("run", tiny(grid={"init.scheme": ["xavier", "he"]}), "--out", tmp_path / "a", "--jobs", 1)
    assert done.exit_code == 0, done.stderr
    assert "2 of 2 trials to run" in done.stdout
    assert re.search(r"t[0-9a-f]{12} plain-7 he seed 0: done, epoch 2, val_error 0\.\d+", done.stdout)
    assert re.search(r"plain-7 +xavier +1 +1 (slow|stalled)", done.stdout)
    exported = here("export", tmp_path / "a", "--to", "parquet")
    assert exported.exit_code == 0 and f"{tmp_path / 'a-parquet'}/signals.parquet" in exported.stdout
    before, after = (here("status", tmp_path / name).stdout for name in ("a", "a-parquet"))
    assert after == before.replace("/a:", "/a-parquet:")
    again = here("export", tmp_path / "a", "--to", "csv", "--folder", tmp_path / "a-parquet")
    assert (again.exit_code, "a-parquet: not empty" in again.stderr) == (2, True)
    again = here("run", tiny(grid={"init.scheme": ["xavier", "he"]}), "--out", tmp_path / "a")
    assert again.exit_code == 0
    assert "0 of 2 trials to run (2 finished before)" in again.stdout


def test_failed_trials_are_1_with_a_table_of_which_and_why(tiny: Callable[..., Path], tmp_path: Path) -> None:
    study = tiny(
        net={"name": "tests.engine.mine:net"},
        run={"isolate": "none"},
        grid={"net.options": [{"fail": True}, {"hidden": 4}]},
    )
    failed = here("run", study, "--out", tmp_path / "a", "--allow-code", "--jobs", 1)
    assert failed.exit_code == 1
    assert "1 of 2 trials failed" in failed.stderr
    assert re.search(r"  t[0-9a-f]{12}: RuntimeError: this net cannot be built", failed.stderr)
    assert "tests.engine.mine:net he seed 0 net.options={'hidden': 4}: done" in failed.stdout
    assert (
        "seed 0 net.options={'fail': True}: failed (RuntimeError" in here("status", tmp_path / "a", "--trials").stdout
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "absent.yaml"], "absent.yaml: no such study file"),
        (["run", "sweeps/demo.yaml", "--set", "init.mdoe=fan_in"], "did you mean init.mode?"),
        (["run", "sweeps/demo.yaml", "--engine", "slurm"], "'slurm' is not one of"),
        (["run", "sweeps/demo.yaml", "--jobs", "0"], "--jobs: out of range (got 0)"),
        (["run", "sweeps/demo.yaml", "--only", "t000"], "--only: no such trial (got 't000')"),
        (["plan"], "give a STUDY file, or --schema"),
        (["plan", "sweeps"], "sweeps: a folder, not a study file"),
        (["status", "sweeps"], "sweeps: not an output folder"),
        (["plot", "absent"], "absent: no such output folder"),
        (["nets", "small14"], "net.name: unknown net (got 'small14'); allowed: plain, mlp, transformer"),
        (["nets", "a.b:c"], "nets: code has no description (got 'a.b:c'); allowed: plain"),
        (["nets", "B", "--input", "3x224"], "--input: not an image's shape (got '3x224')"),
        (["nets", "B", "--input", "64"], "--input: too small for B (got 64x64 pixels); allowed: at least 111x111"),
        (["nets", "--input", "100"], "--input: too small for A (got 100x100 pixels)"),
        (["nets", "--classes", "0"], "--classes: out of range (got 0); allowed: at least 1"),
        (["nets", "B", "--set", "net.activaton=prelu"], "did you mean net.activation?"),
        (["nets", "plain", "--set", "net.depth=5"], "too small for 3 stages (got 5)"),
        (["nonsense"], "No such command 'nonsense'"),
    ],
)
def test_bad_usage_and_studies_are_2_in_words(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    wrong = here(*arguments)
    assert wrong.exit_code == 2
    assert words in wrong.stderr
    assert wrong.stdout == ""


def test_a_mistake_ends_the_process_with_2_and_no_traceback() -> None:
    wrong = initlab("run", "absent.yaml")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert re.fullmatch(r"absent\.yaml: no such study file; .*\n", wrong.stderr)


def test_a_held_output_folder_is_4(tiny: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "a"
    first = start("run", tiny(train={"epochs": 5000}), "--out", out, "--jobs", 1)
    wait_until(lambda: steps_done(out) > 1)
    second = here("run", tiny(train={"epochs": 5000}), "--out", out)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert second.exit_code == 4
    assert f"pid {first.pid}" in second.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The study run at a stretch."""
    folder = tmp_path_factory.mktemp("whole")
    return run(write_tiny(folder, **HELD), folder / "out", allow_code=True)


@pytest.fixture
def hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """While this file is there, trials of the study wait in their 25th step."""
    file = tmp_path / "hold"
    file.touch()
    monkeypatch.setenv("HELD", str(file))
    return file


@pytest.mark.parametrize(("how", "jobs"), [("SIGINT", 1), ("SIGTERM", 2), ("STOP", 1)])
def test_a_stopped_run_is_3_and_the_same_command_goes_on_to_the_same_numbers(
    how: str, jobs: int, tiny: Callable[..., Path], tmp_path: Path, whole: Results, hold: Path
) -> None:
    out = tmp_path / "a"
    command = ("run", tiny(**HELD), "--out", out, "--allow-code")
    process = start(*command, "--jobs", jobs)
    wait_until((hold.parent / "reached").exists)
    if how == "STOP":
        (out / "STOP").touch()
    else:
        process.send_signal(getattr(signal, how))
        wait_until((out / "STOP").exists)
    hold.unlink()
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3, stderr
    assert "the same command goes on" in stdout
    assert "interrupted" in load(out).trials.state.tolist()
    resumed = here(*command, "--jobs", 1)
    assert resumed.exit_code == 0, resumed.stderr
    assert ("removed" in resumed.stdout) == (how == "STOP")
    assert_same_numbers(load(out), whole)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_killed_launch_loses_nothing_and_its_workers_end(
    tiny: Callable[..., Path], tmp_path: Path, whole: Results, jobs: int, hold: Path
) -> None:
    out = tmp_path / "a"
    study = tiny(**HELD | {"run": {"isolate": "none", "checkpoint_every_s": 0.01}})
    command = ("run", study, "--out", out, "--allow-code")
    process = start(*command, "--jobs", jobs)
    wait_until(lambda: bool(list(out.glob("trials/*/attempt-000/checkpoint.pt"))))
    wait_until((hold.parent / "reached").exists)
    assert steps_done(out) > 4
    process.send_signal(signal.SIGKILL)
    process.communicate()
    hold.unlink()
    wait_until(lambda: not workers_of(out), seconds=20)
    resumed = here(*command, "--jobs", 1)
    assert resumed.exit_code == 0, resumed.stderr
    results = load(out)
    assert results.trials.attempts.max() == 2
    assert_same_numbers(results, whole)


def workers_of(out: Path) -> list[int]:
    """Processes that hold a file below `out` open."""
    pids = []
    for descriptors in Path("/proc").glob("[0-9]*/fd"):
        try:
            links = [os.readlink(link) for link in descriptors.iterdir()]
        except OSError:  # gone meanwhile, or not ours
            continue
        if any(link.startswith(str(out)) for link in links):
            pids.append(int(descriptors.parent.name))
    return pids


def test_plan_lines_begin_with_ids_and_tell_the_time_once_trials_finished(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    study = tiny(grid={"init.scheme": ["gaussian", "he"]}, init={"mode": "fan_out"})
    before = here("plan", study, "--out", tmp_path / "a").stdout.splitlines()
    lines = [line for line in before if re.match(r"t[0-9a-f]{12}  plain-7 ", line)]
    assert len(lines) == 2
    assert all(line.endswith("–") for line in lines)
    assert any(line.startswith("init.mode has no use in 1 of 2 trials") for line in before)
    assert here("run", study, "--out", tmp_path / "a", "--jobs", 1, "--only", lines[0].split()[0]).exit_code == 0
    after = here("plan", study, "--out", tmp_path / "a").stdout.splitlines()
    assert sum(bool(re.match(r"t[0-9a-f]{12} .* \d+ s$", line)) for line in after) == 2
    here("export", tmp_path / "a", "--to", "parquet", "--folder", tmp_path / "exported")
    assert here("plan", study, "--out", tmp_path / "exported").stdout.splitlines() == after


def test_status_tells_of_every_trial(tiny: Callable[..., Path], tmp_path: Path) -> None:
    study = tiny(grid={"seed": [0, 1]})
    first = here("plan", study).stdout.splitlines()[1].split()[0]
    here("run", study, "--out", tmp_path / "a", "--jobs", 1, "--only", first)
    shown = here("status", tmp_path / "a", "--trials").stdout
    assert "seed 0: done, epoch 2" in shown
    assert "seed 1: pending" in shown


@pytest.mark.parametrize(
    ("code", "banned"),
    [
        ("import initlab", {"torch", "ray", "pandas", "matplotlib", "pydantic", "click", "yaml", "numpy"}),
        (
            "import runpy, sys; sys.argv = ['initlab', '--help']; runpy.run_module('initlab', run_name='__main__')",
            {"torch", "ray", "pandas", "matplotlib", "numpy"},
        ),
        ("from initlab.cli import main; main(['plan', 'sweeps/demo.yaml'])", {"torch", "ray", "pandas", "matplotlib"}),
        ("from initlab.cli import main; main(['nets', 'B'])", {"torch", "ray", "pandas", "matplotlib"}),
    ],
)
def test_light_commands_import_no_heavy_modules(code: str, banned: set[str]) -> None:
    traced = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, cwd=ROOT)
    imported = {
        line.rsplit("|", 1)[1].strip().split(".")[0]
        for line in traced.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "initlab" in imported
    assert imported & banned == set()


def test_public_names_are_importable_and_listed() -> None:
    import initlab as package

    assert sorted(package.__all__) == sorted(package._HOMES)
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'rum'; it has"):
        _ = package.rum
