"""The figure of one inspected net, by its lines, bands and labels."""

import math

import pandas as pd
import pytest
from matplotlib.figure import Figure

from initlab.errors import UserError
from initlab.plots.inspection import inspection


def table(**columns: object) -> pd.DataFrame:
    rows = {
        "layer": range(4),
        "calls": [1, 1, 1, 0],
        "forward_var": [1.0, 0.5, 0.0, math.nan],
        "backward_var": [0.1, 0.2, 0.4, math.nan],
        "status": ["ok", "vanishing", "vanishing", "unused"],
    }
    return pd.DataFrame(rows | columns)


def lines(figure: Figure, panel: int) -> dict[str, object]:
    return {str(line.get_label()): line for line in figure.axes[panel].lines}


def test_points_by_status_and_a_row_for_zeros() -> None:
    figure = inspection(table(), "vanishing: because")
    forward = lines(figure, 0)
    assert list(forward["ok"].get_xdata()) == [1]
    assert list(forward["vanishing"].get_xdata()) == [2, 3]
    assert list(forward["_vanishing zero"].get_xdata()) == [3]
    assert list(lines(figure, 1)["vanishing"].get_ydata()) == [0.2, 0.4]
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["forward", "backward"]
    assert figure.axes[0].get_yscale() == "log"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ok", "vanishing"]
    assert figure.legends[0].get_title().get_text() == "vanishing: because"


def test_line_and_band_of_the_theory_where_there_is_one() -> None:
    theory = {"forward_predicted": [1.0, 0.6, 0.4, 0.3], "forward_low": 0.1, "forward_high": 2.0}
    figure = inspection(table(**theory), "")
    assert list(lines(figure, 0)["_predicted"].get_ydata()) == [1.0, 0.6, 0.4]
    assert len(figure.axes[0].collections) == 1
    assert len(figure.axes[1].collections) == 0
    assert "predicted median, 95 % band" in [text.get_text() for text in figure.legends[0].get_texts()]
    low, high = figure.axes[0].get_ylim()
    assert low < 0.1 and high > 2.0


def test_without_gradients_the_panel_says_so() -> None:
    figure = inspection(table(backward_var=math.nan), "")
    assert [text.get_text() for text in figure.axes[1].texts] == ["no labels: gradients not measured"]


def test_your_own_axes_take_two_panels() -> None:
    figure = Figure()
    axes = figure.subplots(1, 2)
    assert inspection(table(), "", axes) is figure
    with pytest.raises(UserError, match=r"one Axes per panel \(got 1 for 2"):
        inspection(table(), "", axes[0])
