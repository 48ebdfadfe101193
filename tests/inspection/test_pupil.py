"""A copy that takes a few steps: what learns, what opens, and that the model is left alone."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from initlab import init_, inspect
from initlab.bench.sound_nets import SOUND_NETS
from initlab.inspection.pupil import Pupil
from initlab.signal.start import start_of
from tests.inspection.plain_steps import plain_losses

X, Y = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 10


def mlp(depth: int, scheme: str) -> nn.Module:
    torch.manual_seed(0)
    layers = [m for _ in range(depth - 1) for m in (nn.Linear(64, 64), nn.ReLU())]
    return init_(nn.Sequential(*layers, nn.Linear(64, 10)), scheme)


def plain_ratio(model: nn.Module, rate: float) -> float:
    """The loss after 30 steps of AdamW over that at the start, in plain torch."""
    losses = plain_losses(model, rate, X, Y)
    return losses[-1] / losses[0]


@pytest.mark.parametrize(("depth", "scheme"), [(10, "he"), (8, "torch_default"), (20, "torch_default"), (30, "xavier")])
def test_it_learns_where_plain_torch_halves_the_loss(depth: int, scheme: str) -> None:
    model = mlp(depth, scheme)
    before = copy.deepcopy(model.state_dict())
    halves = min(plain_ratio(model, rate) for rate in (1e-3, 3e-3)) < 0.5
    assert Pupil(model, X, Y, None).learns(start_of(model, X, Y), surely=True) == halves
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert inspect(model, X, Y).healthy == halves


def test_far_above_chance_halving_is_not_enough() -> None:
    model = mlp(20, "he")
    with torch.no_grad():
        for layer in model[::2]:  # type: ignore[index]
            layer.weight.mul_(3)
    assert not Pupil(model, X, Y, None).learns(start_of(model, X, Y), surely=True)
    assert inspect(model, X, Y).verdict == "exploding"


def test_knowing_how_frequent_the_labels_are_is_no_learning() -> None:
    """Two examples have a loss of ln 2 = 0.3 ln 10 as soon as the last biases know their classes."""
    torch.manual_seed(0)
    layers = [m for _ in range(60) for m in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())]
    model = init_(nn.Sequential(*layers, nn.Flatten(), nn.Linear(72, 10)), "he")
    images, labels = torch.randn(2, 8, 3, 3), torch.arange(2)
    pupil, start = Pupil(model, images, labels, None), start_of(model, images, labels)
    assert not pupil.learns(start, surely=True)
    assert pupil.learns(start, surely=False)


class Gate(nn.Module):
    """h + f(act(gate(h))), the gate without a bias and 0: behind a ReLU it never opens, behind a sigmoid it does."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.stem, self.gate, self.up, self.head = (nn.Linear(64, 64, bias=False) for _ in range(4))
        nn.init.zeros_(self.gate.weight)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return self.head(h + self.up(h) * self.activation(self.gate(h)))


def test_a_gate_of_zeros_is_dead_behind_a_relu_and_closed_behind_a_sigmoid() -> None:
    torch.manual_seed(0)
    dead, opening = inspect(Gate(nn.ReLU()), X, Y), inspect(Gate(nn.Sigmoid()), X, Y)
    assert dead.verdict == "dead" and "gate" in dead.reason
    assert dict(zip(dead.table.name, dead.table.status, strict=True))["up"] == "dead"
    assert opening.healthy and dict(zip(opening.table.name, opening.table.status, strict=True))["gate"] == "closed"


@pytest.mark.parametrize("start", [0.0, 1e-6])
def test_a_branch_behind_a_gain_of_zero_or_nearly_opens(start: float) -> None:
    """SkipInit, ReZero and LayerScale: the gain gets the gradient first."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branches = nn.ModuleList(
                [nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)) for _ in "abc"]
            )
            self.gains = nn.Parameter(torch.full((3,), start))
            self.head = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            for branch, gain in zip(self.branches, self.gains, strict=True):
                x = x + gain * branch(x)
            return self.head(x)

    torch.manual_seed(0)
    net = init_(Net(), "he")
    assert min(plain_ratio(net, rate) for rate in (1e-3, 3e-3)) < 0.5
    inspection = inspect(net, X, Y)
    assert inspection.healthy, inspection.reason
    assert ("waiting" in set(inspection.table.status)) == (start == 0)


@pytest.mark.parametrize(("steps", "verdict"), [(10, "healthy"), (100, "vanishing")])
def test_a_gradient_that_float32_loses_over_the_steps_of_an_lstm_vanishes(steps: int, verdict: str) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(4, 16, batch_first=True), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0][:, -1])

    torch.manual_seed(0)
    net, x, y = Last(), torch.randn(8, steps, 4), torch.arange(8) % 3
    exact, inputs = copy.deepcopy(net).double(), x.double().requires_grad_()
    F.cross_entropy(exact(inputs), y).backward()
    size = inputs.grad.square().mean((0, 2)).sqrt()
    assert (size[0] / size[-1] < 2**-24) == (verdict == "vanishing")
    inspection = inspect(net, x, y)
    assert inspection.verdict == verdict
    assert verdict == "healthy" or "through time in the recurrent `lstm" in inspection.reason


QUICK = ("plain-he", "nerf", "siren", "actor-critic", "diffusion", "lora", "bert", "cait", "unet", "weight-norm")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SOUND_NETS]
)
def test_no_alarm_on_a_sound_net(name: str) -> None:
    net = SOUND_NETS[name](1)
    inspection = inspect(net.model, net.batch, net.labels, loss=net.loss)
    assert inspection.verdict == "healthy", inspection.reason
