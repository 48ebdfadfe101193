"""Batch norm (known_answers.md, `bn.*`): a perfect forward signal whose gradients grow, as `inspect` tells it."""

import math

import pytest
import torch
from torch import nn

from initlab import init_, inspect

GROWTH = math.pi / (math.pi - 1)


def batch_norm_net(width: int, depth: int) -> nn.Sequential:
    layers = [(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()) for _ in range(depth - 1)]
    return init_(nn.Sequential(*(m for layer in layers for m in layer), nn.Linear(width, 10)), "he")


@pytest.mark.parametrize(("batch", "value"), [(512, GROWTH), (32, 1.52)], ids=["bn.grad_growth", "bn.grad_growth_b32"])
def test_gradients_of_a_batch_norm_net_grow_per_layer(batch: int, value: float) -> None:
    assert pytest.approx(1.466942, rel=1e-6) == GROWTH
    x = torch.randn(batch, 512, generator=torch.Generator().manual_seed(0))
    inspection = inspect(batch_norm_net(512, 24), x, torch.arange(batch) % 10)
    moments = inspection.table.backward_var + inspection.table.backward_mean**2
    assert (moments[3] / moments[19]) ** (1 / 16) == pytest.approx(value, rel=0.03)


@pytest.mark.parametrize("width", [64, 256])
def test_a_deep_batch_norm_net_is_uneven_and_told_the_growth(width: int) -> None:
    assert pytest.approx(98263.02, rel=1e-6) == GROWTH**30  # bn.grad_growth30
    x = torch.randn(256, width, generator=torch.Generator().manual_seed(0))
    inspection = inspect(batch_norm_net(width, 30), x, torch.arange(256) % 10)
    (backward,) = (drift for drift in inspection.diagnosis.drifts if drift.direction == "backward")
    assert inspection.verdict == "uneven"
    assert inspection.healthy
    assert backward.factor == pytest.approx(GROWTH, rel=0.04)
    assert f"gradients grow ×{backward.factor:.3g} per layer" in inspection.reason
    assert "norms hold the signals level" in inspection.reason
    assert inspection.table.forward_var.iloc[1:-1].between(0.5, 2).all()


def test_a_shallow_batch_norm_net_is_healthy() -> None:
    x = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    assert inspect(batch_norm_net(256, 12), x, torch.arange(256) % 10).verdict == "healthy"


class Residual(nn.Module):
    """relu-linear-relu-linear on a skip connection, times `scale`."""

    def __init__(self, width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.second(torch.relu(self.first(torch.relu(x))))


@pytest.mark.parametrize(("blocks", "width", "verdict"), [(6, 256, "healthy"), (30, 64, "exploding")])
def test_an_unscaled_residual_net_doubles_per_block(blocks: int, width: int, verdict: str) -> None:
    # bn.res_preact: 2^L after L blocks; e^6 = 403 is left alone, 2^30 is not
    net = init_(nn.Sequential(*(Residual(width) for _ in range(blocks)), nn.Linear(width, 10, bias=False)), "he")
    x = torch.randn(32, width, generator=torch.Generator().manual_seed(0))
    inspection = inspect(net, x, torch.arange(32) % 10)
    assert inspection.verdict == verdict
    if verdict == "exploding":
        branches = (Residual(width, blocks**-0.5) for _ in range(blocks))
        scaled = init_(nn.Sequential(*branches, nn.Linear(width, 10)), "he")
        assert inspect(scaled, x, torch.arange(32) % 10).verdict == "healthy"  # bn.res_scaled: (1 + 1/L)^L < e
