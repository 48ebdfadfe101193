"""The look: schemes differ without colour too, and the room needs no torch."""

import subprocess
import sys
from typing import Any

import pytest
from fake_study import Fake
from matplotlib.colors import to_rgb

from initlab.plots import convergence, depth, heatmap, propagation, survival
from initlab.plots.legend import fitting_columns
from initlab.plots.style import LOOKS, SPARE, looks


def test_six_schemes_have_different_colours_and_different_line_and_marker() -> None:
    schemes = ["zeta", "xavier", "orthogonal", "he", "gaussian", "lsuv"]
    styles = looks(schemes)
    assert list(styles) == schemes, "the study's order"
    assert len({look.color for look in styles.values()}) == 6
    assert len({(str(look.line), look.marker) for look in styles.values()}) == 6


def test_the_papers_schemes_differ_in_lightness() -> None:
    def luminance(color: str) -> float:
        red, green, blue = to_rgb(color)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light = sorted(luminance(LOOKS[scheme].color) for scheme in ("he", "xavier", "gaussian"))
    assert light[1] - light[0] > 0.12 and light[2] - light[1] > 0.12


def test_a_scheme_keeps_its_look_whatever_else_is_shown() -> None:
    assert looks(["he"])["he"] == looks(["a", "he", "xavier"])["he"] == LOOKS["he"]
    assert looks(["mine", "he"])["mine"] == SPARE[0]


def test_twelve_lines_all_differ() -> None:
    styles = looks([f"mine{number}" for number in range(12)]).values()
    assert len({look.color for look in styles}) == len({look.marker for look in styles}) == 12


@pytest.mark.parametrize("draw", [convergence, depth, heatmap, propagation, survival])
def test_a_figure_is_as_wide_as_a_papers_column_and_nothing_lies_outside(two_depths: Fake, draw: Any) -> None:
    figure = draw(two_depths, width="column")
    figure.draw_without_rendering()
    drawn = figure.get_tightbbox()
    assert figure.get_figwidth() == 3.25 and -0.03 < drawn.x0 < drawn.x1 < 3.28


def test_text_width_is_that_of_a_paper_even_of_one_panel_and_no_other_is_known(two_depths: Fake) -> None:
    assert propagation(two_depths, width="text").get_figwidth() == 6.75
    with pytest.raises(ValueError, match=r"propagation: unknown width \(got 'page'\); allowed: column, text"):
        propagation(two_depths, width="page")


def test_legend_breaks_into_rows_that_fit() -> None:
    assert fitting_columns(["he", "xavier"], 6.75) == 2
    assert fitting_columns(["a name of some length"] * 6, 6.75) == 3
    assert fitting_columns(["x" * 200, "y"], 6.75) == 1


def test_figures_need_no_torch_and_no_pyplot() -> None:
    code = "import sys, initlab.plots; print('torch' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["False", "False"]


def test_figure_shows_itself_in_a_notebook(two_depths: Fake) -> None:
    picture = convergence(two_depths)._repr_png_()
    assert picture.startswith(b"\x89PNG") and 10_000 < len(picture) < 150_000
