"""Gains: published values (known_answers.md, `gain.*` and its derived table), closed forms, sampling."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import quad
from scipy.stats import norm
from torch import Tensor, nn

from initlab import gain
from initlab.init.activations import NAMES, resolve
from initlab.init.gains import activation_moments


@pytest.mark.parametrize(
    ("name", "module", "value"),
    [
        ("relu", nn.ReLU(), 1.414214),
        ("leaky_relu", nn.LeakyReLU(0.01), 1.414143),
        (nn.LeakyReLU(0.2), nn.Sequential(nn.LeakyReLU(0.2)), 1.38675),
        ("prelu", nn.PReLU(), 1.371989),
        ("tanh", nn.Tanh(), 1.592537),
        ("sigmoid", nn.Sigmoid(), 1.846229),
        ("gelu", nn.GELU(), 1.53353),
        ("gelu_tanh", nn.GELU("tanh"), 1.533581),
        ("silu", nn.SiLU(inplace=True), 1.676532),
        ("elu", nn.ELU(inplace=True), 1.245198),
        ("selu", nn.SELU(), 1.0),
        ("softplus", nn.Softplus(), 1.041867),
        ("mish", nn.Mish(), 1.486848),
        ("hardswish", nn.Hardswish(), 1.736657),
    ],
    ids=lambda value: f"gain.{value}" if isinstance(value, str) else None,
)
def test_gain_by_name_and_by_module_is_the_published_one(name: str, module: nn.Module, value: float) -> None:
    assert gain(name) == pytest.approx(value, rel=1e-6)
    assert gain(module) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    ("activation", "mean", "second", "slope_second", "value", "chi_1", "slope", "trap"),
    [
        ("linear", 0.000000, 1.000000, 1.000000, 1.000000, 1.00000, 1.00000, 1.00000),
        ("relu", 0.398942, 0.500000, 0.500000, 1.414214, 1.00000, 1.00000, 1.71286),
        ("leaky_relu", 0.394953, 0.500050, 0.500050, 1.414143, 1.00000, 1.00000, 1.70483),
        (nn.LeakyReLU(0.2), 0.319154, 0.520000, 0.520000, 1.386750, 1.00000, 1.00000, 1.54646),
        ("prelu", 0.299207, 0.531250, 0.531250, 1.371989, 1.00000, 1.00000, 1.50461),
        ("tanh", 0.000000, 0.394294, 0.464403, 1.592537, 1.17781, 0.46107, 1.59254),
        ("sigmoid", 0.500000, 0.293379, 0.044836, 1.846229, 0.15283, 0.10634, 4.80131),
        ("gelu", 0.282095, 0.425221, 0.455851, 1.533530, 1.07203, 1.14406, 1.70093),
        ("gelu_tanh", 0.282039, 0.425194, 0.455818, 1.533581, 1.07202, 1.14430, 1.70092),
        ("silu", 0.206621, 0.355776, 0.379482, 1.676532, 1.06663, 1.17259, 1.78719),
        ("elu", 0.160521, 0.644945, 0.668102, 1.245198, 1.03590, 0.89097, 1.27084),
        ("selu", -0.000000, 1.000000, 1.071575, 1.000000, 1.07157, 0.78265, 1.00000),
        ("softplus", 0.806059, 0.921246, 0.293379, 1.041867, 0.31846, 0.49205, 1.91913),
        ("mish", 0.240404, 0.452342, 0.479084, 1.486848, 1.05912, 1.07634, 1.59203),
        ("hardswish", 0.166217, 0.331567, 0.358532, 1.736657, 1.08132, 1.22392, 1.81387),
    ],
    ids=str,
)
def test_moments_are_the_derived_table_to_its_digits(
    activation: str,
    mean: float,
    second: float,
    slope_second: float,
    value: float,
    chi_1: float,
    slope: float,
    trap: float,
) -> None:
    six, five = 0.5001e-6, 0.5001e-5  # half of the last printed digit
    moments = activation_moments(activation)
    assert moments.mean == pytest.approx(mean, abs=six)
    assert moments.second == pytest.approx(second, abs=six)
    assert moments.slope_second == pytest.approx(slope_second, abs=six)
    assert moments.gain == pytest.approx(value, abs=six)
    assert moments.chi_1 == pytest.approx(chi_1, abs=five)
    assert moments.slope == pytest.approx(slope, abs=five)
    assert (moments.second - moments.mean**2) ** -0.5 == pytest.approx(trap, abs=five)


@pytest.mark.parametrize(
    ("name", "torch_gain", "value"),
    [("tanh", 5 / 3, 1.095262), ("selu", 0.75, 0.5625), ("sigmoid", 1.0, 0.293379)],
    ids=["gain.torch_tanh_moment", "gain.torch_selu_moment", "gain.torch_sigmoid_moment"],
)
def test_what_torchs_calculate_gain_does_to_the_second_moment(name: str, torch_gain: float, value: float) -> None:
    assert nn.init.calculate_gain(name) == pytest.approx(torch_gain)
    assert torch_gain**2 * activation_moments(name).second == pytest.approx(value, rel=1e-6)


def test_the_gain_of_relu_is_not_one_over_its_standard_deviation() -> None:
    moments = activation_moments("relu")
    variance = moments.second - moments.mean**2
    assert variance**-0.5 == pytest.approx(1.712859, rel=1e-6)  # gain.relu_std_trap
    assert variance / moments.second == pytest.approx(1 - 1 / math.pi, rel=1e-12)  # gain.relu_centred
    assert moments.gain == pytest.approx(math.sqrt(2), rel=1e-15)


@pytest.mark.parametrize(
    ("name", "slope", "stable"),
    [
        ("gelu", 1.144063, False),
        ("silu", 1.172594, False),
        ("hardswish", 1.22392, False),
        ("mish", 1.076339, False),
        ("tanh", 0.46107, True),
        ("selu", 0.78265, True),
        ("prelu", 1.0, None),
        (torch.relu, 1.0, None),
        (torch.abs, 1.0, None),
    ],
)
def test_unit_variance_is_stable_where_the_maps_slope_is_below_one(
    name: str, slope: float, stable: bool | None
) -> None:
    moments = activation_moments(name)
    assert moments.slope == pytest.approx(slope, rel=1e-6 if not stable else 1e-5)
    assert moments.stable is stable


# closed forms, at more digits than the tables have
STEP = 1 / math.sqrt(2 * math.pi)
CLOSED = {
    "sigmoid": ("mean", 0.5),
    "gelu": ("mean", 0.5 / math.sqrt(math.pi)),
    "selu": ("second", 1.0),
    "hardtanh": ("slope_second", math.erf(math.sqrt(0.5))),
    "hardsigmoid": ("slope_second", math.erf(3 * math.sqrt(0.5)) / 36),
    "relu6": ("slope_second", norm.cdf(6) - 0.5),
    "elu": ("mean", STEP - 0.5 + math.exp(0.5) * norm.cdf(-1)),
    "hardshrink": ("slope_second", 2 * norm.sf(0.5)),
    "softshrink": ("second", 2 * (1.25 * norm.sf(0.5) - 0.5 * norm.pdf(0.5))),
}


@pytest.mark.parametrize("name", CLOSED)
def test_moments_with_a_closed_form_are_exact_to_float64(name: str) -> None:
    field, value = CLOSED[name]
    tolerance = 1e-7 if name == "hardsigmoid" else 1e-13  # torch's slope of it is 1/6 in float32
    assert getattr(activation_moments(name), field) == pytest.approx(value, rel=tolerance)


def test_gelus_second_moment_is_its_closed_form_with_arcsines() -> None:
    # E[z^2 N(z)^2] by parts: 1/4 + asin(1/2)/(2 pi) + 1/(2 pi sqrt 3), since E[N(z)^2] = 1/3
    assert activation_moments("gelu").second == pytest.approx(1 / 3 + 1 / (2 * math.pi * math.sqrt(3)), rel=1e-13)


def test_the_slope_of_hardtanh_is_exact_where_gauss_hermite_is_not() -> None:
    exact = math.erf(math.sqrt(0.5)) ** -0.5
    assert gain("hardtanh", direction="backward") == pytest.approx(exact, rel=1e-14)


def test_forward_and_backward_gains_differ_but_for_rectifiers() -> None:
    assert gain("gelu", direction="backward") == pytest.approx(0.455851**-0.5, rel=2e-6)
    assert gain("tanh", direction="backward") == pytest.approx(0.464403**-0.5, rel=2e-6)
    assert gain(nn.LeakyReLU(0.3), direction="backward") == gain(nn.LeakyReLU(0.3)) == math.sqrt(2 / 1.09)


LOW, HIGH = -math.sqrt(2), math.pi / 3


def clipped(x: Tensor) -> Tensor:
    return torch.clamp(x, LOW, HIGH)


def test_kinks_of_a_users_function_are_found_and_its_moments_exact() -> None:
    inside = norm.cdf(HIGH) - norm.cdf(LOW)
    second = LOW**2 * norm.cdf(LOW) + HIGH**2 * norm.sf(HIGH) + inside - HIGH * norm.pdf(HIGH) + LOW * norm.pdf(LOW)
    phi = resolve(clipped)
    assert phi.kinks[0] == pytest.approx([LOW, HIGH], rel=1e-15)
    assert phi.kinks[1].size == 0
    assert gain(clipped) == pytest.approx(second**-0.5, rel=1e-14)
    assert gain(clipped, direction="backward") == pytest.approx(inside**-0.5, rel=1e-14)


def test_jumps_and_kinks_of_the_slope_are_found_too() -> None:
    def jumping(x: Tensor) -> Tensor:  # jumps at 1/3, and its slope has a kink at -sqrt(3)
        return torch.relu(-math.sqrt(3) - x) ** 2 + (x > 1 / 3).double()

    kinks, jumps = resolve(jumping).kinks
    assert kinks == pytest.approx([-math.sqrt(3), 1 / 3], rel=1e-14)
    assert jumps == pytest.approx([1 / 3], rel=1e-14)
    # E[phi^2] = E[(t - a)_+^4] + P(z > 1/3), a = sqrt(3): (3 + 6 a^2 + a^4) N(-a) - (5 a + a^3) n(a)
    a = math.sqrt(3)
    second = (3 + 6 * a**2 + a**4) * norm.sf(a) - (5 * a + a**3) * norm.pdf(a) + norm.sf(1 / 3)
    assert activation_moments(jumping).second == pytest.approx(second, rel=1e-12)


def test_smooth_activations_have_no_kinks() -> None:
    assert [name for name in ("tanh", "gelu", "silu", "mish", "sigmoid") if resolve(name).kinks[0].size] == []


def test_the_slope_of_the_map_holds_where_the_activation_jumps() -> None:
    # phi = 1 above t: E[phi^2] = N(-t / sqrt(q)), whose derivative at q = 1 is t n(t) / 2
    t = 0.7
    moments = activation_moments(lambda x: (x > t).double())
    assert moments.slope == pytest.approx(t * norm.pdf(t) / 2 / norm.sf(t), rel=1e-12)
    assert moments.slope_second == moments.chi_1 == 0


def snake(x: Tensor) -> Tensor:
    return x + torch.sin(x) ** 2


def squared_relu(x: Tensor) -> Tensor:
    return F.relu(x).square()


def relu_squared_in_place(x: Tensor) -> Tensor:
    return F.relu(x).square_()


class Swish(nn.Module):
    """x sigmoid(beta x), in float32 as a user's module is."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.tensor(1.7))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * torch.sigmoid(self.beta * x)


@pytest.mark.parametrize("phi", [snake, squared_relu, Swish()], ids=["snake", "squared_relu", "swish"])
def test_moments_agree_with_a_million_samples(phi: Callable[[Tensor], Tensor]) -> None:
    z = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    y = phi(z)
    (slope,) = torch.autograd.grad(y.sum(), z)
    moments = activation_moments(phi)
    assert moments.gain == pytest.approx(gain(phi), rel=1e-15)
    for samples, expected in ((y, moments.mean), (y**2, moments.second), (slope**2, moments.slope_second)):
        five_standard_errors = 5 * samples.std().item() / 1000
        assert samples.mean().item() == pytest.approx(expected, abs=five_standard_errors)


@pytest.mark.parametrize("q", [1e-3, 0.3, 4.0, 150.0])
def test_moments_at_any_second_moment_agree_with_scipys_adaptive_quadrature(q: float) -> None:
    def integrand(z: float) -> float:
        return math.tanh(math.sqrt(q) * z) ** 2 * STEP * math.exp(-(z**2) / 2)

    second = 2 * quad(integrand, 0, 12, epsabs=0, epsrel=1e-12, limit=200)[0]
    moments = activation_moments("tanh", q)
    assert moments.second == pytest.approx(second, rel=1e-11)
    assert moments.gain**2 * second == pytest.approx(q, rel=1e-11)


def test_moments_of_squared_relu_grow_as_powers_of_q() -> None:
    moments = activation_moments(squared_relu, 4.0)
    assert moments.second == pytest.approx(1.5 * 4.0**2, rel=1e-13)  # E relu(z)^4 = 3/2
    assert moments.mean == pytest.approx(0.5 * 4.0, rel=1e-13)
    assert moments.slope_second == pytest.approx(2 * 4.0, rel=1e-13)  # E (2 relu)^2 = 2
    assert moments.slope == pytest.approx(2.0, rel=1e-13)
    assert moments.stable is False


def test_a_channel_wise_prelu_is_pooled_over_its_channels() -> None:
    prelu = nn.PReLU(3)
    with torch.no_grad():
        prelu.weight.copy_(torch.tensor([0.0, 0.5, 1.0]))
    pooled = (0.5 + 0.625 + 1.0) / 3
    assert gain(prelu) == gain(prelu, direction="backward") == pytest.approx(pooled**-0.5, rel=1e-15)
    assert activation_moments(prelu).mean == pytest.approx(0.5 * STEP, rel=1e-15)


def test_a_module_is_left_as_it_was() -> None:
    module = Swish().half()
    calls = []
    module.register_forward_hook(lambda *args: calls.append(args))
    before = torch.random.get_rng_state()
    with torch.inference_mode():
        gain(module, direction="backward")
    assert module.beta.dtype == module.calls.dtype == torch.float16
    assert module.calls == 0
    assert module.beta.grad is None
    assert module.training
    assert calls == []
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_function_that_rounds_to_float32_inside_still_has_its_gain() -> None:
    assert gain(lambda x: torch.tanh(x.float())) == pytest.approx(gain("tanh"), rel=1e-6)


def test_every_name_is_accepted_in_both_directions() -> None:
    assert all(0.1 < gain(name) < 10 and 0.1 < gain(name, direction="backward") < 10 for name in NAMES)


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        ("gelou", r"activation: unknown name \(got 'gelou'; did you mean 'gelu'\?\); allowed: celu, elu"),
        (nn.GELU, r"got the class GELU\); pass a name, a module such as nn.GELU\(\)"),
        (3.0, r"not one \(got 3.0\)"),
        (nn.Softmax(dim=-1), r"Softmax\(dim=-1\) is not elementwise"),
        (nn.Softmax(dim=0), "not elementwise"),
        (nn.LayerNorm(16), "not elementwise"),
        (nn.Linear(16, 16), "not elementwise"),
        (lambda x: x / x.abs().max(), "not elementwise"),
        (lambda x: x - x.amax(), "not elementwise"),
        (lambda x: x - x.amin(), "not elementwise"),
        (lambda x: x.cumsum(1), "not elementwise"),
        (lambda x: x.flip(0, 1), "not elementwise"),
        (lambda x: x * torch.arange(16), "not elementwise"),
        (nn.GLU(), r"changes the shape \(got \(8, 8\) from \(8, 16\)\)"),
        (torch.sum, r"changes the shape \(got \(\) from"),
        (nn.Conv2d(1, 1, 3), r"fails on a tensor of shape \(8, 16\) \(got "),
        (lambda x: (x, x), "gives no tensor .got tuple"),
        (nn.Dropout(0.5), r"Dropout\(p=0.5, inplace=False\) is random .*\.eval\(\)"),
        (nn.RReLU(), "is random"),
        (torch.log, r"log is not finite \(got phi\(.*\) = nan\)"),
        (lambda x: torch.exp(x**4), r"not finite \(got phi\(.*\) = inf\)"),
        (lambda x: torch.exp(x**2 / 3), r"E\[phi\(z\)\^2\] of <lambda> does not converge"),
        (torch.zeros_like, r"zeros_like gives 0 almost everywhere \(got E\[phi\(z\)\^2\] = 0\)"),
    ],
)
def test_what_is_no_activation_is_refused_in_words(activation: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        gain(activation)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_modules_that_are_random_in_training_only_have_a_gain_in_eval() -> None:
    assert gain(nn.Dropout(0.5).eval()) == pytest.approx(1.0, rel=1e-13)
    assert gain(nn.RReLU().eval()) == pytest.approx(math.sqrt(2 / (1 + (11 / 48) ** 2)), rel=1e-13)


def test_no_backward_gain_without_a_slope() -> None:
    assert gain(torch.sign) == pytest.approx(1.0, rel=1e-13)
    with pytest.raises(ValueError, match=r"sign has slope 0 almost everywhere .*only direction='forward'"):
        gain(torch.sign, direction="backward")
    with pytest.raises(ValueError, match=r"can't be differentiated \(got .*in.?place operation"):
        gain(relu_squared_in_place, direction="backward")
    assert gain(relu_squared_in_place) == pytest.approx(1.5**-0.5, rel=1e-13)
    with pytest.raises(ValueError, match=r"E\[phi'\(z\)\^2\] of <lambda> does not converge"):
        gain(lambda x: x.abs().sqrt(), direction="backward")  # 1/(4 |z|) has no mean


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown direction \(got 'both'\); allowed: forward, backward"):
        gain("relu", direction="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"second_moment is out of range \(got 0\); allowed"):
        activation_moments("relu", 0)
    prelu = nn.PReLU()
    nn.init.constant_(prelu.weight, math.nan)
    with pytest.raises(ValueError, match=r"PReLU.* has a slope that is not finite \(got \(nan,\)\)"):
        gain(prelu)
