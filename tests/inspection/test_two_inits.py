"""Two initialisations side by side: exact by homogeneity, or said not to be."""

import math

import pytest
import torch
from torch import Tensor, nn

from initlab import build_net, init_
from initlab.errors import UserError
from initlab.inspection.two_inits import compare


def two(scheme: str, other: str, **options: object) -> tuple[nn.Module, nn.Module]:
    nets = (build_net("plain", depth=30, width=8, input_shape=(1, 8, 8), **options).double() for _ in range(2))  # type: ignore[arg-type]
    first, second = nets
    return init_(first, scheme), init_(second, other)


IMAGES = torch.randn(4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("downsample", ["stride", "max_pool"])
def test_xavier_halves_he_at_every_layer_forward_and_backward_exactly(downsample: str) -> None:
    comparison = compare(*two("xavier", "he", downsample=downsample), IMAGES)
    assert comparison.exact
    assert "exact by homogeneity" in comparison.why
    for layer, row in enumerate(comparison.table.itertuples()):
        assert row.weight_ratio == pytest.approx(math.sqrt(0.5), rel=1e-9)
        assert row.forward_ratio == pytest.approx(2.0 ** -(layer + 1), rel=1e-9)
        assert row.backward_ratio == pytest.approx(2.0 ** -(29 - layer), rel=1e-9)
        assert row.expected_forward == pytest.approx(row.forward_ratio, rel=1e-9)
        assert row.expected_backward == pytest.approx(row.backward_ratio, rel=1e-9)
    # scale.xavier30_std: 30 layers of which the first has no ReLU before it, but the same factor.
    assert math.sqrt(comparison.table.forward_ratio.iloc[-1]) == pytest.approx(2**-15, rel=1e-9)


def test_fixed_std_against_he_is_the_product_of_its_own_factors() -> None:
    fixed, he = two("gaussian", "he")
    comparison = compare(fixed, he, IMAGES)
    expected = 1.0
    for row, layer in zip(comparison.table.itertuples(), [m for m in he if hasattr(m, "weight")], strict=True):
        # 0.01^2 over He's 2/fan_in.
        expected *= 1e-4 * layer.weight[0].numel() / 2
        assert row.forward_ratio == pytest.approx(expected, rel=1e-9)
    assert comparison.exact


def biased(net: nn.Module) -> nn.Module:
    nn.init.constant_(net[0].bias, 0.1)  # type: ignore[index]
    return net


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x + torch.relu(x))


def chain(activation: nn.Module, *after: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), activation, nn.Linear(8, 8), *after)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: biased(chain(nn.ReLU())), "`0` has biases"),
        (lambda: chain(nn.Tanh()), "tanh before `2` does not keep ratios"),
        (lambda: chain(nn.LayerNorm(8)), "before `2` signals are mixed, normalised"),
        (lambda: chain(nn.ReLU(), nn.LogSoftmax(1)), "something follows `2`"),
        (Skip, "before `b` signals are mixed"),
    ],
)
def test_what_is_not_homogeneous_is_said_and_expects_nothing(make: object, reason: str) -> None:
    nets = []
    for scheme in ("xavier", "he"):
        net = make()  # type: ignore[operator]
        bias = next((m.bias.detach().clone() for m in net.modules() if isinstance(m, nn.Linear)), None)
        init_(net, scheme)
        if "biases" in reason:
            net[0].bias.data.copy_(bias)
        nets.append(net)
    comparison = compare(nets[0], nets[1], torch.randn(4, 8))
    assert not comparison.exact
    assert reason in comparison.why
    assert comparison.table.expected_forward.isna().all()


def test_other_draws_are_not_one_scale_apart() -> None:
    a, b = chain(nn.ReLU()), chain(nn.ReLU())
    comparison = compare(init_(a, "he", seed=0), init_(b, "he", seed=1), torch.randn(4, 8))
    assert "differ in more than scale" in comparison.why


def test_nets_of_other_layers_are_refused() -> None:
    with pytest.raises(UserError, match=r"against: not two initialisations of one net \(got `0` of shape \(8, 8\)"):
        compare(chain(nn.ReLU()), nn.Sequential(nn.Linear(8, 4)), torch.randn(4, 8))
