"""Weight decay beside the gradient: median and range over layers by hand, and gradients of 0 in the top row."""

import math

import pytest
from fake_study import Fake

from initlab.plots import decay, decay_table


def probe(fake: Fake, trial: str, step: int, *ratios: float) -> None:
    fake.probes += [
        {"trial": trial, "attempt": 0, "step": step, "epoch": step / 10, "layer": layer, "decay_ratio": ratio}
        for layer, ratio in enumerate(ratios)
    ]


@pytest.fixture
def decayed(fake: Fake) -> Fake:
    for seed, factor in ((0, 1.0), (1, 4.0)):
        trial = fake.add("he", seed, verdict="converged")
        probe(fake, trial, 0, 0.01 * factor, 0.02 * factor, 0.5 * factor)
        probe(fake, trial, 10, 0.01, 0.01, 0.01)
    trial = fake.add("xavier", 0, verdict="stalled")
    probe(fake, trial, 0, 3.0, 5.0, 70.0)
    probe(fake, trial, 10, 3.0, math.inf, math.inf)
    return fake


def test_median_layer_and_range_over_layers_and_seeds(decayed: Fake) -> None:
    rows = decay_table(decayed).set_index(["init.scheme", "step"])
    he = rows.loc[("he", 0)]
    assert he["median"] == pytest.approx(math.sqrt(0.02 * 0.08))
    assert (he.low, he.high, he.seeds) == (0.01, 2.0, 2)
    assert rows.loc[("xavier", 0), ["median", "low", "high"]].tolist() == pytest.approx([5.0, 3.0, 70.0])
    assert rows.loc[("xavier", 10), ["median", "low", "high"]].tolist() == [math.inf, 3.0, math.inf]


def test_lines_hold_the_table_and_an_infinite_median_is_in_the_top_row(decayed: Fake) -> None:
    (ax,) = decay(decayed).axes
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert list(lines["he"].get_ydata()) == pytest.approx([0.04, 0.01])
    assert list(lines["_xavier infinite"].get_xdata()) == [1.0]
    assert list(lines["_equal"].get_ydata()) == [1.0, 1.0]
    assert ax.get_ylim()[1] > 70 and ax.get_yscale() == "log"


def test_without_weight_decay_there_is_none(fake: Fake) -> None:
    probe(fake, fake.add("he"), 0, 0.0, math.nan)
    with pytest.raises(ValueError, match=r"no decay_ratio to draw \(got 1 done, .*train.weight_decay"):
        decay_table(fake)
