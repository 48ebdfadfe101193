"""What is read off autograd's graph: activations with their parameters, and what lies before and after a layer."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initlab.init.activations import resolve
from initlab.init.joints import NOWHERE, joints_in_order
from initlab.inspection.lint.graph import joints_that_ran

ACTIVATIONS = [
    nn.ReLU(),
    nn.ReLU(inplace=True),
    nn.LeakyReLU(0.3),
    nn.PReLU(8, init=0.4),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.ELU(),
    nn.ELU(0.5),
    nn.SELU(),
    nn.CELU(2.0),
    nn.SiLU(),
    nn.Mish(),
    nn.Hardswish(),
    nn.Hardsigmoid(),
    nn.Hardtanh(),
    nn.Hardtanh(-2.0, 0.5),
    nn.ReLU6(),
    nn.Tanh(),
    nn.Sigmoid(),
    nn.Softplus(),
    nn.Softplus(2.0),
    nn.LogSigmoid(),
    nn.Hardshrink(0.3),
    nn.Softshrink(0.3),
    nn.Softsign(),
    nn.Tanhshrink(),
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_an_activation_that_ran_is_the_one_of_its_module(activation: nn.Module) -> None:
    net = nn.Sequential(nn.Linear(4, 8), activation, nn.Dropout(0.5), nn.Linear(8, 2))
    joints, signals, output = joints_that_ran(net, torch.randn(3, 4))
    last = joints["3"]
    assert (last.before, last.source, last.after) == ("layer", "0", "output")
    assert (joints["0"].before, joints["0"].phi, joints["0"].after) == ("input", None, "activation")
    assert last.phi is not None
    assert last.phi.second(0.7) == pytest.approx(resolve(activation).second(0.7), rel=1e-6)
    assert output.shape == (3, 2)
    assert signals["3"] == pytest.approx(output.double().square().mean().item(), rel=1e-6)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh(), nn.LeakyReLU(0.3)], ids=str)
def test_order_and_graph_agree_on_a_sequential(activation: nn.Module) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        activation,
        nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)),
        activation,
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 1),
        activation,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    ran, _, _ = joints_that_ran(net, torch.randn(2, 3, 14, 14))
    for name, joint in joints_in_order(net).items():
        other = ran[name]
        assert (joint.before, joint.source, joint.after) == (other.before, other.source, other.after), name
        assert (joint.phi is None) == (other.phi is None), name
    assert ran["5"].before == "norm"
    assert ran["3.0"].after == "norm"
    assert (ran["6"].before, ran["6"].phi, ran["6"].source) == ("layer", None, "5")


class Branches(nn.Module):
    """A residual branch, a gate, a layer used twice, one that never runs, and a tuple for an output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.gate, self.twice, self.never, self.head = (nn.Linear(8, 8) for _ in range(7))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu_(self.a(x))
        x = x + self.b(x)
        x = torch.tanh(self.c(x)) * torch.sigmoid(self.gate(x))
        x = F.relu(self.twice(F.relu(self.twice(x))))
        return self.head(x), x


def test_sums_gates_and_layers_used_twice_or_never() -> None:
    net = Branches()
    joints, _, _ = joints_that_ran(net, torch.randn(4, 8))
    assert (joints["a"].before, joints["a"].after) == ("input", "activation")
    assert (joints["b"].source, joints["b"].after) == ("a", "sum")
    assert (joints["c"].before, joints["gate"].before) == ("sum", "sum")
    # A product of two activations.
    assert joints["twice"].before == "unknown"
    assert (joints["head"].source, joints["head"].after) == ("twice", "output")
    assert joints["never"] == NOWHERE
    assert set(joints_in_order(net).values()) == {NOWHERE}
    assert not any(module._forward_hooks for module in net.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
