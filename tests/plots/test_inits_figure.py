"""The figure of several initialisations: a line per scheme and direction over theory's band, up to eight told apart."""

import numpy as np
import pandas as pd
import pytest

from initlab.errors import UserError
from initlab.plots.inits import inits, inits_table
from initlab.plots.style import looks


def signals(schemes: list[str], layers: int = 3, factor: float = 0.5) -> pd.DataFrame:
    """Two seeds of each scheme, whose variances are 1 and 4 times a power of the factor."""
    return pd.DataFrame(
        [
            {
                **{"scheme": scheme, "seed": seed, "layer": layer, "name": f"l{layer}", "calls": 1},
                **{"forward_var": 4.0**seed * factor**layer, "backward_var": 0.0 if layer == 0 else 1.0},
                **{"forward_predicted": factor**layer, "forward_low": factor**layer / 3, "forward_high": 9.0},
                **{"backward_predicted": np.nan, "backward_low": np.nan, "backward_high": np.nan},
            }
            for scheme in schemes
            for seed in (0, 1)
            for layer in range(layers)
        ]
    )


def test_the_table_has_geometric_means_zeros_and_theory() -> None:
    table = inits_table(signals(["he", "mine"]))
    forward = table[(table["init.scheme"] == "mine") & (table.direction == "forward")]
    assert forward["mean"].tolist() == pytest.approx([2.0, 1.0, 0.5])
    assert (forward.low.tolist(), forward.high.tolist()) == ([1.0, 0.5, 0.25], [4.0, 2.0, 1.0])
    assert forward.theory_median.tolist() == [1.0, 0.5, 0.25]
    backward = table[(table["init.scheme"] == "he") & (table.direction == "backward")]
    assert (backward.zeros.tolist(), backward.seeds.tolist()) == ([2, 0, 0], [2, 2, 2])


def test_the_lines_are_those_of_the_table_and_zeros_have_their_row() -> None:
    figure = inits(signals(["he", "mine"]))
    forward, backward = figure.axes
    drawn = {line.get_label(): line.get_ydata() for line in forward.get_lines()}
    assert np.asarray(drawn["mine 0"]) == pytest.approx([2.0, 1.0, 0.5])
    assert np.asarray(drawn["_he theory"]) == pytest.approx([1.0, 0.5, 0.25])
    zeros = [line for line in backward.get_lines() if str(line.get_label()).endswith("zero")]
    assert [list(line.get_xdata()) for line in zeros] == [[1], [1]]
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert entries == ["he", "mine", "theory: median, 95 % band"]
    assert figure.legends[0].get_title().get_text() == "geometric mean over 2 seeds"


def test_eight_schemes_of_no_name_that_is_known_look_different() -> None:
    styles = looks([f"mine {number}" for number in range(8)])
    assert len({(look.color, str(look.line), look.marker) for look in styles.values()}) == 8


def test_the_row_of_zeros_shows_each_scheme_of_a_deep_net() -> None:
    deep = signals([f"s{number}" for number in range(8)], layers=300).assign(backward_var=0.0)
    backward = inits(deep).axes[1]
    places = [set(line.get_xdata()) for line in backward.get_lines() if str(line.get_label()).endswith("zero")]
    assert len(places) == 8
    # The first zero of each, at layer 1, and else places of its own.
    assert all(a & b <= {1} for index, a in enumerate(places) for b in places[index + 1 :])
    assert min(map(len, places)) >= 7


def test_nothing_measured_is_one_line() -> None:
    with pytest.raises(UserError, match="plot: nothing measured to draw"):
        inits(signals(["he"]).assign(calls=0))
