"""Verdicts beside plain torch: an alarm where 30 steps of AdamW do not halve the loss, none where they do."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from initlab import init_, inspect
from tests.inspection.plain_steps import plain_losses

WIDTH, CLASSES = 64, 10
X, Y = torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(0)), torch.arange(64) % CLASSES


class Residual(nn.Module):
    """x + f(x) of so many blocks, without norms."""

    def __init__(self, depth: int, scale: float) -> None:
        super().__init__()
        blocks = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)) for _ in range(depth)]
        self.blocks, self.head, self.scale = nn.ModuleList(blocks), nn.Linear(WIDTH, CLASSES), scale

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + self.scale * block(x)
        return self.head(x)


class LearnedGain(nn.Module):
    """A trunk to which linears with a learned gain of 0 are added, as in NF-nets."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.branches = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(4)])
        self.gains = nn.ParameterList([nn.Parameter(torch.zeros(WIDTH)) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.stem(x))
        for branch, gain in zip(self.branches, self.gains, strict=True):
            h = h + gain * F.relu(branch(h))
        return self.head(h)


class Routed(nn.Module):
    """Experts of which the last gets no example."""

    def __init__(self) -> None:
        super().__init__()
        self.experts, self.head = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(3)]), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        chosen, out = (x[:, 0] > 0).long(), torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            out[chosen == number] = F.relu(expert(x[chosen == number]))
        return self.head(out)


def mlp(depth: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    layers = [m for _ in range(depth - 1) for m in (nn.Linear(WIDTH, WIDTH), activation())]
    return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))


def scaled_he(depth: int, factor: float) -> nn.Module:
    return init_(mlp(depth), lambda normals, layer: normals * factor * math.sqrt(2 / layer.fan_in))


def zero_head() -> nn.Module:
    net = init_(mlp(6), "he")
    nn.init.zeros_(net[-1].weight)
    nn.init.uniform_(net[-1].bias, -0.125, 0.125)  # as torch leaves it
    return net


def position_bias() -> nn.Module:
    """A bias from an MLP that sees places alone, in the middle of a He net."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.places = (
                init_(mlp(6), "he"),
                nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, WIDTH)),
            )
            nn.init.normal_(self.places[2].weight, 0, 1e-5)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x + self.places(torch.ones(2)))

    return Net()


SICK = {
    "plain, Xavier's weights": (lambda: init_(mlp(30), "xavier"), "vanishing"),
    "plain, std 0.01": (lambda: init_(mlp(10), "gaussian", std=0.01), "vanishing"),
    "plain, torch's default": (lambda: mlp(16), "vanishing"),
    "sigmoids": (lambda: init_(mlp(8, nn.Sigmoid), "xavier"), "vanishing"),
    "three times He's": (lambda: scaled_he(20, 3.0), "exploding"),
    "residual sums unscaled": (lambda: init_(Residual(30, 1.0), "he"), "exploding"),
}
SOUND = {
    "residual sums scaled": lambda: init_(Residual(30, 30**-0.5), "he"),
    "plain, torch's default, few layers": lambda: mlp(8),
    "learned gains of 0": LearnedGain,
    "a zero head with torch's bias": zero_head,
    "an expert without an example": Routed,
    "a bias that sees no input": position_bias,
}


def halves(model: nn.Module) -> bool:
    """Whether 30 steps of AdamW halve the loss, or chance's where it starts higher, in plain torch."""
    for rate in (1e-3, 3e-3):
        losses = plain_losses(model, rate, X, Y)
        if losses[-1] < min(losses[0], math.log(CLASSES)) / 2:
            return True
    return False


@pytest.mark.parametrize("name", SICK)
def test_an_alarm_where_the_loss_does_not_halve(name: str) -> None:
    torch.manual_seed(0)
    build, verdict = SICK[name]
    model = build()
    assert not halves(model)
    inspection = inspect(model, X, Y)
    assert (inspection.verdict, inspection.healthy) == (verdict, False)


@pytest.mark.parametrize("name", SOUND)
def test_none_where_it_does(name: str) -> None:
    torch.manual_seed(0)
    model = SOUND[name]()
    assert halves(model)
    inspection = inspect(model, X, Y)
    assert inspection.healthy, inspection.reason


def test_what_sees_no_input_and_what_gets_no_example_is_said() -> None:
    torch.manual_seed(0)
    inspection = inspect(position_bias(), X, Y)
    assert "what feeds `places.0` is the same for every example" in inspection.reason
    routed = inspect(Routed(), X, Y)
    assert dict(zip(routed.table.name, routed.table.status, strict=True))["experts.2"] == "unused"


def test_a_tied_unit_normal_embedding_is_saturated() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(256, 128), nn.LayerNorm(128), nn.Linear(128, 256, bias=False))
    net[2].weight = net[0].weight
    tokens = torch.randint(256, (4, 16))
    loss = F.cross_entropy(net(tokens).flatten(0, 1), tokens.roll(1, 1).flatten()).item()
    assert loss > 10 * math.log(256)
    inspection = inspect(net, tokens, tokens.roll(1, 1))
    assert inspection.verdict == "saturated"
    assert f"the loss starts at {loss:.3g} where ln 256 = 5.55 is chance" in inspection.reason
