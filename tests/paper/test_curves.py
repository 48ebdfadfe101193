"""The paper's digitised curves: the counts and times that the fact sheet gives, read a second way."""

import math
from pathlib import Path

import numpy as np
import pytest

from initlab.paper.curves import CURVES, PAPER_FIGURES, curve, digitised, length, local_means, time_to

ROOT = Path(__file__).parent.parent.parent


def test_the_table_has_the_vertices_of_four_lines() -> None:
    counts = digitised().groupby(["figure", "init"]).size()
    assert counts.to_dict() == {(2, "he"): 97, (2, "xavier"): 101, (3, "he"): 242, (3, "xavier"): 244}
    assert [length(figure) for figure in PAPER_FIGURES.values()] == pytest.approx([3.007, 9.938], abs=0.001)


def test_there_is_one_copy_and_results_links_to_it() -> None:
    link = ROOT / "results/reference/paper/fig2_fig3_digitised.csv"
    assert link.is_symlink() and link.resolve() == CURVES.resolve()


@pytest.mark.parametrize(
    ("figure", "init", "times"),  # first epoch at which the local mean is below 0.99, 0.98, 0.95, 0.90, 0.87, 0.80
    [
        ("fig2", "he", [0.44, 0.62, 1.09, 1.65, 2.01, 2.91]),
        ("fig2", "xavier", [0.66, 0.92, 1.56, 2.43, 2.90, math.inf]),
        ("fig3", "he", [0.60, 0.87, 1.52, 2.81, 3.86, 9.51]),
        ("fig3", "xavier", [math.inf] * 6),
    ],
)
def test_times_to_levels_are_those_read_from_the_drawing(figure: str, init: str, times: list[float]) -> None:
    epochs = [time_to(PAPER_FIGURES[figure], init, level) for level in (0.99, 0.98, 0.95, 0.90, 0.87, 0.80)]
    assert epochs == pytest.approx(times, abs=0.035)  # an evaluation's spacing


def test_xaviers_line_of_30_layers_is_at_one_height() -> None:
    assert np.ptp(curve(PAPER_FIGURES["fig3"], "xavier").top1_error) < 1e-9


def test_local_means_by_hand() -> None:
    x, y = np.array([0.0, 1.0, 2.0]), np.array([3.0, 6.0, 0.0])
    assert local_means(x, y, 1.0).tolist() == [4.5, 3.0, 3.0]
