"""The heat map: cells over layers and epochs against variances by hand, zeros and missing seeds apart."""

import math

import numpy as np
import pytest
from fake_study import Fake
from matplotlib.collections import QuadMesh

from initlab.plots import heatmap, heatmap_table


@pytest.fixture
def probed(fake: Fake) -> Fake:
    """Two layers, three probes; He of two seeds, the second without the last one; Xavier's gradient goes to 0."""
    fake.add("he", 0, probes={0: [(1.0, 0.1), (2.0, 0.2)], 10: [(4.0, 0.1), (2.0, 0.2)], 20: [(1.0, 0.1), (1.0, 0.1)]})
    fake.add("he", 1, probes={0: [(4.0, 0.1), (2.0, 0.2)], 10: [(9.0, 0.1), (2.0, 0.2)]})
    fading = {0: [(1e-3, 1e-40), (1e-6, 1.0)], 10: [(1e-3, 0.0), (1e-6, 1.0)], 20: [(1e-3, 0.0), (1e-6, 1.0)]}
    fake.add("xavier", 0, probes=fading)
    return fake


def test_a_cell_is_the_geometric_mean_of_all_seeds_of_its_arm(probed: Fake) -> None:
    table = heatmap_table(probed)
    forward = table[(table["init.scheme"] == "he") & (table.direction == "forward")]
    assert sorted(forward.step.unique()) == [0, 10]  # at 20 a seed is missing
    cells = forward.pivot(index="layer", columns="step", values="mean")
    assert cells.to_numpy() == pytest.approx(np.array([[2.0, 6.0], [2.0, 2.0]]))
    gradient = table[(table["init.scheme"] == "xavier") & (table.direction == "backward") & (table.layer == 0)]
    assert gradient.zeros.tolist() == [0, 1, 1] and gradient["mean"].notna().tolist() == [True, False, False]


def meshes(ax) -> tuple[np.ma.MaskedArray, np.ma.MaskedArray]:
    """The coloured cells and the white ones."""
    coloured, white = (one.get_array() for one in ax.collections if isinstance(one, QuadMesh))
    return coloured, white


def test_drawn_cells_are_the_table_and_zeros_are_white(probed: Fake) -> None:
    figure = heatmap(probed)
    he_forward, he_backward, xavier_forward, xavier_backward, *bars = figure.axes
    assert len(bars) == 2
    assert [ax.get_title(loc="left") for ax in figure.axes[:4]] == ["30 layers, he", "", "30 layers, xavier", ""]
    coloured, white = meshes(he_forward)
    assert np.asarray(coloured) == pytest.approx(np.array([[2.0, 6.0], [2.0, 2.0]])) and white.mask.all()
    coloured, white = meshes(xavier_backward)
    assert coloured.mask.tolist() == [[False, True, True], [False, False, False]]
    assert (~white.mask).tolist() == [[False, True, True], [False, False, False]]
    # One scale of colours per direction, fifteen decades at most.
    for left, right, limits in (
        (he_forward, xavier_forward, (1e-6, 6.0)),
        (he_backward, xavier_backward, (1e-15, 1.0)),
    ):
        for ax in (left, right):
            norm = ax.collections[0].norm
            assert (norm.vmin, norm.vmax) == pytest.approx(limits)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0 in all seeds"]


def test_an_arm_whose_gradients_are_no_numbers_is_grey_there(fake: Fake) -> None:
    layers = [(1.0, math.nan), (math.inf, math.nan), (2.0, math.nan)]
    fake.add("he", probes={0: layers, 10: layers}, verdict="diverged")
    forward, backward = heatmap(fake).axes[:2]
    assert meshes(forward)[0].mask.tolist() == [[False] * 2, [True] * 2, [False] * 2]
    assert meshes(backward)[0].mask.all() and meshes(backward)[1].mask.all()


def test_probes_before_training_alone_make_none(fake: Fake) -> None:
    fake.add("he", probes={0: [(1.0, 1.0)]})
    with pytest.raises(ValueError, match=r"no signals while training to draw \(got 1 done, 1 rows of signals\)"):
        heatmap(fake)


def test_too_many_arms_are_refused(fake: Fake) -> None:
    for depth in range(6, 15):
        fake.add("he", 0, depth, probes={0: [(1.0, 1.0)], 10: [(1.0, 1.0)]})
    with pytest.raises(ValueError, match=r"heatmap: too many arms to read \(got 9\); at most 8"):
        heatmap_table(fake)
