"""SIREN's rule for sines, against the closed forms of its paper and against training."""

import math

import pytest
import torch
from torch import Tensor, nn

from initlab import init_
from initlab.init.sines import sine_frequency


class Sine(nn.Module):
    def __init__(self, w0: float) -> None:
        super().__init__()
        self.frequency = w0

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.frequency * x)


class SineLayer(nn.Module):
    """As in the authors' code: the sine is in the layer, which calls its frequency omega_0."""

    def __init__(self, size: int, width: int, omega_0: float) -> None:
        super().__init__()
        self.omega_0, self.linear = omega_0, nn.Linear(size, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.omega_0 * self.linear(x))


def siren(w0: float, width: int = 256, depth: int = 5) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in (2, *[width] * (depth - 1)):
        layers += [nn.Linear(size, width), Sine(w0)]
    return nn.Sequential(*layers, nn.Linear(width, 1))


@pytest.mark.parametrize(
    ("model", "w0"),
    [
        (siren(30.0), 30.0),
        (siren(5.0), 5.0),
        (nn.Sequential(SineLayer(2, 8, 12.0), SineLayer(8, 8, 12.0), nn.Linear(8, 1)), 12.0),
        (nn.Sequential(nn.Linear(2, 2), nn.Tanh()), 30.0),
    ],
)
def test_the_frequency_is_that_of_the_models_sines(model: nn.Module, w0: float) -> None:
    assert sine_frequency(model) == pytest.approx(w0, rel=1e-6)


@pytest.mark.parametrize("options", [{}, {"w0": 10.0}])
def test_the_bounds_are_the_papers(options: dict[str, float]) -> None:
    model, w0 = init_(siren(30.0), "siren", **options), options.get("w0", 30.0)
    assert model[0].weight.abs().max().item() == pytest.approx(1 / 2, rel=0.02)
    for layer in list(model)[2::2]:
        assert layer.weight.abs().max().item() == pytest.approx(math.sqrt(6 / 256) / w0, rel=0.03)


def test_pre_activations_have_unit_variance_and_gradients_one_size_at_any_depth() -> None:
    """Sitzmann et al. 2020, theorem 1.8, of what the weights give; biases are torch's, as in the authors' code.

    Under torch's default weights the variance of gradients grows 150-fold per layer.
    """
    model = init_(siren(30.0, depth=8), "siren")
    x = 2 * torch.rand(512, 2, generator=torch.Generator().manual_seed(0)) - 1
    outputs: list[Tensor] = []
    for module in model:
        x = module(x)
        if isinstance(module, nn.Linear):
            x.retain_grad()
            outputs.append(x)
    linears = [module for module in model if isinstance(module, nn.Linear)]
    for layer, y in zip(linears[1:-1], outputs[1:-1], strict=True):
        assert (30 * (y - layer.bias)).var().item() == pytest.approx(1, rel=0.15)
    outputs[-1].sum().backward()
    sizes = [y.grad.square().mean().item() for y in outputs[1:-1]]
    assert max(sizes) / min(sizes) < 2


def test_a_sine_net_learns_under_its_own_rule_and_not_under_he() -> None:
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 16)] * 2, indexing="ij"), -1).reshape(-1, 2)
    target = torch.sin(6 * grid[:, :1]) * torch.cos(5 * grid[:, 1:])
    losses = {}
    for scheme in ("siren", "he"):
        model = init_(siren(30.0, width=64), scheme)
        optimizer = torch.optim.Adam(model.parameters(), 1e-4)
        for _ in range(60):
            loss = (model(grid) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[scheme] = loss.item()
    assert losses["siren"] < 0.3 * target.var().item() < losses["he"]
