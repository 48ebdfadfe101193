"""Depth: final errors counted by hand, diverged trials shown and kept out of the mean."""

import numpy as np
import pytest
from fake_study import Fake

from initlab.plots import depth, depth_table


def test_final_errors_are_the_last_validation_and_the_last_epochs_mean(two_depths: Fake) -> None:
    table = depth_table(two_depths)
    he = table[(table["init.scheme"] == "he") & (table["net.depth"] == 22)]
    val, train = he[he["quantity"] == "val_error"], he[he["quantity"] == "train_error"]
    assert val.value.tolist() == [0.2, 0.1]
    assert val["mean"].tolist() == pytest.approx([0.15, 0.15])
    assert (val.low == 0.1).all() and (val.high == 0.2).all() and (val.seeds == 2).all()
    assert train.value.tolist() == pytest.approx([0.3, 0.3])  # half of epoch 2 at 0.4, half at 0.2
    assert len(table) == 2 * 8


def test_lines_hold_the_table(two_depths: Fake) -> None:
    table, figure = depth_table(two_depths), depth(two_depths)
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "training, mean of the last epoch",
        "validation, at the end",
    ]
    assert figure.axes[0].get_ylabel() == "top-1 error (%)"
    assert figure.axes[0].get_xlabel() == "depth (weight layers)"
    for ax, quantity in zip(figure.axes, ("train_error", "val_error"), strict=True):
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["22", "30"]
        part = table[(table["init.scheme"] == "he") & (table["quantity"] == quantity)]
        lines = {one.get_label(): one for one in ax.get_lines()}
        np.testing.assert_array_equal(lines["he"].get_xdata(), [22, 30])
        np.testing.assert_array_equal(lines["he"].get_ydata(), part.drop_duplicates("net.depth")["mean"])
        np.testing.assert_array_equal(lines["_he seeds"].get_ydata(), part.value)
        assert list(lines["_chance"].get_ydata()) == [0.9, 0.9]
    title = figure.legends[0].get_title().get_text()
    assert title == "mean over 2 seeds; points: each seed; whiskers: range over seeds"


def test_diverged_trial_is_a_cross_with_its_count_and_not_in_the_mean(fake: Fake) -> None:
    for seed, error in enumerate((0.2, 0.4, 0.95)):
        diverged = {"verdict": "diverged", "state": "diverged"} if seed == 2 else {}
        fake.add("he", seed, 22, val={0: 0.9, 1: error}, train={10: (1.0, error)}, **diverged)
    fake.add("he", 0, 30, val={0: 0.9}, train={3: (9.9, 0.9)}, verdict="diverged", state="diverged")
    table = depth_table(fake)
    at_22 = table[(table["net.depth"] == 22) & (table["quantity"] == "val_error")]
    assert at_22["mean"].tolist() == pytest.approx([0.3] * 3)
    assert (at_22.seeds == 2).all() and (at_22.diverged_seeds == 1).all() and at_22.diverged.sum() == 1
    ax = depth(fake).axes[1]
    lines = {one.get_label(): one for one in ax.get_lines()}
    assert list(lines["he"].get_xdata()) == [22]
    assert list(lines["_he diverged"].get_xdata()) == [22, 30]
    assert "1 of 3" in [text.get_text() for text in ax.texts]


def test_a_line_is_a_scheme_with_what_it_makes_of_branches_over_blocks(fake: Fake) -> None:
    fake.extra = ["net.name", "net.norm", "init.branches"]
    for branches in (None, "scaled"):
        for norm in ("pre", "post"):
            fields = {"net.name": "transformer", "net.norm": norm, "init.branches": branches}
            fake.add("xavier", 0, 6, val={0: 0.9, 1: 0.5}, train={10: (1.0, 0.5)}, fields=fields)
    figure = depth(fake)
    assert len(figure.axes) == 4
    assert {ax.get_xlabel() for ax in figure.axes} == {"depth (blocks)"}
    lines = {one.get_label() for one in figure.axes[0].get_lines() if not one.get_label().startswith("_")}
    assert lines == {"xavier", "xavier, branches scaled"}


def test_unfinished_trials_are_left_out_and_alone_are_an_error(fake: Fake) -> None:
    fake.add("he", 0, val={0: 0.9}, verdict=None, state="running")
    with pytest.raises(ValueError, match=r"plot: no finished trial for the depth figure \(got 1 running\)"):
        depth(fake)
    fake.add("he", 1, val={0: 0.9, 1: 0.5}, train={10: (1.0, 0.5)})
    assert set(depth_table(fake).seed) == {1}
