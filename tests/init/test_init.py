"""Initialisation: variances, fans, common random numbers, the paper's small linear layers."""

import copy
import math
from inspect import signature

import pytest
import torch
from torch import nn

from initlab import build_net, init_
from initlab.init.draw import standard_normals
from initlab.init.shapes import LayerShape, fans
from initlab.nets.any_module import weight_layers
from initlab.study.sections import Init
from tests.init.drawn_std import drawn_std


def deep_net() -> nn.Sequential:
    return build_net("plain", depth=12, width=8, input_shape=(1, 16, 16))


def weights(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: module.weight.detach().clone() for name, module in weight_layers(net)}


def test_the_defaults_are_frozen_and_those_of_a_study_file() -> None:
    golden = {"mode": "fan_in", "distribution": "normal", "std": 0.01}
    assert {key: getattr(LayerShape, key) for key in golden} == golden
    assert {key: getattr(Init(), key) for key in golden} == golden
    assert {key: signature(init_).parameters[key].default for key in golden} == golden


@pytest.mark.parametrize(
    ("scheme", "mode", "expected"),
    [
        # the paper's VGG-B stds, sec. 2.2: 3x3 convolutions with 64, 128, 256, 512 filters
        ("he", "fan_out", {64: 0.05893, 128: 0.04167, 256: 0.02946, 512: 0.02083}),
        ("xavier", "fan_out", {64: 0.04167, 256: 0.02083}),
        ("gaussian", "fan_out", {64: 0.01, 512: 0.01}),
    ],
)
def test_conv_stds_are_those_printed_in_the_paper(scheme: str, mode: str, expected: dict[int, float]) -> None:
    for filters, std in expected.items():
        assert drawn_std(scheme, (filters, 64, 3, 3), mode=mode) == pytest.approx(std, abs=5e-6)


def test_fans_of_a_conv_and_a_linear_weight() -> None:
    assert fans((128, 64, 3, 3)) == (576, 1152)
    assert fans((64, 1024)) == (1024, 64)


def test_he_corrects_for_the_negative_slope_as_equation_15() -> None:
    # a = 0.25: Var[w] = 1.882/n
    assert 100 * drawn_std("he", (5, 100), negative_slope=0.25) ** 2 == pytest.approx(2 / 1.0625)
    # a = 1 is the linear case: Xavier
    assert drawn_std("he", (5, 100), negative_slope=1.0) == pytest.approx(drawn_std("xavier", (5, 100)))


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
def test_he_weights_have_variance_two_over_fan(mode: str, distribution: str) -> None:
    conv = init_(nn.Sequential(nn.Conv2d(64, 128, 3)), "he", mode=mode, distribution=distribution)[0]
    fan = 576 if mode == "fan_in" else 1152
    five_standard_errors = 5 * math.sqrt(2 / conv.weight.numel())
    assert conv.weight.var().item() == pytest.approx(2 / fan, rel=five_standard_errors)
    assert not conv.bias.any()


def test_uniform_weights_stay_within_sqrt_3_stds_and_fill_them() -> None:
    linear = init_(nn.Sequential(nn.Linear(1000, 500)), "xavier", distribution="uniform")[0]
    bound = math.sqrt(3 / 1000)
    assert linear.weight.abs().max() <= bound * (1 + 1e-6)
    quarter = (linear.weight.abs() < bound / 2).double().mean().item()
    assert quarter == pytest.approx(0.5, abs=0.005)


def test_two_gaussian_schemes_at_one_seed_differ_in_scale_alone() -> None:
    he, xavier = (weights(init_(deep_net().double(), scheme, seed=3)) for scheme in ("he", "xavier"))
    for name in he:
        ratio = he[name] / xavier[name]
        assert torch.allclose(ratio, torch.full_like(ratio, math.sqrt(2)), rtol=1e-12)


def test_uniform_weights_are_ordered_as_the_normal_ones_are() -> None:
    normal, uniform = (weights(init_(deep_net(), "he", distribution=d)) for d in ("normal", "uniform"))
    for name in normal:
        order = normal[name].flatten().argsort()
        assert (uniform[name].flatten()[order].diff() >= 0).all()


def test_weights_depend_on_seed_and_layer_name_and_nothing_else() -> None:
    first, again, other = (weights(init_(deep_net(), "he", seed=seed)) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    torch.manual_seed(123)
    assert torch.equal(standard_normals(torch.Size([3]), 0, "a"), standard_normals(torch.Size([3]), 0, "a"))
    shorter = weights(init_(build_net("plain", depth=9, width=8, input_shape=(1, 16, 16)), "he", seed=0))
    assert torch.equal(shorter["conv1_2"], first["conv1_2"])


def test_ddp_and_compile_prefixes_do_not_change_the_draw() -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    net = deep_net()
    plain = weights(init_(copy.deepcopy(net), "he"))
    wrapped = weights(init_(Wrapper(net), "he"))
    assert plain.keys() == wrapped.keys()
    assert all(torch.equal(plain[name], wrapped[name]) for name in plain)


def test_each_layer_makes_up_for_the_activation_before_it() -> None:
    """sqrt(2), sqrt(2 / 1.25) and 1 / sqrt(E[gelu(z)^2]), whose integral is 0.425216; and the signal stays."""
    layers = [nn.Linear(500, 500) for _ in range(4)]
    acts = [nn.ReLU(), nn.LeakyReLU(0.5), nn.GELU()]
    net = nn.Sequential(layers[0], acts[0], nn.Dropout(), layers[1], acts[1], layers[2], acts[2], layers[3])
    rows: list[dict] = []
    init_(net, "he", on_parameter=rows.append)
    gains = [row["scheme_std"] * math.sqrt(500) for row in rows if row["name"].endswith("weight")]
    assert gains[1:] == pytest.approx([2**0.5, 1.6**0.5, 1.533530], rel=1e-5)
    assert [layer.weight.std().item() * math.sqrt(500) for layer in layers[1:]] == pytest.approx(gains[1:], rel=0.02)
    # One slope for all layers remains the caller's to choose.
    init_(net, "he", negative_slope=0.0)
    assert layers[3].weight.std().item() == pytest.approx((2 / 500) ** 0.5, rel=0.02)


@pytest.mark.parametrize("scheme", ["orthogonal", "truncated_normal"])
def test_other_schemes_with_a_gain_take_each_layers_own(scheme: str) -> None:
    net = init_(
        nn.Sequential(nn.Linear(64, 64), nn.LeakyReLU(0.5), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64)), scheme
    )
    for layer, gain in ((net[2], 1.6**0.5), (net[4], 1.592537)):
        assert layer.weight.square().sum(1).mean().sqrt().item() == pytest.approx(gain, rel=0.05)


def test_linear_layers_take_the_fixed_stds_of_the_paper() -> None:
    net = build_net("plain", depth=9, width=8, input_shape=(1, 16, 16), linear_width=256)
    free, fixed = (init_(copy.deepcopy(net), "he"), init_(net, "he", linear_std=0.01, last_std=0.001))
    for name, std in (("fc1", 0.01), ("fc2", 0.01), ("fc3", 0.001)):
        layer = fixed.get_submodule(name)
        assert layer.weight.std().item() == pytest.approx(std, rel=0.06)
    assert torch.equal(free.conv1_1.weight, fixed.conv1_1.weight)


def test_last_factor_scales_the_last_layer_alone_on_top_of_the_scheme() -> None:
    full, small = (weights(init_(deep_net(), "he", last_factor=f)) for f in (1.0, 0.0625))
    assert torch.equal(small["fc3"], full["fc3"] * 0.0625)
    assert all(torch.equal(small[name], full[name]) for name in full if name != "fc3")


def test_the_models_own_slope_is_taken_for_prelu() -> None:
    relu, prelu = (
        weights(init_(build_net("plain", depth=9, width=8, input_shape=(1, 16, 16), activation=a), "he"))
        for a in ("relu", "prelu")
    )
    assert torch.allclose(prelu["conv1_1"] * math.sqrt(1.0625), relu["conv1_1"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scheme": "hee"}, r"unknown scheme \(got 'hee'\); allowed: gaussian, xavier, he"),
        ({"mode": "fan_avg"}, r"unknown mode \(got 'fan_avg'\); allowed: fan_in, fan_out"),
        ({"distribution": "cauchy"}, r"unknown distribution \(got 'cauchy'\); allowed: normal, uniform"),
    ],
)
def test_wrong_options_are_named_with_what_is_allowed(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        init_(deep_net(), **options)


def test_a_bias_has_no_fan() -> None:
    with pytest.raises(ValueError, match=r"at least 2 dimensions \(got shape \(5,\)\)"):
        fans((5,))


def test_a_module_of_the_users_between_layers_is_not_trained_by_looking_at_it() -> None:
    in_training: list[bool] = []

    class Counting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            in_training.append(self.training)
            return x.tanh()

    net = nn.Sequential(nn.Linear(8, 8), Counting(), nn.Linear(8, 8))
    init_(net, "he")
    assert in_training and not any(in_training)
