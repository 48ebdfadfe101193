"""Finite width (known_answers.md, `hr.*`): how far signals of healthy nets scatter, simulated and by formula."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from initlab.signal.theory.width import relu_layer

Array = NDArray[np.float64]


def log_ratios(
    nets: int, width: int, depth: int, slope: float = 0.0, batch: int = 1, orthogonal: bool = False
) -> Array:
    """ln(|x_L|^2 / |x_0|^2) of `nets` nets, mean over a batch of independent unit inputs."""
    generator = torch.Generator().manual_seed(0)
    gain = math.sqrt(2 / (1 + slope**2))
    x = torch.randn(nets, width, batch, generator=generator, dtype=torch.float64)
    x = x / x.norm(dim=1, keepdim=True)
    for _ in range(depth):
        weight = torch.randn(nets, width, width, generator=generator, dtype=torch.float64)
        weight = torch.linalg.qr(weight)[0] if orthogonal else weight / math.sqrt(width)
        x = nn.functional.leaky_relu(torch.bmm(weight * gain, x), slope)
    return x.square().sum(1).mean(1).log().numpy()


@pytest.mark.parametrize(
    ("slope", "orthogonal", "coefficient", "tolerance"),
    [(1.0, False, 2.0, 0.15), (0.25, False, 4.33564, 0.15), (0.0, True, 3.0, 0.2), (0.0, False, 5.312 * 1.0, 0.15)],
    ids=["hr.coef_linear", "hr.coef_prelu25", "hr.coef_ortho", "hr.coef_relu"],
)
def test_the_log_second_moments_variance_per_layer(
    slope: float, orthogonal: bool, coefficient: float, tolerance: float
) -> None:
    nets = 200 if orthogonal else 400
    if slope not in (0.0, 1.0):  # Gaussian weights, leading order
        assert coefficient == pytest.approx(6 * (1 + slope**4) / (1 + slope**2) ** 2 - 1, rel=1e-5)
    variance = log_ratios(nets, 64, 10, slope, orthogonal=orthogonal).var() * 64 / 10
    three_errors = 3 * math.sqrt(2 / nets)
    assert abs(variance / coefficient - 1) < tolerance + three_errors


def test_one_samples_norm_after_30_layers_is_the_exact_lognormal() -> None:
    mean, variance = relu_layer(64).mean, relu_layer(64).variance
    logs = log_ratios(1000, 64, 30)
    assert logs.mean() == pytest.approx(30 * mean, rel=0.12)  # hr.mean_exact_64x30
    assert logs.var() == pytest.approx(30 * variance, rel=0.12)  # hr.var_exact_64x30
    assert math.exp(np.median(logs)) == pytest.approx(0.3002145, rel=0.2)  # hr.median_factor_64x30
    assert logs.var() / (5 * 30 / 64) == pytest.approx(1.062366, rel=0.12)  # hr.sample_ratio_64x30


@pytest.mark.slow
def test_a_batch_does_not_average_the_spread_away() -> None:
    logs = log_ratios(600, 64, 30, batch=16)
    assert logs.var() / (5 * 30 / 64) == pytest.approx(0.7888464, rel=0.15)  # hr.batch_ratio_64x30


@pytest.mark.parametrize(("width", "variance"), [(64, 2.489921), (256, 0.5945613)])
def test_exact_and_leading_variance_of_30_layers(width: int, variance: float) -> None:
    assert 30 * relu_layer(width).variance == pytest.approx(variance, rel=1e-6)  # hr.var_exact_*
    assert 30 * relu_layer(width).variance / (150 / width) == pytest.approx(
        {64: 1.062366, 256: 1.014718}[width], rel=1e-6
    )  # hr.sample_ratio_*


@pytest.mark.slow
def test_a_256_wide_nets_spread() -> None:
    logs = log_ratios(600, 256, 30)
    assert logs.var() == pytest.approx(0.5945613, rel=0.2)
    assert logs.mean() == pytest.approx(-0.2948598, rel=0.3)
    assert math.exp(np.median(logs)) == pytest.approx(0.744636, rel=0.2)  # hr.median_factor_256x30


@pytest.mark.slow
def test_first_to_last_weight_gradients_scatter_by_eight_over_n() -> None:
    ratios = gradient_ratios(3000, 64, 5)
    assert ratios.var() * 64 / 4 == pytest.approx(8.0, rel=0.1)  # hr.first_last_small


@pytest.mark.slow
def test_first_to_last_weight_gradients_at_30_layers() -> None:
    assert gradient_ratios(3000, 64, 30).var() * 64 / 29 == pytest.approx(6.2, rel=0.1)  # hr.first_last_64x30


def gradient_ratios(nets: int, width: int, depth: int) -> Array:
    """ln(|dW_1|^2 / |dW_L|^2) for one sample and a random gradient at the output; |dW| = |x| |dy|."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(nets, width, 1, generator=generator, dtype=torch.float64)
    weights, masks, inputs = [], [], []
    for _ in range(depth):
        weights.append(torch.randn(nets, width, width, generator=generator, dtype=torch.float64) * math.sqrt(2 / width))
        inputs.append(x)
        y = torch.bmm(weights[-1], x)
        masks.append(y > 0)
        x = y.relu()
    delta = torch.randn(nets, width, 1, generator=generator, dtype=torch.float64) * masks[-1]
    last = delta.square().sum((1, 2)) * inputs[-1].square().sum((1, 2))
    for layer in reversed(range(1, depth)):
        delta = torch.bmm(weights[layer].transpose(1, 2), delta) * masks[layer - 1]
    first = delta.square().sum((1, 2)) * inputs[0].square().sum((1, 2))
    return (first / last).log().numpy()


@pytest.mark.slow
def test_gradients_scatter_as_signals_do() -> None:
    generator = torch.Generator().manual_seed(1)
    nets, width, depth = 600, 64, 30
    x = torch.randn(nets, width, 1, generator=generator, dtype=torch.float64)
    weights, masks = [], []
    for _ in range(depth):
        weights.append(torch.randn(nets, width, width, generator=generator, dtype=torch.float64) * math.sqrt(2 / width))
        x = torch.bmm(weights[-1], x)
        masks.append(x > 0)
        x = x.relu()
    delta = torch.randn(nets, width, 1, generator=generator, dtype=torch.float64)
    start = delta.square().sum((1, 2))
    for weight, mask in zip(reversed(weights), reversed(masks), strict=True):
        delta = torch.bmm(weight.transpose(1, 2), delta * mask)
    change = (delta.square().sum((1, 2)) / start).log().numpy()
    assert change.var() / (5 * depth / width) == pytest.approx(1.0, rel=0.15)  # hr.grad_ratio_64x30


def test_pixels_do_not_average_the_spread_away() -> None:
    generator = torch.Generator().manual_seed(0)
    nets, channels, size, depth = 120, 32, 8, 30
    x = torch.randn(1, nets * channels, size, size, generator=generator)
    for _ in range(depth):  # a net is a group
        weight = torch.randn(nets * channels, channels, 3, 3, generator=generator) * math.sqrt(2 / (9 * channels))
        x = nn.functional.conv2d(nn.functional.pad(x, (1, 1, 1, 1), mode="circular"), weight, groups=nets).relu()
    squares = x.view(nets, -1).double().square().mean(1).log().numpy()
    three_errors = 3 * math.sqrt(2 / nets)
    assert abs(squares.var() / (5 * depth / channels) / 0.67 - 1) < 0.25 + three_errors  # hr.conv_8x8_measured
