"""`compare_paper` on made-up curves whose answer is known, and the command's exit codes."""

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from initlab.analysis.comparison import compare_paper
from initlab.cli import main
from initlab.errors import UserError
from initlab.report.paper_comparison import paper_json, paper_text
from tests.plots.fake_study import Fake


def falling(start: float, end: float, epochs: float = 10.0) -> dict[float, float]:
    """At chance up to `start`, then straight down to 0.1 at `end`."""
    steps = [i / 10 for i in range(round(epochs * 10) + 1)]
    return {t: min(0.9, max(0.1, 0.9 - 0.8 * (t - start) / (end - start))) for t in steps}


def study(xavier: float | None, depth: int, seeds: int = 3) -> Fake:
    """He comes down from epoch 1 to 2 (times 1.0, 1.1, … by seed), Xavier `xavier` times as late or never."""
    fake = Fake(threshold=0.45)
    for seed in range(seeds):
        pace = 1 + seed / 10
        fake.add("he", seed, depth, val=falling(0, 2 * pace), verdict="converged")
        if xavier:
            fake.add("xavier", seed, depth, val=falling(0, 2 * pace * xavier), verdict="converged")
        else:
            fake.add("xavier", seed, depth, val={float(t): 0.9 for t in range(11)}, verdict="stalled")
    return fake


def test_curves_like_figure_2_agree_with_it() -> None:
    comparison = compare_paper(study(1.45, depth=22), "fig2")
    assert [claim.agrees for claim in comparison.claims] == [True, True, True, True]
    assert comparison.agrees and comparison.depth == 22 and comparison.seeds == [0, 1, 2]
    for time in comparison.times:
        assert time.ratio.low == pytest.approx(1.45, rel=0.01)
        assert time.he == pytest.approx(2.2 * (0.9 - time.level) / 0.8, rel=0.01)  # the second seed's straight line


def test_figure_2s_ratio_is_the_papers_own() -> None:
    paper = compare_paper(study(1.45, depth=22), "fig2").claims[3].paper
    low, high = map(float, paper.split("–"))
    assert low == pytest.approx(1.43, abs=0.03) and high == pytest.approx(1.50, abs=0.03)


@pytest.mark.parametrize(("ratio", "agrees"), [(3.0, [True, True, True, False]), (0.8, [True, True, False, False])])
def test_another_ratio_or_order_does_not_agree(ratio: float, agrees: list[bool]) -> None:
    comparison = compare_paper(study(ratio, depth=22), "fig2")
    assert [claim.agrees for claim in comparison.claims] == agrees
    assert not comparison.agrees


def test_a_xavier_that_stalls_is_figure_3_and_its_ratio_a_bound() -> None:
    comparison = compare_paper(study(None, depth=30), "fig3")
    assert [claim.agrees for claim in comparison.claims] == [True, True, True, True]
    threshold = comparison.times[-1]
    assert threshold.level == 0.45
    # Straight down from 0.9 to 0.1 in 2, 2.2 and 2.4 epochs: 0.45 after 9/16 of them; the budget is 10.
    bounds = [10 / (length * 9 / 16) for length in (2.4, 2.2, 2.0)]
    assert threshold.interval.low == pytest.approx(bounds[0], rel=0.01) and math.isinf(threshold.interval.high)
    assert threshold.ratio.low == pytest.approx(bounds[1], rel=0.01)
    assert "at least" in comparison.claims[3].ours and math.isinf(threshold.xavier)


def test_a_xavier_that_learns_at_30_layers_is_not_figure_3() -> None:
    comparison = compare_paper(study(1.45, depth=30), "fig3")
    assert [claim.agrees for claim in comparison.claims] == [True, False, True, False]


def test_one_seed_has_no_interval_and_leaves_the_ratio_open() -> None:
    comparison = compare_paper(study(1.45, depth=22, seeds=1), "fig2")
    assert [claim.agrees for claim in comparison.claims] == [True, True, True, None]
    assert not comparison.agrees
    assert "open" in paper_text(comparison)


def test_levels_within_the_noise_of_the_validation_set_are_left_out() -> None:
    # Chance 0.9 on 360 images: 4 standard errors are 0.063, so 0.99, 0.98 and 0.95 of chance say nothing.
    shares = [time.share for time in compare_paper(study(1.45, depth=22), "fig2").times]
    assert shares == pytest.approx([0.9, 0.87, 0.8, 0.65, 0.5])


def test_neither_arm_learning_is_no_agreement_but_no_error() -> None:
    fake = Fake(threshold=0.45)
    for scheme in ("he", "xavier"):
        fake.add(scheme, 0, 30, val={0: 0.9, 5: 0.9}, verdict="stalled")
    comparison = compare_paper(fake, "fig3")
    assert [claim.agrees for claim in comparison.claims] == [False, True, None, None]
    assert comparison.times == []


@pytest.mark.parametrize(
    ("fake", "figure", "words"),
    [
        (study(1.45, 22), "fig4", r"--paper: unknown figure \(got 'fig4'\); allowed: fig2, fig3"),
        (study(1.45, 22), "fig3", r"no trials of he at 30 layers \(got he at 22, xavier at 22\)"),
    ],
)
def test_what_cannot_be_compared_says_so(fake: Fake, figure: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        compare_paper(fake, figure)


def test_two_trials_of_a_seed_and_unfinished_ones_are_refused() -> None:
    fake = study(1.45, 22)
    fake.add("he", 0, 22, val=falling(0, 2), verdict="converged")
    with pytest.raises(UserError, match="several trials of he at 22 layers and seed 0"):
        compare_paper(fake, "fig2")
    fake = Fake()
    for scheme in ("he", "xavier"):
        fake.add(scheme, 0, 30, val={0: 0.9}, verdict=None, state="running")
    with pytest.raises(UserError, match="no seed with finished trials"):
        compare_paper(fake, "fig3")


def test_json_has_the_claims_and_null_for_never() -> None:
    content = json.loads(paper_json(compare_paper(study(None, depth=30), "fig3")))
    assert content["agrees"] is True and content["times"][0]["xavier"] is None
    assert [claim["agrees"] for claim in content["claims"]] == [True] * 4


def test_the_commands_mistakes_are_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["compare", str(tmp_path / "none"), "--paper", "fig3"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
