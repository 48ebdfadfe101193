"""Convergence: the table against numbers counted by hand, and the lines drawn against the table."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from fake_study import NAN, Fake
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from initlab.errors import UserError
from initlab.plots import convergence, convergence_table
from initlab.plots.convergence import beside_paper_table


def line(ax: Axes, label: str) -> Line2D:
    return next(one for one in ax.get_lines() if one.get_label() == label)


def legend_texts(figure: Figure) -> Sequence[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_mean_low_and_high_are_over_the_seeds_of_a_depth_and_scheme(two_depths: Fake) -> None:
    table = convergence_table(two_depths)
    he = table[(table["net.depth"] == 22) & (table["init.scheme"] == "he") & (table.seed == 0)].set_index("epoch")
    assert list(he.val_error) == [0.9, 0.5, 0.2]
    assert he["mean"].tolist() == pytest.approx([0.9, 0.4, 0.15])
    assert he.low.tolist() == [0.9, 0.3, 0.1]
    assert he.high.tolist() == [0.9, 0.5, 0.2]
    assert (table.seeds == 2).all() and (table.chance == 0.9).all() and table.threshold.isna().all()
    assert len(table) == 2 * 2 * 2 * 3  # depths, schemes, seeds, epochs


def test_table_agrees_with_a_groupby_of_the_frames(two_depths: Fake) -> None:
    merged = two_depths.scalars.dropna(subset="val_error").merge(two_depths.trials, on="trial", suffixes=("", "_last"))
    expected = merged.groupby(["net.depth", "init.scheme", "epoch"]).val_error.agg(["mean", "min", "max"])
    table = convergence_table(two_depths).drop_duplicates(["net.depth", "init.scheme", "epoch"])
    means = table.set_index(["net.depth", "init.scheme", "epoch"])[["mean", "low", "high"]].sort_index()
    np.testing.assert_allclose(means.to_numpy(), expected.to_numpy(), rtol=1e-14)


def test_lines_hold_the_table_and_panels_are_depths(two_depths: Fake) -> None:
    table = convergence_table(two_depths)
    figure = convergence(two_depths)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["30 layers", "22 layers"], "the order of the study"
    for ax, depth in zip(figure.axes, (30, 22), strict=True):
        for scheme in ("he", "xavier"):
            part = table[(table["net.depth"] == depth) & (table["init.scheme"] == scheme)]
            first = part[part.seed == 0]
            np.testing.assert_array_equal(line(ax, scheme).get_xdata(), first.epoch)
            np.testing.assert_array_equal(line(ax, scheme).get_ydata(), first["mean"])
            seed = part[part.seed == 1]
            np.testing.assert_array_equal(line(ax, f"_{scheme} seed 1").get_ydata(), seed.val_error)
        band = ax.collections[0].get_paths()[0].vertices
        assert band[:, 1].min() == 0.1 and band[:, 1].max() == 0.9
        assert ax.get_xlabel() == "epoch"
    assert figure.axes[0].get_ylabel() == "validation top-1 error (%)"
    assert legend_texts(figure) == ["he", "xavier"]
    title = figure.legends[0].get_title().get_text()
    assert title == "mean over 2 seeds; thin: each seed; band: range over seeds"


def test_percent_is_on_the_axis_alone(two_depths: Fake) -> None:
    ax = convergence(two_depths).axes[0]
    assert ax.yaxis.get_major_formatter()(0.2, 0) == "20"
    assert max(line(ax, "he").get_ydata()) == 0.9


def test_chance_is_always_drawn_and_the_threshold_where_the_study_sets_one(two_depths: Fake) -> None:
    ax = convergence(two_depths).axes[1]
    assert list(line(ax, "_chance").get_ydata()) == [0.9, 0.9]
    assert "_threshold" not in [one.get_label() for one in ax.get_lines()]
    two_depths.threshold = 0.2
    ax = convergence(two_depths).axes[1]
    assert list(line(ax, "_threshold").get_ydata()) == [0.2, 0.2]
    assert {"chance", "threshold"} <= {text.get_text() for text in ax.texts}


def test_he_is_solid_and_xavier_dashed_as_in_the_paper(two_depths: Fake) -> None:
    ax = convergence(two_depths).axes[0]
    assert (line(ax, "he").get_linestyle(), line(ax, "xavier").get_linestyle()) == ("-", "--")


def test_the_legend_names_a_fixed_standard_deviation_where_there_is_one(fake: Fake) -> None:
    fake.add("he", val={0: 0.9})
    fake.add("gaussian", val={0: 0.9}, fields={"init.std": 0.02})
    # A trial that left the study is not drawn, and says nothing of those that are.
    fake.add("gaussian", 1, val={0: 0.9}, fields={"init.std": 0.01}, in_study=False)
    assert legend_texts(convergence(fake)) == ["he", "std 0.02"]
    fake.add("gaussian", 2, val={0: 0.9}, fields={"init.std": 0.03})
    assert legend_texts(convergence(fake)) == ["he", "gaussian"]
    fake.add("my.schemes:fixup", val={0: 0.9})
    assert legend_texts(convergence(fake)) == ["he", "gaussian", "fixup"]


def test_the_legend_tells_in_what_arms_differ_beside_the_scheme(fake: Fake) -> None:
    fake.extra = ["train.lr", "train.momentum", "init.mode"]
    for momentum in (0.0, 0.9):
        fields = {"train.momentum": momentum, "init.mode": "fan_out"}
        fake.add("he", val={0: 0.9}, fields={"train.lr": 0.1, **fields})
        fake.add("xavier", val={0: 0.9}, fields={"train.lr": 0.5, **fields})
    fake.add("gaussian", 0, val={0: 0.9}, fields={"train.lr": 0.1, "train.momentum": 0.0, "init.mode": "fan_in"})
    # The momentum makes panels, as it differs within a scheme; a fixed std has no use for a mode.
    assert legend_texts(convergence(fake)) == ["he, lr 0.1", "xavier, lr 0.5", "std 0.01, lr 0.1"]


def test_single_seed_has_one_line_and_no_band(fake: Fake) -> None:
    fake.add("he", val={0: 0.9, 1: 0.4})
    figure = convergence(fake)
    assert not figure.axes[0].collections
    assert [one.get_label() for one in figure.axes[0].get_lines()] == ["he", "_chance"]
    assert figure.legends[0].get_title().get_text() == "1 seed"


def test_mean_ends_where_a_seed_diverged_and_a_cross_marks_it(fake: Fake) -> None:
    fake.add("he", 0, val={0: 0.9, 1: 0.5, 2: 0.4})
    fake.add("he", 1, val={0: 0.8, 1: 0.7}, verdict="diverged", state="diverged")
    table = convergence_table(fake)
    survivor = table[table.seed == 0]
    assert survivor["mean"].tolist() == pytest.approx([0.85, 0.6, NAN], nan_ok=True)
    assert table.loc[table.diverged, ["seed", "epoch", "val_error"]].to_numpy().tolist() == [[1, 1.0, 0.7]]
    figure = convergence(fake)
    assert list(line(figure.axes[0], "he").get_xdata()) == [0, 1]
    assert list(line(figure.axes[0], "_he seed 0").get_xdata()) == [0, 1, 2]
    cross = line(figure.axes[0], "_he diverged")
    assert (list(cross.get_xdata()), list(cross.get_ydata()), cross.get_marker()) == ([1.0], [0.7], "x")
    assert "diverged (the mean ends)" in legend_texts(figure)


def test_diverged_trial_without_a_finite_value_is_a_cross_at_the_top(fake: Fake) -> None:
    fake.add("he", val={0: 0.9}, train={10: (2.0, 0.8)})
    fake.add("xavier", val={0: 0.9}, train={5: (math.nan, 0.9)}, verdict="diverged", state="diverged")
    table = convergence_table(fake, "train_loss")
    lost = table[table["init.scheme"] == "xavier"]
    assert lost.epoch.tolist() == [0.5] and lost.train_loss.isna().all() and lost.diverged.all()
    cross = line(convergence(fake, quantity="train_loss").axes[0], "_xavier diverged, no value")
    assert list(cross.get_xdata()) == [0.5] and 0.9 < cross.get_ydata()[0] < 1


def test_training_quantities_are_means_over_the_epoch_weighted_by_steps(fake: Fake) -> None:
    fake.add("he", val={0: 0.9}, train={8: (2.0, 0.8), 10: (1.0, 0.3), 20: (0.5, 0.2)})
    table = convergence_table(fake, "train_error")
    assert table.epoch.tolist() == [1.0, 2.0]
    assert table.train_error.tolist() == pytest.approx([(8 * 0.8 + 2 * 0.3) / 10, 0.2])
    assert convergence_table(fake, "train_loss").train_loss.tolist() == pytest.approx([(8 * 2.0 + 2 * 1.0) / 10, 0.5])


def test_epoch_with_a_nan_loss_has_no_mean_loss(fake: Fake) -> None:
    fake.add("he", val={0: 0.9}, train={10: (2.0, 0.8), 15: (1.0, 0.5), 20: (NAN, 0.9)}, verdict="diverged")
    assert convergence_table(fake, "train_loss").train_loss.tolist() == [2.0]


def test_field_that_varies_within_a_scheme_makes_panels(tmp_path) -> None:
    fake = Fake(out=tmp_path, extra=["train.lr", "train.epochs"])
    for lr in (0.1, 0.01):
        for scheme in ("he", "xavier"):
            fields = {"train.lr": lr, "train.epochs": 1.0 if scheme == "he" else 2.0}
            fake.add(scheme, val={0: 0.9, 1: lr}, fields=fields)
    table = convergence_table(fake)
    assert list(dict.fromkeys(table.panel)) == ["30 layers\ntrain.lr 0.1", "30 layers\ntrain.lr 0.01"], (
        "as they were added"
    )
    assert (table.seeds == 1).all(), "two learning rates are not two seeds"


def test_field_that_differs_between_studies_makes_panels(tmp_path) -> None:
    studies = []
    for lr in (0.1, 0.01):
        study = Fake(out=tmp_path)
        study.add("he", seed=round(lr * 100), val={0: 0.9, 1: lr}, fields={"train.lr": lr})
        studies.append(study)
    studies[1].rows[0]["trial"] = studies[1].curves[0]["trial"] = studies[1].curves[1]["trial"] = "t-other"
    assert set(convergence_table(studies).panel) == {"30 layers\ntrain.lr 0.1", "30 layers\ntrain.lr 0.01"}


def test_trial_in_two_folders_counts_once_finished_before_unfinished(tmp_path) -> None:
    running, done = Fake(out=tmp_path), Fake(out=tmp_path)
    running.add("he", val={0: 0.9}, verdict=None, state="running")
    done.add("he", val={0: 0.9, 1: 0.5})
    table = convergence_table([running, done])
    assert table.epoch.tolist() == [0.0, 1.0] and (table.seeds == 1).all()


def test_trials_that_left_the_study_are_not_drawn(two_depths: Fake) -> None:
    two_depths.add("gaussian", val={0: 0.9, 1: 0.1}, in_study=False)
    assert "gaussian" not in set(convergence_table(two_depths)["init.scheme"])


def test_more_panels_than_readable_are_refused(tmp_path) -> None:
    fake = Fake(out=tmp_path)
    for depth in range(10, 23):
        fake.add("he", depth=depth, val={0: 0.9})
    with pytest.raises(UserError, match=r"too many panels to read \(got 13, by net.depth\); at most 12"):
        convergence(fake)


def test_a_threshold_far_below_the_curves_takes_no_room(tmp_path) -> None:
    fake = Fake(threshold=0.2, out=tmp_path)
    fake.add("xavier", val={0: 0.9, 1: 0.906, 2: 0.896})
    figure = convergence(fake)
    with warnings.catch_warnings(action="error"):  # matplotlib warns where a layout leaves its panels no room
        figure.draw_without_rendering()
    (ax,) = figure.axes
    (threshold,) = [text for text in ax.texts if text.get_text() == "threshold"]
    assert ax.get_ylim()[0] > 0.2 and threshold.get_tightbbox().width <= 0


def test_unknown_quantity_and_a_study_without_rows_are_told_in_one_line(fake: Fake) -> None:
    with pytest.raises(ValueError, match=r"unknown quantity \(got 'acc'\); allowed: val_error, train_error, "):
        convergence_table(fake, "acc")  # type: ignore[arg-type]
    fake.add("he", verdict=None, state="pending")
    with pytest.raises(ValueError, match=r"plot: no val_error to draw yet \(got 1 pending\)"):
        convergence(fake)


def test_the_papers_figures_are_panels_beside_ours(two_depths: Fake) -> None:
    figure = convergence(two_depths, paper=True)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    paper = [f"He et al. 2015, Fig {number}, digitised" for number in (2, 3)]
    assert titles == ["30 layers", paper[1], "22 layers", paper[0]]
    assert line(figure.axes[1], "paper, xavier").get_ydata() == pytest.approx([0.9991] * 244, abs=2e-4)
    assert len(line(figure.axes[3], "paper, he").get_xdata()) == 97
    assert figure.axes[0].get_ylim()[0] < 0.01 < 0.75 < figure.axes[3].get_ylim()[0]


def test_beside_the_paper_an_epoch_is_told_in_images_of_imagenet(two_depths: Fake) -> None:
    ours, paper = convergence(two_depths, paper=True).axes[:2]
    assert ours.get_xlabel() == "epoch (1 has 0.0011 of ImageNet's images)", "1,437 of 1,281,167"
    assert paper.get_xlabel() == "epoch of ImageNet"
    assert convergence(two_depths).axes[0].get_xlabel() == "epoch"


def test_the_papers_panels_are_refused_where_they_do_not_fit(two_depths: Fake) -> None:
    with pytest.raises(UserError, match=r"validation errors \(got train_loss\)"):
        convergence(two_depths, quantity="train_loss", paper=True)
    fake = Fake()
    fake.add("he", depth=14, val={0: 0.9, 1: 0.5})
    with pytest.raises(UserError, match=r"no curve of this depth \(got 14\); allowed: 22, 30"):
        convergence(fake, paper=True)


def test_the_table_beside_the_paper_holds_its_points_too(two_depths: Fake) -> None:
    table = beside_paper_table(two_depths)
    assert len(table) == len(convergence_table(two_depths)) + 684
    assert table.panel.nunique() == 4
