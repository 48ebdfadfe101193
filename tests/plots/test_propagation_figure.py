"""The map of signal propagation: factors per layer known by hand, points and box drawn where they belong."""

import math

import numpy as np
import pytest
from fake_study import Fake
from matplotlib.patches import Rectangle

from initlab.plots import propagation, propagation_table


def geometric(forward: float, backward: float, layers: int = 11) -> list[tuple[float, float]]:
    """Variances that go by these factors from layer to layer, backward towards the input."""
    return [(3.0 * forward**i, 0.1 * backward ** (layers - 1 - i)) for i in range(layers)]


@pytest.fixture
def starts(fake: Fake) -> Fake:
    """Healthy, vanishing and exploding starts; later probes and a trial without a start say something else."""
    later = {20: geometric(9.0, 9.0)}
    fake.add("he", probes={0: geometric(1.0, 1.0), **later}, verdict="converged")
    fake.add("xavier", probes={0: geometric(0.5, 0.5), **later}, verdict="stalled")
    fake.add("gaussian", probes={0: geometric(4.0, 2.0), **later}, verdict="diverged")
    fake.add("gaussian", 1, probes=later, verdict="diverged")
    return fake


def test_factors_are_those_of_the_variances_before_training(starts: Fake) -> None:
    table = propagation_table(starts).set_index("init.scheme")
    assert list(table.index) == ["he", "xavier", "gaussian"]
    factors = table[["forward_factor", "backward_factor"]].to_numpy()
    assert factors == pytest.approx(np.array([[1.0, 1.0], [0.5, 0.5], [4.0, 2.0]]), rel=1e-12)
    assert list(table.verdict) == ["converged", "stalled", "diverged"]


def test_layers_at_zero_or_infinity_do_not_count(fake: Fake) -> None:
    layers = geometric(0.5, 0.5)
    layers[-1] = (math.inf, layers[-1][1])
    layers[0] = (layers[0][0], 0.0)
    fake.add("he", probes={0: layers})
    fake.add("xavier", probes={0: [(1.0, 0.0), (1.0, 0.0)]})
    (row,) = propagation_table(fake).to_dict("records")
    assert (row["forward_factor"], row["backward_factor"]) == pytest.approx((0.5, 0.5))


def test_points_are_at_the_factors_and_the_box_is_what_the_layers_keep(starts: Fake) -> None:
    axes = propagation(starts).axes[0]
    points = {line.get_label(): (*line.get_data(), line.get_marker()) for line in axes.get_lines()}
    x, y, marker = points["xavier stalled"]
    assert (x[0], y[0], marker) == (pytest.approx(0.5), pytest.approx(0.5), "s")
    (box,) = (patch for patch in axes.patches if isinstance(patch, Rectangle))
    assert box.get_x() ** 10 == pytest.approx(0.1) and (box.get_x() + box.get_width()) ** 10 == pytest.approx(10.0)
    left, right = axes.get_xlim()
    assert left < 0.5 and right > 4.0


def test_without_probes_it_says_what_to_do(fake: Fake) -> None:
    fake.add("he", val={0: 0.9})
    with pytest.raises(ValueError, match=r"no signals before training .*\(got 1 done, 0 rows of them\); .*probe.every"):
        propagation(fake)
