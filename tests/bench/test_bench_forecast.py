"""Scores against hand counts; the committed trials give the documented figures and the shipped fit."""

import re
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from initlab.bench.forecast import (
    CELL,
    FOLDS,
    bench_forecast,
    fit,
    held_out,
    hopeless_line,
    most_frequent,
    read_table,
    reliability_lines,
    scores,
    theory_sign,
)
from initlab.verdict.odds import FEATURES, VERDICTS, shipped

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "results" / "reference" / "phase" / "forecast.csv"


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return read_table(COMMITTED)


def test_scores_by_hand() -> None:
    odds = np.array([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.0, 0.5, 0.5, 0]])
    # Right, (a tie goes to the first) wrong, wrong; Brier 0, 0.75, 0.25 + 0.25 + 1.
    accuracy, brier, loss = scores(pd.Series(["converged", "stalled", "diverged"]), odds)
    assert accuracy == pytest.approx(1 / 3)
    assert brier == pytest.approx((0 + 0.75 + 1.5) / 3)
    assert loss == pytest.approx(-(np.log(1) + np.log(0.25) + np.log(1e-3)) / 3)


def test_baselines_by_hand() -> None:
    known = pd.DataFrame(
        {"init.std": [0.1, 0.1, 0.3, 0.3], "critical_std": 0.2, "verdict": ["stalled", "slow", "diverged", "diverged"]}
    )
    new = pd.DataFrame({"init.std": [0.05, 0.2], "critical_std": 0.2})
    assert most_frequent(known, new).tolist() == [[0, 0.25, 0.25, 0.5]] * 2
    assert theory_sign(known, new).tolist() == [[0, 0.5, 0.5, 0], [0, 0, 0, 1]]


def test_no_trial_is_predicted_by_a_fit_that_saw_its_cell(table: pd.DataFrame) -> None:
    sizes = []

    def spy(known: pd.DataFrame, new: pd.DataFrame) -> np.ndarray:
        cells = [set(map(tuple, frame[CELL].to_numpy())) for frame in (known, new)]
        assert not cells[0] & cells[1]
        sizes.append(len(new))
        return most_frequent(known, new)

    held_out(table, spy)
    assert len(sizes) == FOLDS and sum(sizes) == len(table) >= 300


def test_the_shipped_coefficients_are_the_fit_on_the_committed_trials(table: pd.DataFrame) -> None:
    for ours, theirs in zip(astuple(shipped()), astuple(fit(table)), strict=True):
        if isinstance(ours[0], str):
            assert ours == theirs
        else:
            np.testing.assert_allclose(np.array(ours), np.array(theirs), rtol=1e-3, atol=1e-3)


def test_the_documented_tables_are_what_the_command_prints_on_the_committed_trials() -> None:
    printed = list(bench_forecast(COMMITTED, write=False))
    (documented,) = re.findall(r"```text\n(.*?)```", (ROOT / "docs" / "forecast.md").read_text(), re.S)
    assert documented.strip().splitlines() == [line.rstrip() for line in printed]


def test_the_forecast_beats_both_baselines_and_is_reliable(table: pd.DataFrame) -> None:
    odds = held_out(table, lambda known, new: fit(known).probabilities(new[list(FEATURES)].to_numpy(float)))
    ours, theory, frequent = (
        scores(table.verdict, o) for o in (odds, held_out(table, theory_sign), held_out(table, most_frequent))
    )
    assert ours[0] > max(theory[0], frequent[0]) + 0.2
    assert ours[1] < 0.6 * min(theory[1], frequent[1]) and ours[2] < 0.6 * min(theory[2], frequent[2])
    for line in reliability_lines(table, odds):
        *_, trials, mean, share = line.split()
        # A bin's share is within 4 standard errors of what it promised.
        error = np.sqrt(float(mean) * (1 - float(mean)) / int(trials))
        assert abs(float(mean) - float(share)) < 4 * error, line


def test_every_verdict_occurs_and_no_trial_that_learns_would_be_stopped(table: pd.DataFrame) -> None:
    assert set(table.verdict) == set(VERDICTS)
    stopped = table[table.stop_step.notna()]
    assert len(stopped) > 50 and set(stopped.verdict) <= {"stalled", "diverged"}
    assert (stopped.stop_step >= stopped.steps / 2).all()
    assert "0 of them wrongly" in hopeless_line(table)


@pytest.mark.parametrize("content", ["a,b\n1,2\n", ""])
def test_a_file_that_is_no_such_table_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"other\.csv: (no table of a phase study|cannot be read)"):
        list(bench_forecast(path, write=False))
