"""The forest plot: ratios and intervals as `compare_arms` has them, open ends as arrows, 1 in sight."""

import math

import pytest
from fake_study import Fake

from initlab.plots import effects, effects_table

BUDGET = {"train.epochs": 10.0}


def add(fake: Fake, scheme: str, seed: int, epoch: float | None) -> None:
    val = {i / 10: 0.3 if epoch is not None and i / 10 > epoch - 1e-9 else 0.9 for i in range(101)}
    fake.add(scheme, seed, val=val, verdict="stalled" if epoch is None else "converged", fields=BUDGET)


@pytest.fixture
def raced(fake: Fake) -> Fake:
    """He at 1.0, 1.1, …; Xavier three times as late; fixed std and orthogonal never."""
    for seed in range(5):
        for scheme, times in (("gaussian", None), ("orthogonal", None), ("xavier", 3.0), ("he", 1.0)):
            add(fake, scheme, seed, times and times * (1 + seed / 10))
    return fake


def test_a_row_per_pair_of_which_one_gets_there(raced: Fake) -> None:
    table = effects_table(raced).set_index("label")
    assert len(table) == 5  # of six pairs, the two that never get there say nothing
    row = table.loc["he before xavier"]
    assert row.ratio == pytest.approx(3.0) and row.ratio_low < 3 < row.ratio_high
    assert row.shown and math.isinf(table.loc["he before gaussian"].ratio_high)


def test_intervals_points_and_arrows(raced: Fake) -> None:
    (ax,) = effects(raced).axes
    labels = [text.get_text() for text in ax.get_yticklabels()]
    lines = {line.get_label(): line for line in ax.get_lines()}
    row = effects_table(raced).set_index("label").loc["he before xavier"]
    interval, point = lines["_he before xavier"], lines["he before xavier"]
    assert list(interval.get_xdata()) == pytest.approx([row.ratio_low, row.ratio_high])
    assert list(point.get_xdata()) == [row.ratio] and point.get_ydata()[0] == len(labels) - labels.index(
        point.get_label()
    )
    arrows = [line for line in ax.get_lines() if line.get_marker() == ">"]
    assert len(arrows) == 4 and all(line.get_xdata()[0] == ax.get_xlim()[1] for line in arrows)
    assert "at least 7.1×" in {text.get_text() for text in ax.texts}
    assert ax.get_xlim()[0] < 1


def test_few_seeds_show_nothing(fake: Fake) -> None:
    for seed in range(3):
        add(fake, "he", seed, 1.0)
        add(fake, "xavier", seed, 3.0)
    figure = effects(fake)
    assert not effects_table(fake).shown.any()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["not shown by the seeds"]


def test_one_scheme_and_nobody_there_are_told(fake: Fake) -> None:
    add(fake, "he", 0, None)
    with pytest.raises(ValueError, match=r"no effects of one scheme \(got he\); in Python, give by= another field"):
        effects_table(fake)
    add(fake, "xavier", 0, None)
    with pytest.raises(ValueError, match="no effects by"):
        effects_table(fake)
