"""Learned slopes: means over seeds counted by hand, the paper's table beside them, and silence where there are none."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_study import NAN, Fake

from initlab.nets.catalog import paper_net
from initlab.plots import prelu, prelu_table, save_figures
from initlab.plots.prelu import PAPER, TABLE_1

START = [(0.25, 0.0), (0.25, 0.0)]


@pytest.fixture
def learned(fake: Fake) -> Fake:
    """He of two seeds and Xavier of one, two PReLU layers each; the last step of He's seed 1 came later."""
    fake.add("he", 0, slopes={0: START, 10: [(0.9, 0.1), (0.9, 0.1)], 20: [(0.5, 0.1), (0.1, 0.02)]})
    fake.add("he", 1, slopes={0: START, 30: [(0.7, 0.3), (-0.1, 0.04)]})
    fake.add("xavier", 0, slopes={0: START, 20: [(0.2, 0.0), (0.3, 0.0)]})
    return fake


def test_the_table_is_the_last_step_of_each_trial_over_seeds(learned: Fake) -> None:
    table = prelu_table(learned)
    he = table[table["init.scheme"] == "he"].set_index("layer")
    assert he["mean"].tolist() == pytest.approx([0.6, 0.0])
    assert (he.low.tolist(), he.high.tolist()) == ([0.5, -0.1], [0.7, 0.1])
    assert he.spread.tolist() == pytest.approx([0.2, 0.03])
    assert he.epoch.tolist() == [2.5, 2.5]
    assert (he.seeds == 2).all() and (he.start == 0.25).all() and he.name.tolist() == ["act0", "act1"]
    assert table[table["init.scheme"] == "xavier"]["mean"].tolist() == [0.2, 0.3]


def test_the_papers_table_stands_beside_it(learned: Fake) -> None:
    paper = prelu_table(learned).query("panel == @PAPER")
    shared = paper[paper["init.scheme"] == "shared"]
    channel_wise = paper[paper["init.scheme"] == "channel-wise"]
    layers = [
        layer.name
        for layer in paper_net("small-14")
        if layer.name.startswith(("conv", "fc")) and "act" not in layer.name
    ]
    assert shared.name.tolist() == channel_wise.name.tolist() == layers[:-1], "all weight layers but fc3"
    # Sums of the columns as the fact sheet prints them.
    assert shared["mean"].sum() == pytest.approx(2.385)
    assert channel_wise["mean"].sum() == pytest.approx(2.977)
    assert (shared["mean"].iloc[0], channel_wise["mean"].iloc[4]) == (0.681, 0.464)
    assert len(TABLE_1) == 13
    assert shared.channels.sum() == 13 and channel_wise.channels.sum() == 10_304, "the paper's numbers of slopes"


def test_lines_and_whiskers_hold_the_table(learned: Fake) -> None:
    table, figure = prelu_table(learned), prelu(learned)
    ours, paper = figure.axes
    assert [ax.get_title(loc="left") for ax in (ours, paper)] == ["30 layers", PAPER]
    assert ours.get_ylabel() == "slope below zero"
    for name, ax in (("he", ours), ("xavier", ours), ("shared", paper), ("channel-wise", paper)):
        line = next(one for one in ax.get_lines() if one.get_label() == name)
        part = table[table["init.scheme"] == name]
        np.testing.assert_array_equal(line.get_ydata(), part["mean"])
        np.testing.assert_array_equal(line.get_xdata(), part.layer + 1)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["he", "xavier", "paper, shared", "paper, channel-wise"]
    starts = [one.get_ydata()[0] for ax in (ours, paper) for one in ax.get_lines() if one.get_label() == "_start"]
    assert starts == [0.25, 0.25]


def test_activations_of_one_depth_are_panels_of_their_own(fake: Fake) -> None:
    fake.extra = ["net.activation"]
    for kind, slope in (("prelu", 0.4), ("prelu_shared", 0.1)):
        fake.add("he", slopes={0: START, 5: [(slope, 0.0), (slope, 0.0)]}, fields={"net.activation": kind})
    fake.add("he", val={0: 0.9}, fields={"net.activation": "relu"})
    panels = list(dict.fromkeys(prelu_table(fake).panel))
    assert panels == ["30 layers\nnet.activation prelu", "30 layers\nnet.activation prelu_shared", PAPER]


def test_it_is_drawn_unasked_where_slopes_were_learned_and_not_mentioned_elsewhere(
    learned: Fake, tmp_path: Path
) -> None:
    said: list[str] = []
    learned.add("he", 2, val={0: 0.9, 1: NAN}, train={10: (1.0, 0.5)})
    names = {path.name for path in save_figures(learned, say=said.append)}
    assert {"prelu.png", "prelu.svg", "prelu.csv"} <= names
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "figures" / "prelu.csv"), prelu_table(learned), check_exact=True, check_dtype=False
    )
    relu = Fake(out=tmp_path / "relu")
    relu.add("he", val={0: 0.9}, train={10: (1.0, 0.5)})
    said.clear()
    assert not any("prelu" in path.name for path in save_figures(relu, say=said.append))
    assert not any("slopes" in line for line in said)


def test_a_study_without_prelu_says_so_when_asked(fake: Fake) -> None:
    fake.add("he", val={0: 0.9})
    with pytest.raises(ValueError, match=r"plot: no slopes to draw \(got 1 done, none with PReLU\); .*prelu_shared"):
        prelu(fake)
