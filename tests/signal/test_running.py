"""Running moments: by hand, as the probe measures them, of signals that float32 squares to 0, and pooled rightly."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from initlab import build_net, init_
from initlab.signal import running
from initlab.signal.probe import measure
from initlab.signal.running import COLUMNS, RunningMoments, in_memory_order

CPU = torch.device("cpu")


def alone(sums: Tensor) -> Tensor:
    return sums


def sample(sums: RunningMoments, net: nn.Module, images: Tensor, labels: Tensor) -> None:
    """A training step without its update."""
    net.train()
    with sums.listen():
        logits = net(images)
    F.cross_entropy(logits, labels).backward()
    sums.sampled(len(labels))


def moments(net: nn.Module, images: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    sums = RunningMoments(net, CPU)
    sample(sums, net, images, labels)
    return sums.take(alone)


def batch(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator).to(dtype), torch.arange(shape[0]) % 10


def assert_as_measured(net: nn.Module, images: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    rows, probed = moments(net, images, labels), measure(net, images, labels)
    assert [(row["layer"], row["name"], row["op"]) for row in rows] == [
        (row["layer"], row["name"], row["op"]) for row in probed
    ]
    for row, other in zip(rows, probed, strict=True):
        assert row["samples"] == 1
        for column in COLUMNS:
            near_0 = 1e-12 * math.sqrt(other[column.replace("mean", "var")])  # a mean is a difference
            assert row[column] == pytest.approx(other[column], rel=1e-12, abs=near_0), f"{row['name']}: {column}"
    return rows


@pytest.mark.parametrize("options", [{}, {"norm": "batch"}, {"skip": "identity", "activation": "prelu"}])
def test_they_are_what_the_probe_measures_on_the_same_batch(options: dict[str, Any]) -> None:
    net = build_net("plain", depth=10, width=4, input_shape=(1, 16, 16), **options)
    images, labels = batch((12, 1, 16, 16))
    assert_as_measured(init_(net, "he", seed=0).double(), images, labels)


def test_by_hand() -> None:
    # y = (2, 0) for label 0 and (0, 2) for label 0: p = sigmoid(2) and sigmoid(-2)
    net = nn.Sequential(nn.Linear(2, 2, bias=False)).double()
    with torch.no_grad():
        net[0].weight.copy_(2 * torch.eye(2))
    (row,) = moments(net, torch.eye(2, dtype=torch.float64), torch.tensor([0, 0]))
    wrong, right = 1 / (1 + math.exp(2)), 1 / (1 + math.exp(-2))
    assert (row["name"], row["op"], row["layer"], row["samples"]) == ("0", "linear", 0, 1)
    assert (row["forward_mean"], row["forward_var"]) == (1.0, 1.0)
    # gradients of the summed loss, p - onehot: (-wrong, wrong) and (-right, right)
    assert row["backward_mean"] == pytest.approx(0, abs=1e-16)
    assert row["backward_var"] == pytest.approx((wrong**2 + right**2) / 2, rel=1e-14)


def test_samples_are_pooled_until_they_are_taken() -> None:
    net = nn.Sequential(nn.Linear(1, 1, bias=False)).double()
    nn.init.ones_(net[0].weight)
    sums = RunningMoments(net, CPU)
    for values in ([[1.0], [3.0]], [[5.0], [7.0]]):
        sample(sums, net, torch.tensor(values, dtype=torch.float64), torch.tensor([0, 0]))
    (row,) = sums.take(alone)
    assert (row["samples"], row["forward_mean"], row["forward_var"]) == (2, 4.0, 5.0)  # of 1, 3, 5, 7
    assert (row["backward_mean"], row["backward_var"]) == (0.0, 0.0)  # one class
    assert sums.take(alone) == []


def test_signals_that_float32_squares_to_0_are_kept() -> None:
    net = init_(build_net("plain", depth=30, width=16, input_shape=(1, 16, 16)), "gaussian", std=0.01, seed=0)
    images, labels = batch((8, 1, 16, 16), torch.float32)
    rows = assert_as_measured(net, images, labels)
    variances = [row["forward_var"] for row in rows] + [row["backward_var"] for row in rows]
    assert 0 < min(variances) < 1e-45
    assert torch.tensor(min(variances)).float() == 0


def test_a_layer_used_twice_is_one_row_and_one_that_never_ran_comes_last() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused, self.last, self.shared = nn.Linear(3, 3), nn.Linear(3, 10), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.shared(self.shared(x).relu()).relu())

    torch.manual_seed(0)
    net = Net().double()
    images, labels = batch((5, 3))
    rows, probed = moments(net, images, labels), measure(net, images, labels)
    assert [row["name"] for row in rows] == ["shared", "last", "unused"]
    for row, other in zip(rows[:2], probed, strict=False):
        assert [row[c] for c in COLUMNS] == pytest.approx([other[c] for c in COLUMNS], rel=1e-12, abs=1e-12)
    assert all(math.isnan(rows[2][column]) for column in COLUMNS)


def test_a_frozen_start_has_no_backward_moments() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 10)).double()
    net[0].requires_grad_(False)
    first, last = moments(net, *batch((5, 3)))
    assert math.isnan(first["backward_var"]) and first["forward_var"] > 0 and last["backward_var"] > 0


def test_checkpointed_layers_count_once_and_no_hook_stays() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(checkpoint(self.first, x, use_reentrant=False).relu())

    net = Net().double()
    sums = RunningMoments(net, CPU)
    sample(sums, net, *batch((5, 3)))
    assert sums.counts.tolist() == [[20, 20], [50, 50]]
    assert not any(module._forward_hooks for module in net.modules())
    net(batch((5, 3))[0])
    assert sums.counts.tolist() == [[20, 20], [50, 50]]


def test_in_pieces_and_channels_last_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    net = init_(build_net("plain", depth=7, width=4, input_shape=(3, 8, 8)), "he", seed=0).double()
    images, labels = batch((4, 3, 8, 8))
    whole = moments(net, images, labels)
    monkeypatch.setattr(running, "CPU_PIECE", 50)
    pieces = moments(net.to(memory_format=torch.channels_last), images, labels)
    for row, other in zip(whole, pieces, strict=True):
        assert [row[c] for c in COLUMNS] == pytest.approx([other[c] for c in COLUMNS], rel=1e-12, abs=1e-15)


def test_memory_order_makes_no_copy_and_leaves_no_number_out() -> None:
    values = torch.randn(2, 3, 4, 5)
    last = values.to(memory_format=torch.channels_last)
    for dense in (values, last):
        assert in_memory_order(dense).data_ptr() == dense.data_ptr()
        assert in_memory_order(dense).sort().values.equal(values.flatten().sort().values)
    assert in_memory_order(values[:, :, ::2]).shape == (60,)


def test_open_sums_go_through_a_checkpoint_and_over_processes() -> None:
    net = init_(build_net("plain", depth=7, width=4, input_shape=(1, 8, 8)), "he", seed=0).double()
    images, labels = batch((4, 1, 8, 8))
    whole, first, follower = (RunningMoments(net, CPU) for _ in range(3))
    for one in (whole, whole, first):
        sample(one, net, images, labels)
    second = RunningMoments(net, CPU)
    second.restore(first.state(alone), leads=True)
    follower.restore(first.state(alone), leads=False)
    assert follower.samples == 1 and not follower.sums.any()
    sample(second, net, images, labels)
    expected = whole.take(alone)
    assert second.take(alone) == expected
    # two processes with the same numbers: twice the sums and counts, the same moments
    assert [row["samples"] for row in expected] == [2] * 7
    sample(first, net, images, labels)
    assert first.take(lambda sums: 2 * sums) == expected
