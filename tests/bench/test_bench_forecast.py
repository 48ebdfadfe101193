"""The bench of the forecast on tables counted by hand; the committed trials give the documented figures and the fit."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import initlab
from initlab.bench.forecast import (
    bench_forecast,
    hopeless_lines,
    reliability_lines,
    scores,
    verdict_lines,
    verdict_share_lines,
)
from initlab.bench.forecast_fit import base_rates, beats, fit, forecast, held_out, known_nets, learn_brier, single
from initlab.bench.forecast_trials import COLUMNS, trials_of
from initlab.inspection.diagnosis import LEARNED
from initlab.verdict.features import FEATURES
from initlab.verdict.odds import QUESTIONS, VERDICTS, shipped

ROOT = Path(__file__).parents[2]
COMMITTED = sorted((ROOT / "results" / "reference" / "forecast").glob("*.csv"))


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return trials_of(COMMITTED)


def made(rows: list[tuple[str, str, str, float]]) -> pd.DataFrame:
    """Trials of (family, optimiser, verdict, update), all else being equal."""
    names = ["family", "train.optimizer", "verdict", "update"]
    same = {"depth": 2.0, "steps": 100, "stop_step": np.nan, "data.name": "digits", "net.activation": "relu"}
    return pd.DataFrame(rows, columns=names).assign(**dict.fromkeys(set(FEATURES) - {"update", "depth"}, 1.0), **same)


def simple(families: str = "abc", repeats: int = 12) -> pd.DataFrame:
    """Families of which all learn from an update of -6 on, but for `c` where it is the other way round."""
    rows = []
    for family in families:
        for update in (-9.0, -8.0, -4.0, -3.0):
            learns = (update > -6) != (family == "c")
            rows += [(family, "sgd", "converged" if learns else "stalled", update)] * repeats
    return made(rows)


def test_scores_by_hand() -> None:
    odds = np.array([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.0, 0.5, 0.5, 0]])
    trials = made([("a", "sgd", verdict, 0.0) for verdict in ("converged", "stalled", "diverged")])
    # Brier 0, 0.75, 0.25 + 0.25 + 1.
    assert scores(trials, odds) == pytest.approx(((0 + 0.75 + 1.5) / 3, -(np.log(0.25) + np.log(1e-3)) / 3))
    # Learning: said 1, 0.5, 0.5 and came true 1, 0, 0.
    assert learn_brier(trials, odds).tolist() == [0, 0.25, 0.25]


def test_base_rates_are_those_of_the_same_optimiser() -> None:
    known = made([("a", "sgd", "stalled", 0), ("a", "sgd", "slow", 0), ("a", "adam", "diverged", 0)])
    new = made([("b", "adam", "slow", 0), ("b", "sgd", "slow", 0)])
    assert base_rates(known, new).tolist() == [[0, 0, 0, 1], [0, 0.5, 0.5, 0]]


def test_no_trial_is_predicted_by_a_fit_that_saw_its_family() -> None:
    seen = []

    def spy(known: pd.DataFrame, new: pd.DataFrame) -> np.ndarray:
        assert not set(known.family) & set(new.family)
        seen.append(len(new))
        return base_rates(known, new)

    held_out(simple(), spy)
    assert seen == [48, 48, 48]


def test_a_family_that_goes_against_all_others_is_not_told() -> None:
    trials = simple()
    ours, base = learn_brier(trials, held_out(trials, forecast)), learn_brier(trials, held_out(trials, base_rates))
    # A rule of one feature that says nothing, as all are equal but `update`.
    alone = {"loss": learn_brier(trials, held_out(trials, single("loss")))}
    known = known_nets(trials, ours, base, alone)
    assert known == {"families": {"a": False, "b": False, "c": False}, "optimizers": {"sgd": False}}
    trials = simple("ab")
    ours, base = learn_brier(trials, held_out(trials, forecast)), learn_brier(trials, held_out(trials, base_rates))
    assert known_nets(trials, ours, base, {"base": base})["families"] == {"a": True, "b": True}
    # The one feature that matters is as good alone, so that the whole forecast earns nothing.
    update = learn_brier(trials, held_out(trials, single("update")))
    assert not beats(np.full(len(trials), True), ours, base, {"update": update - 1e-9})


def test_reliability_and_verdicts_by_hand() -> None:
    trials = made([("a", "sgd", verdict, 0) for verdict in ("converged", "slow", "stalled", "diverged")])
    odds = np.array([[0.5, 0.45, 0.05, 0], [0.6, 0.2, 0.1, 0.1], [0.25, 0.35, 0.3, 0.1], [0, 0.05, 0.15, 0.8]])
    lines = [line.split() for line in reliability_lines(trials, odds)]
    assert lines == [
        ["0", "to", "0.1", "1", "0.050", "0.000"],
        ["0.5", "to", "0.7", "1", "0.600", "0.000"],
        ["0.7", "to", "0.9", "1", "0.800", "1.000"],
        ["0.9", "to", "1", "1", "0.950", "1.000"],
    ]
    first, _, *rows = verdict_lines(trials, odds, 0.75)
    # The third is unsure; of the others all are right on learning, and two on the verdict.
    assert first.endswith("75% of 4 trials, of which 100.0% did so, and 66.7% had this verdict")
    counts = {verdict: list(map(int, numbers)) for verdict, *numbers in map(str.split, rows)}
    assert counts["slow"] == [1, 0, 0, 0, 0] and counts["stalled"] == [0, 0, 0, 0, 1] and counts["diverged"][3] == 1


def test_what_skip_hopeless_would_do_by_hand() -> None:
    trials = made([("a", "sgd", verdict, 0) for verdict in ("stalled", "stalled", "slow", "converged")])
    _, line = hopeless_lines(trials.assign(stop_step=[50, np.nan, 60, np.nan]))
    assert line.split() == ["sgd", "2", "2", "1", "2", "22.5%"]  # 50 and 40 of 400 steps


def test_a_finished_study_and_the_table_that_it_leaves_print_the_same(tmp_path: Path, tiny: object) -> None:
    study = tiny(grid={"init.std": [1e-4, 0.25], "net.skip": ["none"]}, init={"scheme": "gaussian"})  # type: ignore[operator]
    out = tmp_path / "a"
    initlab.run(study, out, jobs=1, device="cpu", show="nothing")
    left = trials_of([out])
    assert list(left) == COLUMNS and left.family.tolist() == ["convolutions"] * 2
    pd.testing.assert_frame_equal(left, trials_of([out / "figures" / "forecast.csv"]))


def test_the_shipped_coefficients_are_the_fit_on_the_committed_trials(table: pd.DataFrame) -> None:
    ours, theirs = shipped(), fit(table)
    for key in ("mean", "scale", "low", "high"):
        np.testing.assert_allclose(getattr(ours, key), getattr(theirs, key), rtol=1e-6)
    for name in QUESTIONS:
        np.testing.assert_allclose(ours.questions[name].weights, theirs.questions[name].weights, rtol=1e-3, atol=1e-3)
    assert len(table) >= 1500 and set(ours.families) == set(table.family) and set(table.verdict) == set(VERDICTS)


def test_what_inspect_says_of_other_optimisers_is_what_the_committed_trials_show(table: pd.DataFrame) -> None:
    _, *lines = verdict_share_lines(table[table["data.name"] != "topics"])
    shares = [dict(zip(("sgd", "adam", "adamw"), re.findall(r"(\d+)%", line), strict=True)) for line in lines]
    for told, share in zip(("vanishing", "saturated"), shares, strict=False):
        assert {name: f"{value:.0%}" for name, value in LEARNED[told].items()} == {k: f"{v}%" for k, v in share.items()}


@pytest.mark.slow
def test_the_documented_tables_are_what_the_command_prints_and_keeps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = tmp_path / "forecast.json"
    monkeypatch.setattr("initlab.bench.forecast_fit.FITTED", kept)
    *printed, _ = bench_forecast(COMMITTED, write=True)
    (documented,) = re.findall(r"```text\n(.*?)```", (ROOT / "docs" / "forecast.md").read_text(), re.S)
    assert documented.strip().splitlines() == [line.rstrip() for line in printed]
    content = json.loads(kept.read_text())
    assert (content["families"], content["sure"]) == (shipped().families, shipped().sure)


@pytest.mark.parametrize("content", ["a,b\n1,2\n", ""])
def test_a_file_that_is_no_such_table_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"other\.csv: (no table of forecasts|cannot be read)"):
        list(bench_forecast([path], write=False))
