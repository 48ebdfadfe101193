"""Known answers for what lies between weight layers: padding, pooling, SPP, dropout, norms and residual sums.

Each value is the closed form of the reference, computed here again without initlab.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch import Tensor, nn

import initlab
from tests.signal.theory.field_runs import gradient_at_input, output, run


def exact(value: float, rel: float = 1e-9) -> object:
    return pytest.approx(value, rel=rel)


@pytest.fixture(scope="module")
def padded() -> nn.Sequential:
    """27 He layers of 3x3 with padding 1; wide, since only their second moments count."""
    layers = [layer for _ in range(27) for layer in (nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.ReLU())]
    net = nn.Sequential(*layers).double()
    for layer in layers[::2]:
        nn.init.constant_(layer.weight, math.sqrt(2 / 72))  # the second moment of He's draws, exactly
    return net


@pytest.mark.parametrize(("side", "kept"), [(7, 0.04894004), (14, 0.3391446), (32, 0.6678863), (56, 0.8020411)])
def test_zero_padding_eats_the_signal_of_small_maps(padded: nn.Sequential, side: int, kept: float) -> None:
    """pad.keep27_*: mean of v v^T with v = (K/3)^27 1."""
    band = np.eye(side) + np.eye(side, k=1) + np.eye(side, k=-1)
    v = np.linalg.matrix_power(band / 3, 27) @ np.ones(side)
    q = output(padded, (8, side, side)).q
    assert v.mean() ** 2 == exact(kept, 1e-6)
    np.testing.assert_allclose(q, np.outer(v, v), rtol=1e-9)


def test_centre_corner_and_rate_of_padded_maps(padded: nn.Sequential) -> None:
    """pad.keep27_7_centre, pad.keep27_7_corner, pad.keep27_32_corner and pad.rate_7."""
    q7, q32 = output(padded, (8, 7, 7)).q, output(padded, (8, 32, 32)).q
    assert float(q7[3, 3]) == exact(0.09488186, 1e-6)
    assert float(q7[0, 0]) == exact(0.0138952, 1e-6)
    assert float(q32[0, 0]) == exact(0.03395478, 1e-6)
    longer = output(padded[:52], (8, 7, 7)).level, output(padded, (8, 7, 7)).level
    assert longer[1] / longer[0] == exact(((1 + 2 * math.cos(math.pi / 8)) / 3) ** 2, 1e-4)


def test_the_gradient_loses_as_much_to_the_padding(padded: nn.Sequential) -> None:
    assert float(gradient_at_input(padded, (8, 7, 7)).mean()) == exact(0.04894004, 1e-6)


def relu_max(members: int) -> float:
    """2 int_0^inf z^2 m n(z) N(z)^(m-1) dz: relu, then the greatest of m, over the mean square of relu."""
    return 2 * quad(lambda z: z**2 * members * norm.pdf(z) * norm.cdf(z) ** (members - 1), 0, 12, epsabs=1e-12)[0]


@pytest.mark.parametrize(("side", "value"), [(2, 3.08757), (3, 5.125118)])
def test_relu_then_max_pool(side: int, value: float) -> None:
    """pool.relumax2, pool.relumax3 and the gradients of both, (1 - 2^-m) / m."""
    net = nn.Sequential(nn.ReLU(), nn.MaxPool2d(side))
    members = side * side
    assert output(net, (4, 6, 6)).level == exact(relu_max(members) / 2, 1e-6)
    assert relu_max(members) == exact(value, 1e-6)
    assert float(gradient_at_input(net, (4, 6, 6)).mean()) == exact((1 - 2.0**-members) / members, 1e-6)


def test_max_pool_of_normals() -> None:
    """pool.max2_raw: 1 + sqrt(3) / pi."""
    assert output(nn.MaxPool2d(2), (4, 6, 6)).level == exact(1 + math.sqrt(3) / math.pi, 1e-6)


@pytest.mark.parametrize("side", [2, 3])
def test_relu_then_average_pool(side: int) -> None:
    """pool.reluavg2, pool.reluavg3: (1/m) (1 - 1/pi) + 1/pi of the mean square of relu."""
    members = side * side
    value = output(nn.Sequential(nn.ReLU(), nn.AvgPool2d(side)), (4, 6, 6)).level / 0.5
    assert value == exact((1 - 1 / math.pi) / members + 1 / math.pi)


def test_average_pool_of_normals_and_global_average() -> None:
    """pool.avg2_raw and pool.gap7."""
    assert output(nn.AvgPool2d(2), (4, 6, 6)).level == exact(0.25)
    net = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    assert output(net, (4, 7, 7)).level / 0.5 == exact((1 - 1 / math.pi) / 49 + 1 / math.pi)


class Pyramid(nn.Module):
    def __init__(self, *bins: int) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([nn.functional.adaptive_max_pool2d(x.relu(), n).flatten(1) for n in self.bins], 1)


def test_spatial_pyramid() -> None:
    """pool.spp_large_14: the mean over 63 windows of relu_max(size), 4.544413."""
    sizes = [
        (math.ceil((i + 1) * 14 / n) - i * 14 // n) * (math.ceil((j + 1) * 14 / n) - j * 14 // n)
        for n in (7, 3, 2, 1)
        for i in range(n)
        for j in range(n)
    ]
    assert len(sizes) == 63
    mean = sum(relu_max(size) for size in sizes) / 63
    assert mean == exact(4.544413, 1e-6)
    field = output(Pyramid(7, 3, 2, 1), (4, 14, 14))
    assert field.level / 0.5 == exact(mean, 1e-6)
    assert field.channels == 63 * 4


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout(p: float) -> None:
    """pool.dropout*: 1 / (1 - p) in both directions when dropout is on, nothing otherwise."""
    net = nn.Dropout(p)
    assert output(net, (8,), dropout=True).level == exact(1 / (1 - p))
    assert float(gradient_at_input(net, (8,), dropout=True)) == exact(1 / (1 - p))
    assert output(net, (8,)).level == 1


def test_the_three_rules_that_the_theory_works_by_hand() -> None:
    """Linear, ReLU and BatchNorm as the docstring of `initlab.signal.theory` has them."""
    # Wide, for the scatter of pairs in narrow layers moves their mean.
    net = nn.Sequential(nn.Linear(1024, 1024, bias=False), nn.ReLU(), nn.BatchNorm1d(1024, eps=1e-12))
    nn.init.constant_(net[0].weight, math.sqrt(2 / 1024))
    _, _, signals, gradients = run(net.double(), (1024,), examples=10**12)
    fields = [signal.field for signal in signals[1:]]
    assert [field.level for field in fields] == pytest.approx([2, 1, 1], rel=1e-6)
    assert [field.c.same_place for field in fields] == pytest.approx([0, 1 / math.pi, 0], abs=1e-6)
    assert gradients[0] is not None
    assert gradients[0].level == exact(1.466942, 1e-6)


def batch_norm_net(depth: int, width: int) -> nn.Sequential:
    layers = [(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()) for _ in range(depth)]
    return nn.Sequential(*(module for layer in layers for module in layer), nn.Linear(width, 10))


def test_batch_norm_hides_growing_gradients() -> None:
    """bn.grad_growth: pi / (pi - 1) a layer at a large batch, with every forward variance 1; bn.grad_growth30."""
    theory = initlab.predict(batch_norm_net(30, 64), scheme="he", input_shape=(64,), batch_size=10**12)
    hidden = theory.iloc[1:30]
    growth = [above / below for above, below in pairwise(hidden.backward_var)]
    assert growth[:20] == pytest.approx([math.pi / (math.pi - 1)] * 20, rel=1e-4)  # eps of the norm is 1e-5
    assert math.prod(growth[:1]) ** 30 == exact(98263.02, 2e-3)
    assert hidden.forward_var.to_numpy() == pytest.approx(1, rel=0.01)


def test_batch_norm_of_small_batches_grows_faster() -> None:
    """bn.grad_growth_b32: 1.52, measured at width 512."""
    theory = initlab.predict(batch_norm_net(24, 512), scheme="he", input_shape=(512,), batch_size=32)
    growth = (theory.backward_var.iloc[4] / theory.backward_var.iloc[20]) ** (1 / 16)
    assert growth == pytest.approx(1.52, rel=0.03)


class Blocks(nn.Module):
    """x + scale * W2 relu(W1 phi(x)), `count` times, with He's second moments exactly."""

    def __init__(self, count: int, scale: float = 1.0, leading: bool = True) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(2 * count))
        self.scale, self.leading = scale, leading
        self.double()
        for layer in self.layers:
            nn.init.constant_(layer.weight, math.sqrt(2 / 8))

    def forward(self, x: Tensor) -> Tensor:
        for first, second in zip(self.layers[::2], self.layers[1::2], strict=True):
            inner = first(x.relu() if self.leading else x).relu()
            x = x + self.scale * second(inner)
        return x


def test_residual_blocks() -> None:
    """bn.res_preact and its gradient 2^10, bn.res_scaled (1 + 1/L)^L, bn.res_plain_branch 3."""
    assert output(Blocks(10), (8,)).level == exact(1024, 1e-12)
    assert float(gradient_at_input(Blocks(10), (8,))) == exact(1024, 1e-12)
    assert output(Blocks(10, scale=10**-0.5), (8,)).level == exact(1.1**10, 1e-12)
    assert output(Blocks(1, leading=False), (8,)).level == exact(3, 1e-12)


def test_the_same_tensor_twice_is_four_times_its_square() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.relu()
            return y + y

    assert output(Twice(), (8,)).level == exact(2.0)


def test_signals_of_a_residual_net_scatter_as_one() -> None:
    """The skip carries its scatter on: a net of skips alone scatters like its first layer."""
    context, trace, signals, _ = run(nn.Sequential(nn.Linear(64, 64, bias=False), Blocks(0)), (64,))
    assert context.scatter(signals[trace.output].noise).variance == pytest.approx(2 / 64, rel=0.05)
