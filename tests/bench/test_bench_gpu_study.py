"""A study cut to the minutes of a loan: its pace by hand, alike for every trial, and going on after the time is up."""

import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest
from click.testing import CliRunner

import initlab
from initlab.bench import gpu_study
from initlab.bench.gpu_trials import pace
from initlab.cli import main
from initlab.store.results import Results

# Ten iterations an epoch; the quick bench tells its pace by four.
STUDY = """
name: loan
data: {name: digits, train_examples: 320, val_examples: 64}
net: {depth: 6, width: 2}
train: {epochs: EPOCHS, batch_size: 32, lr: 0.003, log_every: 2, validate_every: 50}
probe: {every: 0}
grid: {init.scheme: [he, xavier]}
"""


def bench_gpu(epochs: int, minutes: float, *options: str) -> tuple[Any, dict[str, Any]]:
    """The outcome of the command in this folder, with the matrix product and the study alone; and the study's row."""
    Path("loan.yaml").write_text(STUDY.replace("EPOCHS", str(epochs)))
    sections = ["--section", "bf16", "--study", "loan.yaml", *options]
    run = CliRunner().invoke(
        main, ["bench", "gpu", "--device", "cpu", "--quick", "--minutes", str(minutes), "--out", "x.json", *sections]
    )
    return run, json.loads(Path("x.json").read_text())["rows"][-1] if Path("x.json").exists() else {}


def test_a_step_is_the_second_half_s_and_the_rest_is_before_the_first() -> None:
    # 20 s of compiling, then 0.5 s a step with all that belongs to it.
    rows = pd.DataFrame({"trial": "a", "step": [0, 10, 20, 30, 40], "wall_s": [1.0, 25.0, 30.0, 35.0, 40.0]})
    other = rows.assign(trial="b", wall_s=0.0)
    assert pace(cast(Results, SimpleNamespace(scalars=pd.concat([rows, other])))) == (20.0, 0.5)


def test_each_trial_has_as_many_iterations_as_the_minutes_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # At a second a step and four before the first, 0.9 x 60 s / 2 trials hold 23 iterations of the study's 100.
    monkeypatch.setattr(gpu_study, "pace", lambda results: (4.0, 1.0))
    monkeypatch.setattr(gpu_study, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    plan = gpu_study.fitted(write(tmp_path, 10), ["seed=3"], None, "cpu", 4)
    (row,) = plan.rows(60.0, [])
    assert (row["value"], row["unit"]) == (23, "iterations")
    assert row["note"].startswith("of 100; 2 of 2 trials done, in results/loan; 1 iterations/s, 4 s before the first")
    results = initlab.load("results/loan")
    assert results.scalars.groupby("trial").step.max().tolist() == [23, 23]
    assert results.trials.seed.tolist() == [3, 3]


def write(folder: Path, epochs: int) -> Path:
    """The study in a file."""
    path = folder / "loan.yaml"
    path.write_text(STUDY.replace("EPOCHS", str(epochs)))
    return path


def test_a_study_that_fits_is_trained_whole_and_never_over_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run, row = bench_gpu(1, 5)
    assert run.exit_code == 0, run.output
    assert (row["value"], row["what"]) == (10, "loan")
    run, _ = bench_gpu(1, 5)
    assert (run.exit_code, run.stderr) == (
        2,
        "bench gpu: results/loan is there already; move it, or go on with it by initlab run\n",
    )


def test_what_time_ends_goes_on_by_the_command_that_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu_study, "pace", lambda results: (0.0, 1e-3))  # far from it
    plan = gpu_study.fitted(write(tmp_path, 200), [], None, "cpu", 4)
    (row,) = plan.rows(gpu_study.time.perf_counter() + 1.5, [])
    done = int(re.search(r"(\d) of 2 trials done", row["note"])[1])  # type: ignore[index]
    assert done < 2
    command = row["note"].split("; goes on by initlab ")[1]
    run = CliRunner().invoke(main, shlex.split(command))
    assert run.exit_code == 0, run.output
    results = initlab.load("results/loan")
    assert results.trials.state.tolist() == ["done", "done"]
    assert results.scalars.groupby("trial").step.max().tolist() == [row["value"]] * 2


def test_minutes_that_hold_next_to_nothing_are_a_row_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu_study, "pace", lambda results: (30.0, 1.0))
    plan = gpu_study.fitted(write(tmp_path, 10), [], None, "cpu", 4)
    (row,) = plan.rows(gpu_study.time.perf_counter() + 20, [])
    assert row["value"] is None
    assert re.match(r"left out: (19|20) s hold 0 iterations; 1 iterations/s, 30 s before the first", row["note"])
    assert not Path("results/loan").exists()
