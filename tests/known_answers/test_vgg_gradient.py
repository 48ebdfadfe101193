"""Why a fixed 0.01 stalls: VGG's model B, whose gradient the paper works out (He et al. 2015, sec. 2.2).

Ten 3x3 convolutions of 64, 64, 128, 128, 256, 256 and 4 x 512 filters. From conv10 down to conv2 the gradient's
standard deviation is 1/(5.9 x 4.2^2 x 2.9^2 x 2.1^4) of the derived one; unrounded, 1/16,729.
"""

import math
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from initlab import init_
from initlab.nets.architecture import Activation, Conv, Layer, MaxPool
from initlab.nets.build import to_modules
from initlab.signal.probe import measure

FILTERS = (64, 64, 128, 128, 256, 256, 512, 512, 512, 512)
ATTENUATION = 16728.8  # of nine layers: prod of sqrt(2 / (9 filters)) / 0.01


def model_b() -> list[Layer]:
    """The convolutions of VGG's model B, a pool after every second one; the last has no activation after it."""
    layers: list[Layer] = []
    channels = 3
    for index, width in enumerate(FILTERS, start=1):
        layers += [Conv(f"conv{index}", channels, width, kernel=3, padding=1)]
        layers += [Activation(f"act{index}", "relu", width, 0.0)] if index < len(FILTERS) else []
        layers += [MaxPool(f"pool{index}", kernel=2, stride=2)] if index in (2, 4, 6, 8) else []
        channels = width
    return layers


@lru_cache
def gradients(scheme: str, mode: str = "fan_out") -> dict[str, float]:
    """`backward_var` of each layer, for the same gradient at conv10's output under every scheme."""
    net = init_(to_modules(model_b()).double(), scheme, mode=mode, std=0.01, seed=0)
    normals = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 16, 16, generator=normals, dtype=torch.float64)
    at_top = torch.randn(2, 512, 1, 1, generator=normals, dtype=torch.float64)

    def loss(output: Tensor, _: Tensor) -> Tensor:
        return (output * at_top).flatten(1).sum(1)

    rows = measure(net, images, torch.zeros(2), loss=loss)
    assert [row["name"] for row in rows] == [f"conv{i}" for i in range(1, 11)]
    return {row["name"]: row["backward_var"] for row in rows}


def test_the_papers_arithmetic() -> None:
    factors = [math.sqrt(2 / (9 * width)) / 0.01 for width in FILTERS[1:]]
    assert math.prod(factors) == pytest.approx(ATTENUATION, rel=1e-5)
    assert math.prod(factors) == pytest.approx(1.7e4, rel=0.02)


def test_the_gradient_under_fixed_001_is_the_papers_fraction_of_the_derived_one() -> None:
    """Exact, not in the mean: the nets are one up to a factor per layer, so the same rectifiers and maxima open."""
    fixed, derived = gradients("gaussian"), gradients("he")
    assert fixed["conv10"] == derived["conv10"]
    # conv1's output is conv2's input, where the ninth layer's gradient arrives
    ratio = math.sqrt(derived["conv1"] / fixed["conv1"])
    assert ratio == pytest.approx(math.prod(math.sqrt(2 / (9 * width)) / 0.01 for width in FILTERS[1:]), rel=1e-9)
    assert ratio == pytest.approx(ATTENUATION, rel=1e-5)


def test_with_fan_in_it_would_be_1_in_47316() -> None:
    fixed, derived = gradients("gaussian"), gradients("he", mode="fan_in")
    assert math.sqrt(derived["conv1"] / fixed["conv1"]) == pytest.approx(47_316, rel=1e-5)
