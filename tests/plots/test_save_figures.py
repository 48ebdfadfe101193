"""Saved files: which figures, exact CSV, same bytes again, and nothing of the user's matplotlib changed."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from fake_study import Fake

from initlab.plots import FIGURES, convergence, depth, save_figures, signals


def test_each_figure_is_png_svg_and_the_exact_numbers(two_depths: Fake, tmp_path: Path) -> None:
    paths = save_figures(two_depths)
    assert [path.relative_to(tmp_path / "figures").as_posix() for path in paths] == [
        f"{name}.{ending}"
        for name in ("convergence", "survival", "effects", "signals", "propagation", "depth")
        for ending in ("png", "svg", "csv")
    ]
    assert {"heatmap", "decay", "theory", "paper"} < set(FIGURES)
    for name in ("convergence", "signals", "depth"):
        read = pd.read_csv(tmp_path / "figures" / f"{name}.csv", dtype={"moment": str})
        pd.testing.assert_frame_equal(read, FIGURES[name][0](two_depths), check_exact=True, check_dtype=False)
    assert paths[0].read_bytes().startswith(b"\x89PNG") and b"<svg" in paths[1].read_bytes()


def test_same_results_give_the_same_bytes(two_depths: Fake, tmp_path: Path) -> None:
    first = [path.read_bytes() for path in save_figures(two_depths, ["convergence"], tmp_path / "a")]
    with mpl.rc_context({"font.size": 20, "svg.hashsalt": None, "axes.grid": False, "lines.linewidth": 9}):
        second = [path.read_bytes() for path in save_figures(two_depths, ["convergence"], tmp_path / "b")]
    assert first == second


def test_vector_pictures_have_text_as_text_and_their_font(two_depths: Fake, tmp_path: Path) -> None:
    paths = save_figures(two_depths, ["depth"], tmp_path / "a", width="column", forms=["svg", "pdf"])
    assert [path.name for path in paths] == ["depth.svg", "depth.pdf", "depth.csv"]
    svg, pdf = (path.read_bytes() for path in paths[:2])
    assert b">xavier</text>" in svg and b"DejaVu Sans" in svg
    # 3.25 inches of 72 points.
    assert b"/MediaBox [ 0 0 234 " in pdf and b"/FontFile2" in pdf and b"/Type3" not in pdf
    again = save_figures(two_depths, ["depth"], tmp_path / "b", width="column", forms=["pdf"])
    assert again[0].read_bytes() == pdf
    with pytest.raises(ValueError, match=r"unknown form \(got 'eps'\); allowed: png, svg, pdf"):
        save_figures(two_depths, ["depth"], forms=["eps"])


def test_settings_and_current_figure_of_the_user_are_untouched(two_depths: Fake, tmp_path: Path) -> None:
    mine = plt.figure()
    before = mpl.rcParams.copy()
    save_figures(two_depths, ["depth"])
    for draw in (convergence, signals, depth):
        draw(two_depths)
    assert mpl.rcParams == before
    assert plt.gcf() is mine and plt.get_fignums() == [mine.number] and not mine.axes
    plt.close(mine)


@pytest.mark.parametrize(("draw", "count"), [(convergence, 2), (signals, 4), (depth, 2)])
def test_drawing_into_axes_of_the_user_returns_their_figure(two_depths: Fake, draw, count: int) -> None:
    mine, axes = plt.subplots(1, count)
    assert draw(two_depths, ax=axes) is mine
    assert all(len(ax.get_lines()) >= 2 for ax in axes) and axes[0].get_legend() is not None and not mine.legends
    with pytest.raises(ValueError, match=rf"ax: one Axes per panel \(got 1 for {count}: .*\); give {count}"):
        draw(two_depths, ax=axes[0])
    plt.close(mine)


def test_one_depth_has_no_depth_figure_unless_asked_for(fake: Fake, tmp_path: Path) -> None:
    fake.add("he", val={0: 0.9, 1: 0.5}, train={10: (1.0, 0.5)}, probes={0: [(1.0, 1.0)]})
    said: list[str] = []
    names = {path.stem for path in save_figures(fake, say=said.append)}
    assert names == {"convergence", "survival", "signals"}
    assert said == []
    assert {path.stem for path in save_figures(fake, names=["depth"], say=said.append)} == {"depth"}
    assert said == []


def test_figure_without_rows_is_left_out_with_a_line_or_raises_when_asked_for(fake: Fake) -> None:
    fake.add("he", val={0: 0.9, 1: 0.5}, verdict=None, state="running")
    said: list[str] = []
    assert {path.stem for path in save_figures(fake, say=said.append)} == {"convergence"}
    assert len(said) == 2 and "no signals" in said[0] and "no finished trial" in said[1]
    with pytest.raises(ValueError, match="plot: no signals to draw"):
        save_figures(fake, names=["convergence", "signals"])


def test_nothing_to_draw_raises_and_writes_nothing(fake: Fake, tmp_path: Path) -> None:
    fake.add("he", verdict=None, state="pending")
    fake.add("xavier", verdict=None, state="pending")
    with pytest.raises(ValueError, match=r"plot: no val_error to draw yet \(got 2 pending\); "):
        save_figures(fake)
    assert not (tmp_path / "figures").exists()


def test_wrong_names_and_missing_folder_are_told_in_one_line(two_depths: Fake) -> None:
    with pytest.raises(ValueError, match=r"unknown figure \(got 'loss'\); allowed: convergence, survival, effects, si"):
        save_figures(two_depths, names=["loss"])
    with pytest.raises(ValueError, match=r"no figure to draw \(got an empty list of names\); allowed: convergence, "):
        save_figures(two_depths, names=[])
    with pytest.raises(ValueError, match="no folder for figures of 2 studies"):
        save_figures([two_depths, two_depths])
    with pytest.raises(ValueError, match=r"no results \(got an empty sequence\)"):
        save_figures([])
