"""`compare_arms` and `check_claims` on made-up studies whose answer is known, and what the command prints."""

import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from initlab.analysis.arm_comparison import compare_arms
from initlab.analysis.declared import check_claims
from initlab.cli import main
from initlab.errors import UserError
from initlab.report.arm_table import arms_json, arms_text
from initlab.report.claims_table import claims_text
from initlab.study.claims import Claim
from tests.plots.fake_study import Fake

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
BUDGET = {"train.epochs": 10.0}


def reaching(epoch: float | None) -> dict[float, float]:
    """Validated every 0.1 epochs of 10, below the threshold from `epoch` on."""
    return {i / 10: 0.3 if epoch is not None and i / 10 > epoch - 1e-9 else 0.9 for i in range(101)}


def add(fake: Fake, scheme: str, seed: int, epoch: float | None, depth: int = 30, **more: Any) -> None:
    verdict = more.pop("verdict", "stalled" if epoch is None else "converged")
    fake.add(
        scheme, seed, depth, val=reaching(epoch), verdict=verdict, fields={**BUDGET, **more.pop("fields", {})}, **more
    )


def study(xavier: float | None, seeds: int = 5, depth: int = 30) -> Fake:
    """He reaches it at 1.0, 1.1, 1.2, …, Xavier `xavier` times as late (or never)."""
    fake = Fake(threshold=0.45)
    for seed in range(seeds):
        add(fake, "he", seed, 1 + seed / 10, depth)
        add(fake, "xavier", seed, xavier and xavier * (1 + seed / 10), depth)
    return fake


def test_three_times_as_fast_is_said_with_its_interval() -> None:
    found = compare_arms(study(3.0))
    (row,) = found.pairs.to_dict("records")
    assert (row["arm"], row["other"], row["seeds"]) == ("he", "xavier", 5)
    assert row["ratio"] == pytest.approx(3.0) and row["ratio_low"] < 3.0 < row["ratio_high"]
    assert row["saved"] == pytest.approx(2.4)
    assert row["p"] == row["p_adjusted"] == pytest.approx(2 / 252)
    (statement,) = found.statements
    assert statement.supported and "he reaches 45 % error sooner than xavier: 3×" in statement.text
    he, xavier = found.arms.to_dict("records")
    assert (he["median_epoch"], he["median_low"], he["median_high"]) == (1.2, 1.0, 1.4)
    assert he["share_low"] == pytest.approx(0.025 ** (1 / 5))
    assert xavier["mean_epoch"] == pytest.approx(3.6) and xavier["budget"] == 10.0


def test_an_arm_that_never_gets_there_counts_with_its_budget() -> None:
    found = compare_arms(study(None))
    (row,) = found.pairs.to_dict("records")
    # Of the bounds 10 / 1.0, …, 10 / 1.4 the lowest.
    assert row["ratio_low"] == pytest.approx(10 / 1.4) and math.isinf(row["ratio_high"])
    assert "he reaches 45 % error in 5 of 5 seeds, xavier never does in 10 epochs, 0 of 5: at least 7.1×" in arms_text(
        found
    )
    assert "null" in arms_json(found)


@pytest.mark.parametrize(
    ("fake", "words"),
    [
        (study(3.0, seeds=4), "no p-value below 5 seeds"),
        (study(3.0, seeds=1), "3×, of one seed no interval"),
        (study(1.0), "p = 1"),
    ],
)
def test_what_is_not_shown_is_said_to_be_so(fake: Fake, words: str) -> None:
    (statement,) = compare_arms(fake).statements
    assert not statement.supported and statement.text.startswith("Not shown that ") and words in statement.text


def test_two_arms_that_never_get_there_cannot_be_compared() -> None:
    fake = Fake(threshold=0.45)
    for seed in range(5):
        add(fake, "gaussian", seed, None)
        # Diverged: never, though it was below the threshold.
        add(fake, "xavier", seed, 2.0, verdict="diverged", state="diverged")
    found = compare_arms(fake)
    assert "Neither gaussian nor xavier" in found.statements[0].text
    assert found.arms.diverged.to_list() == [0, 5] and found.arms.reached.to_list() == [0, 0]


def test_unfinished_trials_and_seeds_without_a_partner_are_named() -> None:
    fake = study(3.0)
    add(fake, "he", 7, 1.0)
    add(fake, "xavier", 8, None, verdict=None, state="running")
    text = arms_text(compare_arms(fake))
    assert "left out: 1 trial without a partner of the same seed" in text
    assert "Left out of 12 trials: 1 unfinished (1 running)." in text
    alone = Fake(threshold=0.45)
    add(alone, "he", 0, 1.0)
    add(alone, "xavier", 1, 2.0)
    assert "no seed in common" in compare_arms(alone).statements[0].text


def test_settings_are_compared_apart_and_at_takes_one() -> None:
    fake = study(3.0, depth=22)
    for row in study(None, depth=30).rows:
        add(fake, row["init.scheme"], row["seed"], 1 + row["seed"] / 10 if row["init.scheme"] == "he" else None, 30)
    found = compare_arms(fake)
    assert found.arms["net.depth"].to_list() == [22, 22, 30, 30]
    # Two comparisons: Holm doubles the smaller p, and the larger is no smaller.
    assert found.pairs.p_adjusted.to_list() == pytest.approx([4 / 252, 4 / 252])
    assert ["at 22 layers" in one.text for one in found.statements] == [True, False]
    assert len(compare_arms(fake, at={"net.depth": 30}).pairs) == 1


def test_branches_make_arms_of_their_own() -> None:
    fake = Fake(threshold=0.45, extra=["init.branches"])
    for seed in range(5):
        add(fake, "he", seed, 3.0, fields={"init.branches": None})
        add(fake, "he", seed, 1.0, fields={"init.branches": "scaled"})
    found = compare_arms(fake, "init.branches")
    assert found.statements[0].text.startswith("scaled reaches 45 % error sooner than none: 3×")


def test_many_comparisons_need_more_seeds() -> None:
    # Of the smallest p of five seeds, 2 / 252, seven are below 0.05, eight are not.
    fake = Fake(threshold=0.45)
    for depth in range(10, 18):
        for seed in range(5):
            add(fake, "he", seed, 1 + seed / 10, depth)
            add(fake, "xavier", seed, None, depth)
    found = compare_arms(fake)
    assert found.pairs.p_adjusted.min() == pytest.approx(16 / 252)
    assert all("so many comparisons need more seeds" in one.text for one in found.statements)


def test_fields_that_go_with_the_arm_are_named() -> None:
    fake = Fake(threshold=0.45, extra=["train.lr"])
    for seed in range(5):
        add(fake, "he", seed, 1.0, fields={"train.lr": 0.1})
        add(fake, "xavier", seed, 3.0, fields={"train.lr": 0.01})
    assert "they differ in train.lr too" in compare_arms(fake).statements[0].text


@pytest.mark.parametrize(
    ("by", "at", "words"),
    [
        ("init.shceme", {}, r"--by: no such field \(got 'init.shceme'\).*did you mean init.scheme\?"),
        ("train.lr", {}, r"--by: train.lr is the same in all trials \(got 0.003\); allowed: init.scheme"),
        ("seed", {}, "--by: a seed is a repeat"),
        ("init.scheme", {"net.depth": 22}, r"--at: no trial with net.depth=22 \(got 30\)"),
        ("init.scheme", {"net.depth": "deep"}, r"--at: net.depth: wrong type \(got 'deep'\)"),
    ],
)
def test_what_cannot_be_compared_is_one_line(by: str, at: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        compare_arms(study(3.0), by, at)


def test_nothing_finished_is_one_line() -> None:
    fake = Fake(threshold=0.45)
    for scheme in ("he", "xavier"):
        add(fake, scheme, 0, None, verdict=None, state="pending")
    with pytest.raises(UserError, match=r"no finished trials \(got 2 pending\)"):
        compare_arms(fake)


HE, XAVIER = {"init.scheme": "he"}, {"init.scheme": "xavier"}


@pytest.mark.parametrize(
    ("claim", "fake", "holds"),
    [
        (Claim(claim="faster", arm=HE, than=XAVIER), study(3.0), True),
        (Claim(claim="faster", arm=HE, than=XAVIER, times=2.0), study(3.0), True),
        (Claim(claim="faster", arm=HE, than=XAVIER, times=3.0), study(3.0), False),
        (Claim(claim="faster", arm=XAVIER, than=HE), study(3.0), False),
        (Claim(claim="faster", arm=HE, than=XAVIER), study(3.0, seeds=4), None),
        (Claim(claim="reaches", arm=XAVIER), study(3.0), True),
        (Claim(claim="reaches", arm=XAVIER), study(None), False),
        (Claim(claim="never_reaches", arm=XAVIER), study(None), True),
        (Claim(claim="never_reaches", arm=HE), study(None), False),
        # The lowest errors are 0.3 in every run that gets there, and 0.9 in the others.
        (Claim(claim="within", arm=HE, than=XAVIER, by=0.01), study(3.0), True),
        (Claim(claim="within", arm=HE, than=XAVIER, by=0.01), study(None), False),
        (Claim(claim="within", arm=HE, error=0.31, by=0.02), study(3.0), True),
        (Claim(claim="within", arm=HE, error=0.31, by=0.02), study(3.0, seeds=4), None),
        (Claim(claim="same_order", figure="fig3"), study(None), True),
        (Claim(claim="same_order", figure="fig3"), study(0.5), False),
    ],
)
def test_claims_hold_fail_or_are_open(claim: Claim, fake: Fake, holds: bool | None) -> None:
    fake.claims = [claim]
    (checked,) = check_claims(fake)
    assert checked.holds is holds, checked
    assert {True: "holds", False: "fails", None: "open"}[holds] in claims_text([checked])


def test_a_claim_is_open_while_trials_run_or_were_stopped() -> None:
    fake = study(None)
    fake.claims = [Claim(claim="reaches", arm=HE), Claim(claim="never_reaches", arm=XAVIER)]
    add(fake, "he", 5, None, verdict=None, state="running")
    add(fake, "xavier", 5, None, verdict="stalled", state="stopped")
    assert [one.holds for one in check_claims(fake)] == [None, None]


def test_claims_without_trials_or_on_several_are_one_line() -> None:
    fake = study(3.0)
    with pytest.raises(UserError, match="no claims in the study"):
        check_claims(fake)
    fake.claims = [Claim(claim="reaches", arm={"net.depth": 22})]
    with pytest.raises(UserError, match=r"claims\[0\]: no trial with net.depth=22"):
        check_claims(fake)
    fake.claims = [Claim(claim="reaches", arm={"net.depth": 30})]
    with pytest.raises(UserError, match=r"several trials of one seed .*; fix init.scheme too"):
        check_claims(fake)


def test_the_command_on_the_reference_results() -> None:
    result = CliRunner().invoke(main, ["compare", str(REFERENCE / "desk-fig2"), "--by", "init.scheme"])
    assert result.exit_code == 0
    # Epochs 1.5, 1.5, 1.5, 1.5, 1.75 against 3 to 4.5.
    assert "he reaches 70 % error sooner than xavier: 2.3×" in result.stdout
    result = CliRunner().invoke(main, ["compare", str(REFERENCE / "desk-fig2")])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    for options in (["--by", "init.scheme", "--paper", "fig2"], ["--at", "seed=1"], ["--by", "seed", "--at", "seed"]):
        assert CliRunner().invoke(main, ["compare", str(REFERENCE / "desk-fig2"), *options]).exit_code == 2
    assert "--by" in result.stderr and "--paper" in result.stderr and "claims" in result.stderr


def test_claims_decide_the_exit_code(tmp_path: Path) -> None:
    for file in (REFERENCE / "desk-fig3").glob("*.[pjy]*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    text = (tmp_path / "study.yaml").read_text()
    reaches = "\n- {claim: reaches, arm: {init.scheme: %s}}"
    for scheme, code in (("he", 0), ("xavier", 1)):
        (tmp_path / "study.yaml").write_text(f"{text}\nclaims:{reaches % scheme}\n")
        result = CliRunner().invoke(main, ["compare", str(tmp_path)])
        assert result.exit_code == code, result.output
