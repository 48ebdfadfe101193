"""Running moments drawn: three layers' variances over the epochs, means over seeds, silence where there are none."""

from pathlib import Path

import pandas as pd
import pytest
from fake_study import Fake

from initlab.plots import running, running_table, save_figures


def layers(*variances: float) -> list[tuple[float, float]]:
    return [(variance, variance / 100) for variance in variances]


@pytest.fixture
def sampled(fake: Fake) -> Fake:
    """Five layers, rows at steps 10 and 20; He of two seeds, Xavier of one, whose first layer's signal becomes 0."""
    fake.add("he", 0, running={10: layers(1.0, 2.0, 3.0, 4.0, 5.0), 20: layers(1.0, 2.0, 4.0, 8.0, 16.0)})
    fake.add("he", 1, running={10: layers(4.0, 2.0, 3.0, 4.0, 5.0), 20: layers(1.0, 2.0, 9.0, 8.0, 1.0)})
    fake.add("xavier", 0, running={10: layers(1e-57, 1.0, 1.0, 1.0, 1.0), 20: layers(0.0, 1.0, 1.0, 1.0, 1.0)})
    return fake


def test_the_table_is_of_a_first_a_middle_and_the_last_layer_over_seeds(sampled: Fake) -> None:
    table = running_table(sampled)
    assert len(table) == 2 * 2 * 2 * 3  # schemes, directions, steps, places
    keys = ["init.scheme", "direction", "place", "step"]
    points = table.set_index(keys)
    he = points.loc[("he", "forward", "first", 10)]
    assert (he["mean"], he.low, he.high, he.seeds, he.layer, he.epoch) == (pytest.approx(2.0), 1.0, 4.0, 2, 0, 1.0)
    assert points.loc[("he", "forward", "middle", 20), "mean"] == pytest.approx(6.0)
    assert points.loc[("he", "backward", "last", 20), "mean"] == pytest.approx(0.04)
    assert points.loc[("xavier", "forward", "first", 10), "mean"] == pytest.approx(1e-57)
    assert points.loc[("xavier", "forward", "first", 20), "zeros"] == 1
    assert set(table.layer) == {0, 2, 4}


def test_lines_hold_the_table(sampled: Fake) -> None:
    table, figure = running_table(sampled), running(sampled)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["30 layers, forward", "30 layers, backward"]
    for ax, direction in zip(figure.axes, ("forward", "backward"), strict=True):
        assert (ax.get_yscale(), ax.get_xlabel()) == ("log", "epoch")
        drawn = {line.get_label(): line for line in ax.get_lines()}
        assert len(drawn) == 6
        for (scheme, place), part in table[table.direction == direction].groupby(["init.scheme", "place"]):
            x, y = drawn[f"{scheme} {place}"].get_data()
            assert list(x) == part.epoch.tolist()
            assert pd.Series(y).equals(part["mean"].reset_index(drop=True))
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {"he", "xavier", "first layer", "middle", "last"}


def test_it_is_drawn_unasked_where_there_are_some_and_not_mentioned_elsewhere(sampled: Fake, tmp_path: Path) -> None:
    sampled.add("he", 2, val={0: 0.9}, train={10: (1.0, 0.5)})
    assert {"running.png", "running.svg", "running.csv"} <= {path.name for path in save_figures(sampled)}
    without = Fake(out=tmp_path / "without")
    without.add("he", val={0: 0.9}, train={10: (1.0, 0.5)})
    said: list[str] = []
    assert not any("running" in path.name for path in save_figures(without, say=said.append))
    assert not any("running" in line for line in said)
    with pytest.raises(ValueError, match=r"no running moments to draw \(got 1 done, 0 rows.*probe.running_every"):
        running(without)
