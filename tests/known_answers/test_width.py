"""Known answers for finite width: how far single draws stray from the mean field (Hanin and Rolnick 2018)."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import initlab
from initlab.init.activations import resolve
from initlab.init.expectations import Rectifier
from initlab.signal.theory.response import Response
from initlab.signal.theory.width import LogMoments, gamma_factor, product, relu_layer

ONE = np.ones(1)


@pytest.mark.parametrize(
    ("slope", "coefficient"), [(0.0, 5.0), (1.0, 2.0), (0.25, 6 * (1 + 0.25**4) / (1 + 0.25**2) ** 2 - 1)]
)
def test_scatter_of_one_layer(slope: float, coefficient: float) -> None:
    """hr.coef_relu, hr.coef_linear, hr.coef_prelu25: E[phi^4] / E[phi^2]^2 - 1."""
    response = Response(Rectifier("test", (slope,)), 1.0)
    assert response.square_pair(ONE)[0] / response.second() ** 2 - 1 == pytest.approx(coefficient, rel=1e-9)


@pytest.mark.parametrize(("width", "mean", "variance"), [(64, -1.203258, 2.489921), (256, -0.2948598, 0.5945613)])
def test_exact_moments_of_thirty_layers(width: int, mean: float, variance: float) -> None:
    """hr.mean_exact_*, hr.var_exact_*, hr.median_factor_*, hr.band95_* and hr.sample_ratio_*."""
    layer = relu_layer(width)
    assert 30 * layer.mean == pytest.approx(mean, rel=1e-6)
    assert 30 * layer.variance == pytest.approx(variance, rel=1e-6)
    assert math.exp(30 * layer.mean) == pytest.approx({64: 0.3002145, 256: 0.744636}[width], rel=1e-6)
    band = math.exp(1.96 * math.sqrt(30 * layer.variance))
    assert band == pytest.approx({64: 22.03823, 256: 4.532678}[width], rel=1e-3)
    assert layer.variance / (5 / width) == pytest.approx({64: 1.062366, 256: 1.014718}[width], rel=1e-6)


def test_exact_moments_are_those_of_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(40_000, 16, 16, generator=generator, dtype=torch.float64) * math.sqrt(2 / 16)
    squares = weights[:, :, 0].clamp(min=0).square().sum(1)  # of a unit input along the first axis
    logs = torch.log(squares[squares > 0]).numpy()
    layer = relu_layer(16)
    assert logs.mean() == pytest.approx(layer.mean, abs=4 * logs.std() / 200)
    assert logs.var() == pytest.approx(layer.variance, rel=0.05)
    assert ((logs - logs.mean()) ** 3).mean() == pytest.approx(layer.third, rel=0.25)


def test_a_linear_layer_is_exactly_a_gamma_factor() -> None:
    """chi^2_n / n, whose logarithm has variance trigamma(n/2) and third cumulant its second derivative."""
    draws = np.log(np.random.default_rng(0).chisquare(8, 200_000) / 8)
    factor = gamma_factor(2 / 8)
    assert draws.mean() == pytest.approx(factor.mean, abs=4 * draws.std() / 447)
    assert draws.var() == pytest.approx(factor.variance, rel=0.02)
    for share in (0.025, 0.5, 0.975):
        assert np.quantile(draws, share) == pytest.approx(factor.quantile(share), abs=0.05)


def test_factors_multiply() -> None:
    first, second = gamma_factor(0.1), gamma_factor(0.2)
    both = product(np.array([first, second]), np.array([1.0, 2.0]), shift=0.5)
    assert both.mean == pytest.approx(first.mean + 2 * second.mean + 0.5)
    assert both.variance == pytest.approx(first.variance + 4 * second.variance)
    assert both.third == pytest.approx(first.third + 8 * second.third)
    assert gamma_factor(0.0) == LogMoments()


@pytest.mark.parametrize(("batch", "ratio"), [(16, 0.7888464), (8, 0.8029233), (None, 0.7747695)])
def test_a_batch_does_not_average_the_scatter_away(batch: int | None, ratio: float) -> None:
    """hr.batch_ratio_*, hr.batch_coef_inf: sum of 4 K2(c) (1 - 1/B) + 6/B - 1 over 5 L, c following its map from 0."""
    response, share, c, total = Response(resolve("relu"), 1.0), 0.0 if batch is None else 1 / batch, np.zeros(1), 0.0
    for _ in range(30):
        total += 4 * response.square_pair(c)[0] * (1 - share) + 6 * share - 1
        c = response.pair(c) / response.second()
    assert total / 150 == pytest.approx(ratio, rel=1e-6)


def log_sd(frame: "initlab.pd.DataFrame", direction: str) -> np.ndarray:  # type: ignore[name-defined]
    """Standard deviation of the logarithm that a band says."""
    return np.log(frame[f"{direction}_high"] / frame[f"{direction}_low"]).to_numpy() / (2 * 1.959964)


def mlp(width: int, depth: int) -> nn.Sequential:
    layers = [module for _ in range(depth - 1) for module in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, 10))


@pytest.mark.parametrize("width", [64, 256])
def test_the_band_has_the_known_width(width: int) -> None:
    """hr.var_leading_*: 5/n a layer for one example; exact theory is a few % above it."""
    theory = initlab.predict(mlp(width, 31), scheme="he", input_shape=(width,), batch_size=1)
    hidden = log_sd(theory, "forward")[29] ** 2  # 29 rectifiers and one linear layer before it
    assert hidden == pytest.approx(29 * relu_layer(width).variance + gamma_factor(2 / width).variance, rel=0.03)


def test_orthogonal_weights_scatter_less() -> None:
    """hr.coef_ortho: 3 instead of 5 for a rectifier, since the norm of Wx itself is exact."""
    theory = initlab.predict(mlp(64, 11), scheme="orthogonal", input_shape=(64,), batch_size=1)
    assert log_sd(theory, "forward")[9] ** 2 * 64 / 9 == pytest.approx(3, rel=0.06)


def test_positions_do_not_average_it_away_either() -> None:
    """hr.conv_8x8_measured: 0.67 of 5 L / C for 30 circular 3x3 layers of 32 channels on 8x8 maps."""
    layers = [m for _ in range(30) for m in (nn.Conv2d(32, 32, 3, padding=1, padding_mode="circular"), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Conv2d(32, 32, 1))
    theory = initlab.predict(net, scheme="he", input_shape=(32, 8, 8), batch_size=1)
    assert log_sd(theory, "forward")[29] ** 2 / (5 * 30 / 32) == pytest.approx(0.67, rel=0.25)


@pytest.mark.parametrize("width", [64, 256])
def test_gradients_scatter_as_signals_do(width: int) -> None:
    """hr.grad_ratio_64x30, hr.grad_ratio_256x30: 5 L / n for one example; measured 1.07."""
    theory = initlab.predict(mlp(width, 31), scheme="he", input_shape=(width,), batch_size=1)
    assert log_sd(theory, "backward")[0] ** 2 / (5 * 30 / width) == pytest.approx(1, rel=0.15)
