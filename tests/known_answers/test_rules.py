"""Rules on healthy nets (known_answers.md, `rule.*`, `num.*`): those in use from our measured columns, and ours.

A rule's false-alarm rate is a fact of healthy He nets; the tolerances are the list's plus three standard errors of the
smaller number of nets used here.
"""

import math
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from initlab import init_, inspect
from initlab.inspection.diagnosis import diagnose
from initlab.signal.drift import drift
from initlab.signal.theory.width import relu_layer
from tests.known_answers.populations import Population, plain_nets

TEN = 10.0
he_nets = lru_cache(plain_nets)


def spread_of(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """max/min over layers."""
    return np.asarray(columns.max(axis=1) / columns.min(axis=1))


def apart(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether a and b differ by more than x10 in either direction."""
    return np.abs(np.log(a / b)) > math.log(TEN)


def autotrainer(grads: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Gradient rules of AUTOTRAINER (Zhang et al. 2021): norms first/last below 1e-3 or above 70."""
    ratio = np.sqrt(grads[:, 0] / grads[:, -1])
    return (ratio < 1e-3) | (ratio > 70)


def rate_is(fired: NDArray[np.bool_], value: float, tolerance: float) -> bool:
    error = 3 * math.sqrt(max(value * (1 - value), 1 / len(fired)) / len(fired))
    return abs(float(fired.mean()) - value) <= tolerance + error


RULES = {
    "norm_range": (lambda grads: np.sqrt(spread_of(grads)) > TEN, 0.0085, 0.01),
    "norm_ends": (lambda grads: apart(np.sqrt(grads[:, 0]), np.sqrt(grads[:, -1])), 0.0, 0.01),
    "sq_range": (lambda grads: spread_of(grads) > TEN, 0.53, 0.05),
    "sq_ends": (lambda grads: apart(grads[:, 0], grads[:, -1]), 0.155, 0.04),
    "autotrainer": (autotrainer, 0.0, 0.01),
}


@pytest.mark.parametrize("rule", RULES)
def test_rules_on_weight_gradients_fire_on_healthy_nets_at_the_known_rate(rule: str) -> None:
    fires, value, tolerance = RULES[rule]
    assert rate_is(fires(he_nets(240, 64, 30, 2.0).weight_grad_square[:, :-1]), value, tolerance)


def test_two_healthy_seeds_differ_tenfold_in_their_first_gradient() -> None:  # rule.two_seeds_sq
    first = he_nets(240, 64, 30, 2.0).weight_grad_square[:, 0]
    assert rate_is(apart(first[:120], first[120:]), 0.155, 0.05)


def test_with_one_sample_the_rule_fires_too() -> None:
    one = plain_nets(300, 64, 30, 2.0, batch=1).weight_grad_square[:, :-1]
    assert rate_is(spread_of(one) > TEN, 0.54, 0.05)  # rule.sq_range_b1


@pytest.mark.slow
def test_with_wide_inputs_the_rule_on_ends_fires_twice_as_often() -> None:
    wide = plain_nets(400, 64, 30, 2.0, inputs=784).weight_grad_square[:, :-1]
    assert rate_is(apart(wide[:, 0], wide[:, -1]), 0.325, 0.05)  # rule.sq_ends_784


@pytest.mark.parametrize(
    ("width", "nets", "value", "tolerance"),
    [(64, 240, 0.325, 0.05), (128, 60, 0.06, 0.03), pytest.param(256, 300, 0.005, 0.012, marks=pytest.mark.slow)],
    ids=["rule.actvar_range", "rule.actvar_range_n128", "rule.actvar_range_n256"],
)
def test_the_tenfold_rule_on_activation_variance(width: int, nets: int, value: float, tolerance: float) -> None:
    variances = he_nets(nets, width, 30, 2.0).forward_var[:, :-1]
    assert rate_is(spread_of(variances) > TEN, value, tolerance)


def verdicts(nets: Population, count: int | None = None) -> list[str]:
    return [diagnose(table).verdict for table in nets.tables()[:count]]


def test_our_rule_leaves_those_same_nets_alone() -> None:
    assert verdicts(he_nets(240, 64, 30, 2.0), 120).count("healthy") >= 0.99 * 120
    assert verdicts(he_nets(60, 128, 30, 2.0), 40).count("healthy") >= 0.99 * 40


@pytest.mark.parametrize(("scheme", "factor"), [("xavier", 1.0), ("torch default", 1 / 3), ("std 0.01", 64e-4)])
def test_our_rule_catches_wrong_gains(scheme: str, factor: float) -> None:
    words = verdicts(plain_nets(50, 64, 30, factor))
    assert words.count("vanishing") > 0.99 * 50, scheme


def test_first_to_last_weight_gradients_are_blind_to_xavier() -> None:  # rule.autotrainer_xavier
    assert not autotrainer(plain_nets(60, 64, 30, 1.0).weight_grad_square[:, :-1]).any()


def test_a_four_sigma_band_of_exact_theory_separates_he_from_xavier() -> None:  # rule.band4_he, rule.band4_xavier
    mean, variance = relu_layer(64).mean, relu_layer(64).variance
    for factor, wrong in ((2.0, False), (1.0, True)):
        forward = he_nets(240 if factor == 2.0 else 60, 64, 30, factor).forward[:, :-1]
        change = np.log(forward[:, -1] / forward[:, 0]) - 29 * mean
        assert (np.abs(change) > 4 * math.sqrt(29 * variance)).all() == wrong
        assert (np.abs(change) > 4 * math.sqrt(29 * variance)).any() == wrong


@pytest.mark.slow
@pytest.mark.parametrize("width", [64, 128, 256])
def test_error_rates_over_a_thousand_seeds(width: int) -> None:
    caught = {"he": 0, "xavier": 0, "default": 0, "fixed": 0}
    factors = {"he": 2.0, "xavier": 1.0, "default": 1 / 3, "fixed": width * 1e-4}
    for seed in range(10):
        for scheme, factor in factors.items():
            caught[scheme] += 100 - verdicts(plain_nets(100, width, 30, factor, seed=seed, batch=16)).count("healthy")
    print(width, caught)
    assert caught.pop("he") < 0.01 * 1000
    assert min(caught.values()) > 0.99 * 1000


def conv_net(width: int, depth: int, bias: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=bias), nn.ReLU()]
    for _ in range(depth - 2):
        layers += [nn.Conv2d(width, width, 3, padding=1, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10, bias=bias))


def conv_verdict(width: int, scheme: str, seed: int) -> str:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(4, 3, 8, 8, generator=generator)
    net = init_(conv_net(width, 30), scheme, seed=seed)
    return inspect(net, images, torch.arange(4)).verdict


def test_healthy_conv_nets_are_left_alone_and_others_caught() -> None:
    assert {conv_verdict(64, "he", seed) for seed in range(4)} == {"healthy"}
    for scheme in ("xavier", "torch_default"):
        assert conv_verdict(64, scheme, 0) == "vanishing", scheme


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["he", "xavier", "torch_default", "gaussian"])
def test_error_rates_of_conv_nets_over_a_thousand_seeds(scheme: str) -> None:
    words = [conv_verdict(64, scheme, seed) for seed in range(1000)]
    print(scheme, {word: words.count(word) for word in set(words)})
    if scheme == "he":
        assert words.count("healthy") > 0.99 * 1000
    else:
        assert words.count("vanishing") > 0.99 * 1000


def test_the_populations_columns_are_the_probes() -> None:
    nets = plain_nets(2, 8, 3, 2.0, batch=5)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 5, generator=generator, dtype=torch.float64)[0].T
    model = nn.Sequential(
        nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 10)
    ).double()
    with torch.no_grad():
        for layer in model[::2]:
            layer.bias.zero_()
            normals = torch.randn(2, layer.out_features, 8, generator=generator, dtype=torch.float64)
            layer.weight.copy_(normals[0] * math.sqrt(2 / 8))
    table = inspect(model, x, torch.arange(5)).table
    assert (table.backward_var + table.backward_mean**2).tolist() == pytest.approx(nets.backward[0].tolist(), rel=1e-9)
    assert table.forward_var.tolist() == pytest.approx(nets.forward_var[0].tolist(), rel=1e-9)
    numbers = np.array([math.prod(shape) for shape in table["shape"]])
    assert (table.weight_grad_rms**2 * numbers).tolist() == pytest.approx(nets.weight_grad_square[0].tolist(), rel=1e-9)


def test_fixed_std_at_30_layers_is_a_number_here_and_zero_in_float32() -> None:
    decades = 30 * math.log10(256e-4 / 2)
    assert decades == pytest.approx(-56.7837, rel=1e-6)  # num.fixed01_log10_q
    first = math.ceil(math.log10(1.4e-45) / math.log10(256e-4 / 2))
    assert first == 24  # num.fixed01_first_zero
    net = nn.Sequential(*(m for _ in range(30) for m in (nn.Linear(256, 256, bias=False), nn.ReLU())))
    init_(net, "gaussian")
    x = torch.randn(32, 256, generator=torch.Generator().manual_seed(0))
    y = net[:-1](x).detach()  # the last pre-activation: of twice the second moment after ReLU
    assert float(y.var()) == 0  # num.fixed01_fp32_var
    table = inspect(net, x).table
    assert math.log10(table.forward_var.iloc[-1] / 2) == pytest.approx(decades, rel=0.02)
    assert drift(table, "forward").factor == pytest.approx(0.0128, rel=0.05)


def test_the_loss_of_a_healthy_net_starts_above_chance() -> None:
    assert math.log(10) == pytest.approx(2.302585, rel=1e-6)  # num.ln10
    assert math.log(1000) == pytest.approx(6.907755, rel=1e-6)  # num.ln1000
    torch.manual_seed(0)
    sizes = (1024, 1024, 1024, 1024, 1000)
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b, bias=False), nn.ReLU())]
    net = init_(nn.Sequential(*layers[:-1]), "he")
    x = torch.randn(256, 1024)
    loss = nn.functional.cross_entropy(net(x), torch.arange(256) % 1000).item()
    assert loss == pytest.approx(7.907755, rel=0.02)  # num.he_init_loss_1000: ln K + v/2, v = 2
    inspection = inspect(net, x, torch.arange(256) % 1000)
    assert math.log(1000) + inspection.table.forward_var.iloc[-1] / 2 == pytest.approx(loss, rel=0.02)
