"""What lies between two wide layers, one call or several: integrated as the one function that it is.

Answers are plain torch's: the function and its slope on a million normals, or wide layers drawn several times.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import initlab
from initlab.nets.any_module import on_weight_layers
from tests.signal.theory.field_runs import run

WIDTH = 1024
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu less its mean": lambda x: x.relu() - 0.3989,
    "sigmoid less a half": lambda x: x.sigmoid() - 0.5,
    "shifted relu": lambda x: F.relu(x - 1),
    "hardsigmoid by hand": lambda x: F.relu6(x + 3) / 6,
    "one less x": lambda x: 1 - x,
    "hardshrink": F.hardshrink,
    "softshrink": nn.Softshrink(),
    "tanhshrink": F.tanhshrink,
    "erf": torch.erf,
    "squared relu": lambda x: x.relu() ** 2,
    "square": torch.square,
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu_new": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0)))),
    "clip": lambda x: x.clip(-0.5, 1.0),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "mask": lambda x: x * (x > 0),
    "hardswish in place": lambda x: x.mul(F.relu6(x + 3.0).div_(6.0)),
    "hardmish": lambda x: 0.5 * x * (x + 2).clamp(min=0, max=2),
    "softsign by hand": lambda x: x / (1 + x.abs()),
    "skip around an activation": lambda x: x + x.relu(),
    "weighted sum": lambda x: torch.add(x, x.tanh(), alpha=-2.0),
    "two activations": lambda x: torch.tanh(2 * x.relu() - 1),
    "greater of two": lambda x: torch.maximum(x, torch.tensor(0.3)),
    "copy": lambda x: x.clone().relu_() * x,
}


class Between(nn.Module):
    def __init__(self, function: Callable[..., Tensor], width: int = WIDTH) -> None:
        super().__init__()
        self.function = function
        self.first = nn.Linear(64, width, bias=False)
        self.last = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_a_function_between_two_layers(name: str) -> None:
    """E[F^2] forward and E[F'^2] back, of normals as large as an example: its mean square is chi^2 of 64 numbers."""
    function = FUNCTIONS[name]
    theory = initlab.predict(Between(function), scheme="lecun", input_shape=(64,))
    normals = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    levels = torch.from_numpy(np.random.default_rng(0).chisquare(64, 1_000_000) / 64)
    normals = (normals / normals.square().mean().sqrt() * levels.sqrt()).requires_grad_()
    values = function(normals.clone())
    (slopes,) = torch.autograd.grad(values.sum(), normals)
    assert list(theory.basis) == ["theory", "theory"]
    assert theory.forward_var[1] == pytest.approx(float(values.detach().square().mean()), rel=0.01)
    # What follows the signal adds up to 1.5 % at this width: see `test_finite_width.py`.
    assert theory.backward_var[0] == pytest.approx(float(slopes.square().mean()), rel=0.02)


class Standardised(nn.Conv2d):
    """A convolution whose rows have mean 0 and He-like variance 1/fan_in (Qiao et al. 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / weight.std((1, 2, 3), keepdim=True) / math.sqrt(self.weight[0].numel())
        return F.conv2d(x, weight, padding=1)


def test_rows_that_sum_to_zero_see_the_variance_alone() -> None:
    """Three weight-standardised convolutions and ReLUs on 16x16 maps: the padding lets some of the mean through."""
    layers = [module for _ in range(3) for module in (Standardised(64, 64, 3, bias=False), nn.ReLU())]
    net = nn.Sequential(*layers)
    images = torch.randn(16, 64, 16, 16, generator=torch.Generator().manual_seed(0))
    measured = torch.zeros(3, dtype=torch.float64)
    for seed in range(6):
        torch.manual_seed(seed)
        x = images
        for number, layer in enumerate(layers[::2]):
            nn.init.normal_(layer.weight)
            y = layer(x).detach()
            measured[number] += y.double().var(correction=0) / 6
            x = y.relu()
    theory = initlab.predict(net, batch=images)
    # The band of it does not hold yet.
    assert list(theory.basis) == ["approximate"] * 3
    assert theory.forward_var.tolist() == pytest.approx(measured.tolist(), rel=0.04)


def test_a_bias_of_one_in_all_units_is_no_variance() -> None:
    """y = 1e-5 x w + 1 has variance 1e-10, and relu leaves it; the next layer sees 1."""
    net = Between(lambda y: 1e-5 * y)
    net.first = nn.Linear(64, WIDTH)
    nn.init.normal_(net.first.weight, std=1e-5 / 8)
    nn.init.normal_(net.last.weight, std=1 / math.sqrt(WIDTH))
    nn.init.ones_(net.first.bias)
    images = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    theory = initlab.predict(net, batch=images)
    assert theory.forward_var.tolist() == pytest.approx([1e-10, 1e-10], rel=0.1)


def test_a_product_of_two_layers() -> None:
    """relu(a) relu(b) has the mean square 1/4, and its gradient at each factor 1/2 of 1/2."""

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.last = (nn.Linear(n, WIDTH, bias=False) for n in (64, 64, WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.a(x).relu() * self.b(x).relu())

    theory = initlab.predict(Product(), scheme="lecun", input_shape=(64,))
    assert list(theory.basis) == ["theory"] * 3
    assert theory.forward_var.tolist() == pytest.approx([1, 1, 0.25], rel=0.01)
    assert theory.backward_var.tolist() == pytest.approx([0.25, 0.25, 1], rel=0.01)


class SqueezeExcite(nn.Module):
    """A map times a gate for each channel, from its own average (Hu et al. 2018)."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.stem, self.last = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.down, self.up = nn.Conv2d(width, width, 1, bias=False), nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).relu()
        return self.last(y * self.up(self.down(F.adaptive_avg_pool2d(y, 1)).relu()).sigmoid())


def keep(outputs: dict[str, Tensor], name: str, layer: nn.Module, inputs: object, y: Tensor) -> None:
    outputs[name] = y


def test_a_gate_for_each_channel_gathers_the_gradient_of_its_positions() -> None:
    net, draws = SqueezeExcite(), 40
    measured: dict[str, list[float]] = {name: [0.0, 0.0] for name, _ in net.named_children()}
    for seed in range(draws):
        initlab.init_(net, "he", seed=seed)
        normal = torch.Generator().manual_seed(seed)
        outputs: dict[str, Tensor] = {}
        with on_weight_layers(net, partial(keep, outputs)):
            last = net(torch.randn(4, 128, 4, 4, generator=normal))
        start = torch.randn(last.shape, generator=normal)
        for name, gradient in zip(outputs, torch.autograd.grad(last, list(outputs.values()), start), strict=True):
            measured[name][0] += float(outputs[name].detach().square().mean()) / draws
            measured[name][1] += float(gradient.square().mean()) / draws
    _, trace, signals, gradients = run(net, (128, 4, 4), examples=4)
    for op, signal, g in zip(trace.operations, signals, gradients, strict=True):
        if op.layer is not None:
            assert signal is not None
            assert g is not None
            assert g.basis == "theory"
            forward, backward = measured[op.layer.removeprefix("1.")]
            assert signal.field.level == pytest.approx(forward, rel=0.1), op.layer
            assert g.level == pytest.approx(backward, rel=0.1), op.layer
