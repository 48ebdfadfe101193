"""Kaplan-Meier curves drawn: shares by hand, runs that never get there counted and marked."""

import pytest
from fake_study import Fake

from initlab.plots import survival, survival_table

BUDGET = {"train.epochs": 3.0}


@pytest.fixture
def raced(fake: Fake) -> Fake:
    """Of He's four seeds one reaches 50 % at epoch 1, two at 2, one never; Xavier's two never; 3 epochs each."""
    fake.threshold = 0.5
    for seed, reached in enumerate((1, 2, 2, None)):
        val = {epoch: 0.4 if reached is not None and epoch >= reached else 0.9 for epoch in range(4)}
        fake.add("he", seed, val=val, verdict="converged" if reached else "stalled", fields=BUDGET)
    for seed in (0, 1):
        fake.add("xavier", seed, val=dict.fromkeys(range(4), 0.9), verdict="stalled", fields=BUDGET)
    return fake


def test_shares_of_runs_that_are_still_above(raced: Fake) -> None:
    table = survival_table(raced)
    he = table[table["init.scheme"] == "he"]
    assert he.epoch.tolist() == [0, 1, 2, 3]
    assert he.survival.tolist() == pytest.approx([1.0, 0.75, 0.25, 0.25])
    assert he.at_risk.tolist() == [4, 4, 3, 1] and he.censored.tolist() == [0, 0, 0, 1]
    assert (he.seeds == 4).all() and (he.threshold == 0.5).all() and (he.budget == 3).all()
    xavier = table[table["init.scheme"] == "xavier"]
    assert xavier.survival.tolist() == [1.0, 1.0] and xavier.censored.tolist() == [0, 2]


def test_steps_and_marks_are_those_of_the_table(raced: Fake) -> None:
    figure = survival(raced)
    (ax,) = figure.axes
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert lines["he"].get_drawstyle() == "steps-post"
    assert list(lines["he"].get_ydata()) == pytest.approx([1.0, 0.75, 0.25, 0.25])
    assert (*lines["_he censored"].get_xdata(), *lines["_he censored"].get_ydata()) == (3.0, 0.25)
    assert figure.legends[0].get_title().get_text() == "threshold: 50 % top-1 error; 2 to 4 seeds; band: 95 % interval"


def test_no_finished_trial_is_told(fake: Fake) -> None:
    fake.add("he", val={0: 0.9}, verdict=None, state="running")
    with pytest.raises(ValueError, match=r"no finished trial for the survival figure \(got 1 running\)"):
        survival(fake)
