"""Drift by hand: what counts as a change of a signal, in tables whose numbers are chosen."""

import math

import numpy as np
import pandas as pd
import pytest

from initlab.signal.drift import HARMLESS, SIGMAS, drift, second_moments
from initlab.signal.theory.width import relu_layer
from tests.signal.tables import table


def test_the_exact_step_of_a_finite_width() -> None:
    mean, variance = relu_layer(64).mean, relu_layer(64).variance
    assert 30 * variance == pytest.approx(2.489921, rel=1e-6)  # hr.var_exact_64x30
    assert 30 * mean == pytest.approx(-1.203258, rel=1e-6)  # hr.mean_exact_64x30
    assert math.exp(30 * mean) == pytest.approx(0.3002145, rel=1e-6)  # hr.median_factor_64x30
    assert math.exp(1.96 * math.sqrt(30 * variance)) == pytest.approx(22.03823, rel=1e-6)  # hr.band95_64x30
    assert variance / (5 / 64) == pytest.approx(1.062366, rel=1e-6)  # hr.sample_ratio_64x30
    # n = 2 by hand: k = 1 with chance 2/3 given k > 0, k = 2 with 1/3; psi(1/2), psi(1), psi_1(1/2), psi_1(1)
    low, high = -1.9635100260214235, -0.5772156649015329
    assert relu_layer(2).mean == pytest.approx(math.log(2) + 2 / 3 * low + 1 / 3 * high)
    assert relu_layer(2).variance == pytest.approx(math.pi**2 * (1 / 3 + 1 / 18) + 2 / 9 * (high - low) ** 2)
    with pytest.raises(ValueError, match=r"got 0\); allowed: from 1 on"):
        relu_layer(0)


def test_second_moments_hold_the_mean_too() -> None:
    rows = table([1.0, 2.0]).assign(forward_mean=[0.5, -2.0])
    assert second_moments(rows, "forward").tolist() == [1.25, 6.0]


def test_a_steady_change_is_its_factor_and_its_layers() -> None:
    result = drift(table([0.5**layer for layer in range(30)]), "forward")
    assert result is not None and not result.healthy
    assert result.factor == pytest.approx(0.5)
    assert result.steady
    assert (result.first, result.last) == (0, 28)  # the last layer is left out
    assert result.measured == pytest.approx(28 * math.log(0.5))
    assert result.allowed == pytest.approx(HARMLESS + SIGMAS * result.chance)


def test_backward_is_seen_from_the_output() -> None:
    rows = table([1.0] * 30, backward=[2.0**layer for layer in range(30)])
    result = drift(rows, "backward")
    assert result is not None
    assert result.factor == pytest.approx(0.5)
    assert result.measured < 0


def test_one_step_is_not_called_steady() -> None:
    result = drift(table([1.0] * 10 + [1e-6] * 10), "forward")
    assert result is not None and not result.healthy
    assert not result.steady


def test_the_last_layer_may_be_as_small_as_it_likes() -> None:
    result = drift(table([1.0] * 9 + [1e-20]), "forward")
    assert result is not None and result.healthy


def test_a_layer_that_stands_alone_is_smoothed_away_in_a_deep_net() -> None:
    levels = [1.0] * 20
    levels[7] = 1e-9
    result = drift(table(levels), "forward")
    assert result is not None and result.healthy


def test_unequal_fans_cost_nothing_whichever_of_them_a_scheme_keeps() -> None:
    widths = [2**i for i in range(4, 14)]
    for forward, backward in (
        ([1.0] * 10, [1 / width for width in widths]),  # He's fan_in: mean square forward, sum of squares backward
        ([1 / width for width in widths], [1.0] * 10),  # fan_out the other way round
    ):
        rows = table(forward, backward=backward, width=widths)
        for direction in ("forward", "backward"):
            result = drift(rows, direction)
            assert result is not None
            # typical of such narrow layers is 2.5 (1/32 + 1/64 + ...) less: nothing else may be left
            assert abs(result.change) < 0.2


def test_max_pools_and_a_global_average_cost_the_gradient_nothing() -> None:
    positions = np.array([1024.0, 1024, 256, 256, 64, 64, 1, 1, 1])
    pooled = np.where(positions > 1, 64 / positions, 64.0**2)  # routed through max-pools; a 64th to each position
    rows = table([1.0] * 9, backward=pooled.tolist()).assign(outputs=positions * 64)
    result = drift(rows, "backward")
    assert result is not None
    assert abs(result.change) < 0.5
    assert abs(result.measured) > HARMLESS


def test_the_theorys_band_is_the_spread_where_there_is_one() -> None:
    rows = table([1.0] * 11)
    sigma = np.sqrt(0.09 * np.arange(11))
    rows = rows.assign(forward_predicted=1.0, forward_low=np.exp(-1.96 * sigma), forward_high=np.exp(1.96 * sigma))
    result = drift(rows, "forward")
    assert result is not None and result.chance == pytest.approx(0.3 * 3)
    unknown = drift(rows.assign(forward_low=math.nan), "forward")
    assert unknown is not None and unknown.chance == pytest.approx(math.sqrt(9 * relu_layer(64).variance))


def test_fewer_than_two_signals_have_no_drift() -> None:
    assert drift(table([1.0, 1.0]), "forward") is None
    assert drift(pd.concat([table([0.0] * 5)]), "forward") is None
