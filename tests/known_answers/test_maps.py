"""Mean-field maps: rows `gain.*_q30`, `corr.*` and `tanh.*` of known_answers.md, and closed forms."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch import nn

from initlab import gain
from initlab.init.gains import activation_moments
from initlab.init.maps import c_map, critical_point, fixed_point, q_map


def after(layers: int, name: str, q: float, factor: float) -> float:
    for _ in range(layers):
        q = q_map(name, q, factor)
    return q


@pytest.mark.parametrize(
    ("name", "start", "value"),
    [("gelu", 0.9, 0.001185143), ("gelu", 1.1, 10.9822), ("silu", 0.9, 0.004394762), ("silu", 1.1, 189.258)],
    ids=lambda value: f"gain.{value}" if isinstance(value, str) else None,
)
def test_thirty_layers_under_the_moment_preserving_gain_leave_unit_variance(
    name: str, start: float, value: float
) -> None:
    assert after(30, name, start, gain(name)) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(("name", "value"), [("gelu", -7.506457), ("silu", -8.466025)])
def test_thirty_layers_under_hes_gain_collapse(name: str, value: float) -> None:  # gain.*_he30_log10
    assert math.log10(after(30, name, 1.0, math.sqrt(2))) == pytest.approx(value, rel=1e-5)


def test_thirty_xavier_layers_of_tanh_decay_as_a_power() -> None:  # tanh.xavier30
    assert after(30, "tanh", 1.0, 1.0) == pytest.approx(0.01715975, rel=1e-6)


def test_relu_with_torchs_default_bias_settles_on_two_fifths_over_n() -> None:  # default.bias_floor
    n = 512
    settled = fixed_point("relu", math.sqrt(1 / 3), bias_variance=1 / (3 * n))
    assert n * settled.q == pytest.approx(0.4, rel=1e-9)
    assert settled.chi_1 == pytest.approx(1 / 6, rel=1e-12)


@pytest.mark.parametrize(
    ("layers", "value"),
    [(1, 0.3183099), (2, 0.4937311), (5, 0.7359464), (10, 0.8715355), (22, 0.9551207), (30, 0.9720109)],
    ids=lambda value: f"corr.c{value}" if isinstance(value, int) else "",
)
def test_orthogonal_inputs_become_parallel_in_a_relu_net(layers: int, value: float) -> None:
    c = quadrature = 0.0
    for _ in range(layers):
        c, quadrature = c_map("relu", c), c_map(torch.relu, quadrature) if layers <= 5 else math.nan
    # the published values have 7 digits; the second way of computing them has all
    assert c == pytest.approx(value, abs=0.5001e-7)
    if layers <= 5:
        assert quadrature == pytest.approx(c, rel=1e-12)


def test_relu_correlation_approaches_one_as_the_inverse_square() -> None:  # corr.tail
    c, layers = 0.0, 100_000
    for _ in range(layers):
        c = c_map("relu", c)
    assert layers**2 * (1 - c) == pytest.approx(9 * math.pi**2 / 2, rel=1e-3)


def closed_sign(c: float, q: float) -> float:
    return 2 / math.pi * math.asin(c)


def closed_erf(c: float, q: float) -> float:  # Williams 1997
    return math.asin(2 * q * c / (1 + 2 * q)) / math.asin(2 * q / (1 + 2 * q))


def closed_exp(c: float, q: float) -> float:
    return math.exp(q * c - q)


def closed_cos(c: float, q: float) -> float:
    return math.cosh(q * c) / math.cosh(q)


def closed_square(c: float, q: float) -> float:
    return (1 + 2 * c * c) / 3


@pytest.mark.parametrize("q", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("c", [-1.0, -0.9, -0.3, 0.0, 0.5, 0.99, 0.999999, 1.0])
@pytest.mark.parametrize(
    ("phi", "closed"),
    [
        (torch.sign, closed_sign),
        (torch.erf, closed_erf),
        (torch.exp, closed_exp),
        (torch.cos, closed_cos),
        (torch.square, closed_square),
    ],
    ids=["sign", "erf", "exp", "cos", "square"],
)
def test_correlation_maps_with_a_closed_form(phi: object, closed: object, c: float, q: float) -> None:
    assert c_map(phi, c, q=q) == pytest.approx(closed(c, q), rel=1e-12, abs=1e-13)  # type: ignore[arg-type, operator]


def test_leaky_relus_closed_map_is_that_of_the_quadrature() -> None:
    leaky = nn.LeakyReLU(0.3)
    for c in (-0.95, -0.2, 0.4, 0.9):
        assert c_map(leaky, c, q=2.0) == pytest.approx(c_map(nn.Sequential(leaky), c, q=2.0), rel=1e-12)


def both_above(s: float, t: float, c: float) -> float:
    """P(u > s, v > t), by one-dimensional quadrature of the conditional probability."""
    return quad(lambda u: norm.pdf(u) * norm.sf((t - c * u) / math.sqrt(1 - c * c)), s, 12, epsabs=1e-15)[0]


@pytest.mark.parametrize("c", [-0.7, 0.5, 0.97])
def test_jumps_at_irrational_places_are_exact_in_pairs(c: float) -> None:
    s, t = math.sqrt(2) / 3, -math.pi / 2
    together = 9 * both_above(s, s, c) + 6 * both_above(s, t, c) + both_above(t, t, c)
    second = (9 + 6) * norm.sf(s) + norm.sf(t)
    assert c_map(lambda x: 3 * (x > s).double() + (x > t), c) == pytest.approx(together / second, rel=1e-12)


def test_a_common_bias_draws_inputs_together() -> None:
    # relu, c = 0, q = 1, gain^2 = 2: (2/(2 pi) + b) / (1 + b)
    assert c_map("relu", 0.0, gain=math.sqrt(2), bias_variance=0.5) == pytest.approx((1 / math.pi + 0.5) / 1.5)
    assert q_map("relu", 1.0, math.sqrt(2), bias_variance=0.5) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("bias_variance", "weight_variance", "q"),
    [
        (0.0, 1.0, 0.0),
        (0.01, 1.424205, 0.2733009),
        (0.05, 1.760955, 0.5700479),
        (0.1, 1.986073, 0.8057992),
        (0.3, 2.505127, 1.461169),
    ],
    ids=lambda value: f"{value}",
)
def test_critical_line_of_tanh(bias_variance: float, weight_variance: float, q: float) -> None:  # tanh.critical_*
    critical_gain, critical_q = critical_point("tanh", bias_variance)
    assert critical_gain**2 == pytest.approx(weight_variance, rel=1e-6)
    assert critical_q == pytest.approx(q, rel=1e-6)
    if bias_variance:
        point = fixed_point("tanh", critical_gain, bias_variance=bias_variance)
        assert point.q == pytest.approx(q, rel=1e-6)
        assert point.chi_1 == pytest.approx(1, rel=1e-9)


def test_critical_point_of_softshrink_which_is_flat_around_zero() -> None:
    """chi_1 is gain^2 P[|y| > 1/2], since its slope is 1 beyond 1/2 and 0 within."""
    critical_gain, q = critical_point("softshrink", 0.5)
    assert critical_gain**2 * math.erfc(0.5 / math.sqrt(2 * q)) == pytest.approx(1, rel=1e-9)
    assert q_map("softshrink", q, critical_gain, bias_variance=0.5) == pytest.approx(q, rel=1e-9)


def test_tanh_under_torchs_gain_is_chaotic() -> None:  # tanh.torch_gain_*
    settled = fixed_point("tanh", 5 / 3)
    assert settled.q == pytest.approx(1.17848, rel=1e-6)
    assert settled.chi_1 == pytest.approx(1.209831, rel=1e-6)
    assert settled.chi_1**30 == pytest.approx(303.2108, rel=1e-5)
    assert settled.c == 0
    # near c = 0 an odd map is c times its slope there
    assert c_map("tanh", 1e-4, q=settled.q) / 1e-4 == pytest.approx(math.exp(-1 / settled.depth_scale), rel=1e-6)


def test_chi_1_of_tanh_at_its_moment_preserving_gain() -> None:  # tanh.moment_gain_chi1
    assert activation_moments("tanh").chi_1 == pytest.approx(1.177807, rel=1e-6)
    settled = fixed_point("tanh", gain("tanh"), start=0.2)
    assert (settled.q, settled.chi_1) == pytest.approx((1.0, 1.177807), rel=1e-6)


@pytest.mark.parametrize(
    ("factor", "q", "chi_1", "tolerance"), [(1.0, 1.0, 1.071575, 1e-6), (0.75, 0.02303378, 1.00367, 1e-5)]
)
def test_selu_settles_on_unit_variance_under_lecun_and_low_under_torchs_gain(  # tanh.selu_*
    factor: float, q: float, chi_1: float, tolerance: float
) -> None:
    settled = fixed_point("selu", factor, start=0.5)
    assert settled.q == pytest.approx(q, rel=tolerance)
    assert settled.chi_1 == pytest.approx(chi_1, rel=tolerance)


def test_near_the_critical_line_two_inputs_settle_close_to_parallel() -> None:
    settled = fixed_point("selu", 0.75)  # chi_1 is 1.0037
    assert 0.9 < settled.c < 0.999
    assert c_map("selu", settled.c, q=settled.q) == pytest.approx(settled.c, abs=1e-12)
    assert c_map("selu", 0.9, q=settled.q) > 0.9
    assert c_map("selu", 0.999, q=settled.q) < 0.999


@pytest.mark.parametrize(("start", "q"), [(0.9, 0.0), (1.0, 1.0), (1.1, math.inf)])
def test_gelus_unit_variance_is_a_knife_edge(start: float, q: float) -> None:
    assert fixed_point("gelu", gain("gelu"), start=start).q == q


def test_the_fixed_correlation_is_where_iteration_ends() -> None:
    settled = fixed_point("tanh", 2.0, bias_variance=0.05)
    c = [0.3]
    for _ in range(80):
        c.append(c_map("tanh", c[-1], q=settled.q, gain=2.0, bias_variance=0.05))
    assert c[-1] == pytest.approx(settled.c, abs=0.3 * math.exp(-80 / settled.depth_scale))
    assert math.log((c[40] - c[-1]) / (c[20] - c[-1])) == pytest.approx(-20 / settled.depth_scale, rel=0.01)


def test_rectifiers_keep_any_second_moment_under_their_gain_and_no_other() -> None:
    settled = fixed_point("relu", math.sqrt(2), start=7.0)
    assert (settled.q, settled.c, settled.depth_scale) == (7.0, 1.0, math.inf)
    xavier = fixed_point("relu", 1.0)
    assert (xavier.q, xavier.chi_1) == (0.0, 0.5)
    assert xavier.depth_scale == pytest.approx(1 / math.log(2))
    assert fixed_point("relu", 1.5).q == math.inf


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"c_map: c is out of range \(got 1.5\); allowed: a correlation between -1"):
        c_map("relu", 1.5)
    with pytest.raises(ValueError, match=r"q_map: q is out of range \(got -1.0\)"):
        q_map("relu", -1.0, 1.0)
    with pytest.raises(ValueError, match=r"fixed_point: gain is out of range \(got 0.0\)"):
        fixed_point("relu", 0.0)
    with pytest.raises(ValueError, match=r"critical_point: relu has none .*got bias_variance 0.1"):
        critical_point("relu", 0.1)
    for name in ("hardshrink", "softshrink", "tanhshrink"):  # the slope at 0 is 0, so no gain makes chi_1 = 1 there
        with pytest.raises(ValueError, match=f"critical_point: {name} has none .*got bias_variance 0.0"):
            critical_point(name, 0.0)
    with pytest.raises(ValueError, match="fixed_point: sign jumps"):
        fixed_point(torch.sign, 1.0)
    with pytest.raises(ValueError, match=r"unknown name .*did you mean 'tanh'"):
        c_map("tnh", 0.0)
