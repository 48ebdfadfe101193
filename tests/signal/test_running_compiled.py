"""Running moments as outputs of the forward pass: those that hooks on tensors sum, for every kind of layer."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initlab.signal.running import COLUMNS, RunningMoments
from initlab.signal.running_compiled import CompiledMoments, Forward

CPU = torch.device("cpu")


class Net(nn.Module):
    """A layer that is frozen, one that never runs, and one that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.last, self.shared, self.frozen = (nn.Linear(3, n) for n in (3, 10, 3, 3))
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.shared(self.shared(self.frozen(x)).relu()).relu())


def as_it_is(forward: Forward) -> Forward:
    return forward


def test_they_are_those_of_the_hooks_and_change_no_bit() -> None:
    torch.manual_seed(0)
    net = Net().double()
    images, labels = torch.randn(5, 3, dtype=torch.float64), torch.arange(5)
    hooked, traced = RunningMoments(net, CPU), RunningMoments(net, CPU)
    compiled = CompiledMoments(net, as_it_is)
    gradients = []
    for moments in (hooked, traced, traced):
        net.zero_grad()
        if moments is hooked:
            with moments.listen():
                logits = net(images)
        else:
            logits = compiled(images, moments)
        F.cross_entropy(logits, labels).backward()
        moments.sampled(len(labels))
        gradients.append([p.grad for p in net.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients[:2], strict=True))
    assert traced.counts.equal(2 * hooked.counts)
    rows, others = (moments.take(lambda sums: sums) for moments in (hooked, traced))
    assert [row["name"] for row in others] == ["frozen", "shared", "last", "unused"]
    for row, other in zip(rows, others, strict=True):
        assert (other["name"], other["samples"]) == (row["name"], 2 * row["samples"])
        for column in COLUMNS:
            assert other[column] == pytest.approx(row[column], rel=1e-12, abs=1e-15, nan_ok=True)
    assert math.isnan(others[0]["backward_var"]) and math.isnan(others[3]["forward_var"])
    assert not any(module._forward_hooks for module in net.modules())


def test_what_float32_squares_to_0_is_summed() -> None:
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 2.0**-95)  # 2.5e-29
    moments = RunningMoments(net, CPU)
    y = CompiledMoments(net, as_it_is)(torch.ones(4, 1), moments)
    (2.0**-95 * y.sum()).backward()
    moments.sampled(1)
    assert moments.sums.tolist() == [[4 * 2.0**-95, 4 * 2.0**-190] * 2]
