"""Known answers on initialisation schemes; a test's rows are named by their id.

q is the second moment E[y^2] of pre-activations; a factor is what one layer multiplies it by. Measured values are means
over seeds, with tolerances of three of their standard errors or more.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from statistics import fmean

import pytest
import torch
from scipy.stats import truncnorm
from torch import Tensor, nn

from initlab import init_
from initlab.init.orthogonal import haar
from initlab.init.schemes import truncated_normal, truncated_std
from initlab.init.shapes import LayerShape, fans
from tests.init.drawn_std import drawn_std


def perceptron(width: int, depth: int, bias: bool = False, activation: Callable[[], nn.Module] = nn.ReLU):
    layers = (layer for _ in range(depth) for layer in (nn.Linear(width, width, bias=bias), activation()))
    return nn.Sequential(*layers)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def second_moments(net: nn.Sequential, x: Tensor, gradient: Tensor | None = None) -> tuple[list[float], list[float]]:
    """q of each weight layer's output, and of its gradient where one is given at the output."""
    outputs = []
    for layer in net:
        x = layer(x)
        if not isinstance(layer, nn.ReLU | nn.PReLU | nn.MaxPool2d):
            x.requires_grad_() if not x.requires_grad else x.retain_grad()
            outputs.append(x)
    if gradient is not None:
        outputs[-1].backward(gradient)
    back = [float(y.grad.double().square().mean()) for y in outputs] if gradient is not None else []
    return [float(y.detach().double().square().mean()) for y in outputs], back


def factors(scheme: str, width: int, seeds: int, **options: object) -> tuple[float, float]:
    """Forward and backward factor per layer of a rectifier net of 6 layers."""
    forward, backward = [], []
    for seed in range(seeds):
        net = init_(perceptron(width, 6, **options), scheme, seed=seed, negative_slope=0.0)  # He for ReLU throughout
        q, dq = second_moments(net, randn(64, width, seed=seed).float(), randn(64, width, seed=seed + 100).float())
        forward.append(q[-1] / q[0])
        backward.append(dq[0] / dq[-1])
    return fmean(forward) ** (1 / 5), fmean(backward) ** (1 / 5)


# truncated normal


def test_trunc_std2_std3_and_what_is_kept_without_the_correction():
    assert truncated_std(2) == pytest.approx(truncnorm.std(-2, 2), rel=1e-9)
    assert truncated_std(2) == pytest.approx(0.8796257, abs=5e-8)
    assert truncated_std(3) == pytest.approx(truncnorm.std(-3, 3), rel=1e-9)
    assert truncated_std(3) == pytest.approx(0.9865784, abs=5e-8)
    assert truncated_std(2) ** 44 == pytest.approx(0.003540847, abs=5e-10)
    assert truncated_std(2) ** 60 == pytest.approx(4.54855e-04, abs=5e-10)


def test_trunc_std2_of_the_draws_themselves():
    shape = LayerShape((1000, 2000), 2, 1)  # a fan of 2: He's std is 1
    drawn = truncated_normal(randn(*shape.shape), shape)
    assert drawn.std().item() == pytest.approx(1, rel=1e-3)
    assert drawn.abs().max().item() * truncated_std(2) == pytest.approx(2, rel=1e-4)


def test_trunc_absolute_bounds_of_torch_cut_nothing():
    drawn = nn.init.trunc_normal_(torch.empty(1000, 1000), std=0.02, generator=torch.Generator().manual_seed(0))
    assert drawn.std().item() == pytest.approx(0.02, rel=0.002)


# torch's default


def test_default_linear_wvar_conv_wvar_and_bvar_are_a_third():
    linear, conv = nn.Linear(1024, 1024), nn.Conv2d(128, 256, 3)
    init_(nn.Sequential(linear, conv), "torch_default")
    assert 1024 * linear.weight.var().item() == pytest.approx(1 / 3, rel=0.003)
    assert 1152 * conv.weight.var().item() == pytest.approx(1 / 3, rel=0.003)
    assert 1024 * linear.bias.var().item() == pytest.approx(1 / 3, rel=0.05)


def test_default_relu_forward_and_backward_are_a_sixth():
    assert factors("torch_default", 1024, 6) == pytest.approx((1 / 6, 1 / 6), rel=0.03)
    assert pytest.approx(4.52337e-24, rel=1e-6) == (1 / 6) ** 30


def test_default_bias_floor():
    net = init_(perceptron(512, 30, bias=True), "torch_default")
    assert 512 * second_moments(net, randn(64, 512).float())[0][-1] == pytest.approx(0.4, rel=0.1)


# convolutions and orthogonal


def test_conv_depthwise_fan_out_is_a_64th_of_torchs():
    depthwise = nn.Conv2d(64, 64, 3, groups=64)
    theirs = nn.init._calculate_fan_in_and_fan_out(depthwise.weight)[1]
    assert theirs / fans(depthwise.weight.shape, groups=64)[1] == 64


def test_conv_transpose_forward_is_a_quarter_under_torchs_fan_and_1_under_ours():
    def factor(layer: nn.Module) -> float:
        y = layer(torch.relu(randn(8, 64, 16, 16)).float())[..., 4:-4, 4:-4]
        return y.double().square().mean().item()  # relu(x) has a second moment of 1/2, He's variance a 2

    layer = nn.ConvTranspose2d(64, 64, 4, stride=2, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=torch.Generator().manual_seed(0))
    assert factor(layer) == pytest.approx(0.25, rel=0.05)
    assert factor(init_(nn.Sequential(layer), "he")) == pytest.approx(1, rel=0.05)


def test_conv_depthwise_backward_is_1_under_our_fan_out():
    layer = init_(nn.Sequential(nn.Conv2d(512, 512, 3, groups=512, bias=False)), "he", mode="fan_out")
    x = randn(8, 512, 16, 16).float().requires_grad_()
    y = layer(x)
    y.backward(randn(*y.shape, seed=1).float())
    inside = x.grad[..., 2:-2, 2:-2].double().square().mean().item() / 2  # a rectifier before it lets half through
    assert inside == pytest.approx(1, rel=0.1)  # 5 sqrt(2 / (9 * 512))


def test_conv_orthogonal_first_keeps_27_of_64():
    layer = init_(nn.Sequential(nn.Conv2d(3, 64, 3, bias=False)), "orthogonal")
    y = layer(randn(16, 3, 64, 64).float())
    assert y.double().square().mean().item() / 2 == pytest.approx(27 / 64, rel=0.02)


def test_conv_haar_q11_is_0_where_the_raw_qr_has_minus_2_over_pi():
    normals = randn(20_000, 2, 2)
    assert fmean(haar(normal)[0, 0].item() for normal in normals) == pytest.approx(0, abs=0.02)
    assert torch.linalg.qr(normals)[0][:, 0, 0].mean().item() == pytest.approx(-2 / math.pi, rel=0.02)


def test_conv_dirac_identity_as_a_scheme_of_the_users():
    def dirac(normals: Tensor, layer: LayerShape) -> Tensor:
        return nn.init.dirac_(torch.empty(layer.shape))

    net = nn.Sequential(*(m for _ in range(27) for m in (nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())))
    x = torch.relu(randn(2, 4, 7, 7)).float()
    assert (init_(net, dirac)(x) - x).abs().max().item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("channels", [[8] * 28, [*range(3, 31)]])
def test_conv_delta_orthogonal_keeps_the_norm_of_every_pixel(channels: list[int]):
    layers = (nn.Conv2d(c, d, 3, padding=1) for c, d in pairwise(channels))
    net = init_(nn.Sequential(*layers).double(), "delta_orthogonal", negative_slope=1.0)  # linear: the gain is 1
    x = randn(2, channels[0], 7, 7)
    assert (net(x).norm(dim=1) / x.norm(dim=1) - 1).abs().max().item() < 1e-9


# Gaussian schemes


def test_scale_he_forward_and_backward():
    assert factors("he", 1024, 6) == pytest.approx((1, 1), rel=0.03)


def test_scale_xavier_forward():
    assert factors("xavier", 1024, 6)[0] == pytest.approx(0.5, rel=0.03)


def test_scale_fixed01_n256():
    assert factors("gaussian", 256, 24)[0] == pytest.approx(0.0128, rel=0.04)


def test_scale_prelu_under_he():
    assert factors("he", 1024, 6, activation=lambda: nn.PReLU(init=0.25))[0] == pytest.approx(1.0625, rel=0.03)


@pytest.mark.parametrize(("depth", "std"), [(22, 4.88281e-04), (30, 3.05176e-05)])
def test_scale_xavier22_std_and_xavier30_std_are_exact_on_the_same_normals(depth: int, std: float):
    x = randn(8, 128)
    he, xavier = (
        second_moments(init_(perceptron(128, depth).double(), scheme), x)[0][-1] for scheme in ("he", "xavier")
    )
    assert math.sqrt(xavier / he) == pytest.approx(2 ** -(depth / 2), rel=1e-9)
    assert 2 ** -(depth / 2) == pytest.approx(std, rel=1e-5)


VGG_B = [3, 64, 64, 128, 128, 256, 256, 512, 512, 512, 512]


@pytest.mark.parametrize(
    ("filters", "std"), [(64, 0.05892557), (128, 0.04166667), (256, 0.02946278), (512, 0.02083333)]
)
def test_scale_vggb_std(filters: int, std: float):
    assert drawn_std("he", (filters, 64, 3, 3), mode="fan_out") == pytest.approx(std, rel=2e-7)


def test_scale_vggb_fanout_forward_and_fanin_backward():
    shapes = [(d, c, 3, 3) for c, d in pairwise(VGG_B)][1:]
    forward = math.prod(fans(shape)[0] * drawn_std("he", shape, mode="fan_out") ** 2 / 2 for shape in shapes)
    backward = math.prod(fans(shape)[1] * drawn_std("he", shape, mode="fan_in") ** 2 / 2 for shape in shapes)
    assert (forward, backward) == pytest.approx((0.125, 8), rel=1e-12)


def test_scale_vggb_attenuation_is_exact_on_the_same_normals():
    def gradient_at_conv2(scheme: str) -> float:
        layers: list[nn.Module] = []
        for index, (c, d) in enumerate(pairwise(VGG_B)):
            layers += [nn.Conv2d(c, d, 3, padding=1), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if index % 2 and index < 9 else []
        net = init_(nn.Sequential(*layers[:-1]).double(), scheme, mode="fan_out")  # ends with conv10
        x = net[:2](randn(1, 3, 16, 16)).detach().requires_grad_()
        y = net[2:](x)
        y.backward(randn(*y.shape, seed=1))
        return x.grad.norm().item()

    assert gradient_at_conv2("he") / gradient_at_conv2("gaussian") == pytest.approx(16728.76, rel=1e-6)


def test_scale_wgrad_ratio_invariant_and_wgrad_level_xavier30():
    def levels(scheme: str) -> list[float]:
        net = init_(perceptron(32, 30)[:-1].double(), scheme)
        net(randn(4, 32)).backward(randn(4, 32, seed=1))
        return [layer.weight.grad.norm().item() for layer in net if isinstance(layer, nn.Linear)]

    he, xavier = levels("he"), levels("xavier")
    assert (xavier[0] / xavier[-1]) / (he[0] / he[-1]) == pytest.approx(1, rel=1e-9)
    assert [x / h for x, h in zip(xavier, he, strict=True)] == pytest.approx([4.31584e-05] * 30, rel=1e-5)
    assert pytest.approx(4.31584e-05, rel=1e-5) == 0.5**14.5
