"""Lint: each rule on a model with the fault and on one without, figures against closed forms, and fixes that work."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from initlab import Finding, build_net, init_, lint
from initlab.inspection.lint.lint import RULES

Draw = Callable[[Tensor], object]


def deep(depth: int, width: int, activation: Callable[[], nn.Module], draw: Draw | None = None) -> nn.Sequential:
    """`depth` square linear layers with an activation after each, and a last one of 10 classes at std 1/sqrt(width)."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), activation()]
    net = nn.Sequential(*layers, nn.Linear(width, 10))
    if draw is not None:
        for layer in net:
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)
                draw(layer.weight)
        nn.init.normal_(net[-1].weight, std=width**-0.5)
    return net


def gain_of(squared: float) -> Draw:
    """Normal weights of variance squared / fan_in."""
    return lambda weight: nn.init.normal_(weight, std=math.sqrt(squared / weight.shape[1]))


def rules(findings: list[Finding]) -> set[str]:
    return {finding.rule for finding in findings}


def only(findings: list[Finding], rule: str) -> Finding:
    (match,) = [finding for finding in findings if finding.rule == rule]
    return match


def fixed(net: nn.Module, finding: Finding) -> nn.Module:
    """A copy on which the fix of a finding was run, word for word."""
    import initlab

    model = copy.deepcopy(net)
    exec(finding.fix, {"initlab": initlab, "model": model, "batch": torch.randn(64, model[0].in_features)})
    return model


def test_torchs_default_is_found_with_its_sixth_per_layer_and_the_biases_that_hide_it() -> None:
    net = deep(12, 128, nn.ReLU)
    findings = lint(net)
    default = only(findings, "torch_default")
    assert default.severity == "fault"
    assert default.layers == tuple(str(2 * i) for i in range(13))
    # 12 layers after a ReLU, each a factor 1/6; sampling of 16,384 weights is 1 % at most.
    (change,) = [float(word[1:]) for word in default.text.split() if word.startswith("×")]
    assert math.log(change) == pytest.approx(12 * math.log(1 / 6), abs=0.3)
    hidden = only(findings, "hidden_by_biases")
    (floor,) = [float(part.rstrip(",")) for part in hidden.text.split("E[y²] = ")[1].split()[:1]]
    # default.bias_floor; 5 standard errors of the mean square of a layer's 128 uniform biases.
    assert floor == pytest.approx(2 / (5 * 128), rel=5 * math.sqrt(0.8 / 128))
    assert "gradients fall ×0.16" in hidden.text or "gradients fall ×0.17" in hidden.text
    assert default.fix == 'initlab.init_(model, "he")'
    assert lint(fixed(net, default)) == []


def test_the_default_of_a_transposed_and_a_grouped_convolution_is_known_too() -> None:
    net = nn.Sequential(nn.ConvTranspose2d(8, 16, 4, stride=2), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=4))
    assert only(lint(net), "torch_default").layers == ("0", "2")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_default_is_found_in_every_precision(dtype: torch.dtype) -> None:
    assert only(lint(deep(4, 64, nn.ReLU).to(dtype)), "torch_default").layers == ("0", "2", "4", "6", "8")
    assert lint(deep(8, 64, nn.ReLU, gain_of(2)).to(dtype)) == []


def test_one_activation_used_all_along_is_seen_each_time() -> None:
    relu = nn.ReLU()
    assert only(lint(deep(10, 128, lambda: relu, gain_of(1))), "gain").layers == tuple(str(2 * i) for i in range(1, 10))


def test_normal_weights_of_the_defaults_variance_are_not_taken_for_it() -> None:
    assert "torch_default" not in rules(lint(deep(6, 64, nn.ReLU, gain_of(1 / 3))))


def test_the_default_is_recognised_in_every_one_of_500_draws_and_a_normal_never() -> None:
    from initlab.inspection.lint.draws import left_at_default
    from initlab.inspection.lint.sites import sites_of

    layer = nn.Linear(16, 16)
    (site,), _ = sites_of(nn.Sequential(layer), None)
    hits = {"uniform": 0, "normal": 0}
    for seed in range(500):
        torch.manual_seed(seed)
        for kind in hits:
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
            if kind == "normal":
                nn.init.normal_(layer.weight, std=1 / math.sqrt(48))
            (site,), _ = sites_of(nn.Sequential(layer), None)
            hits[kind] += left_at_default(site)
    assert hits == {"uniform": 500, "normal": 0}


def test_xavier_under_relu_halves_per_layer() -> None:
    finding = only(lint(deep(10, 128, nn.ReLU, gain_of(1))), "gain")
    # 9 of 10 layers follow a ReLU and are not the last.
    assert "(Xavier's) where ReLU() wants 2" in finding.text
    change = float(finding.text.split("signals change ×")[1].split()[0])
    assert math.log(change) == pytest.approx(9 * math.log(0.5), abs=0.3)


def test_he_under_a_linear_net_doubles_and_xavier_there_is_right() -> None:
    he, xavier = deep(8, 64, nn.Identity, gain_of(2)), deep(8, 64, nn.Identity, gain_of(1))
    finding = only(lint(he), "gain")
    assert "(He's) where linear wants 1" in finding.text
    assert finding.fix == 'initlab.init_(model, "xavier")'
    assert lint(xavier) == []
    assert lint(fixed(he, finding)) == []


def test_a_net_scaled_on_data_is_left_alone_where_the_batch_shows_it() -> None:
    net = build_net("plain", depth=24, width=8, input_shape=(3, 8, 8))
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    init_(net, "lsuv", batch=images)
    assert "gain" not in rules(lint(net, images))


def test_tanh_under_torchs_gain_is_chaotic_by_1_2098_per_layer() -> None:
    net = deep(31, 256, nn.Tanh, gain_of(25 / 9))
    finding = only(lint(net), "chaotic")
    chi, total = (float(word.strip("×,")) for word in finding.text.split() if word.startswith("×"))
    # tanh.torch_gain_chi1 and, over 30 layers, tanh.torch_gain_chi30; the weights are a sample.
    assert chi == pytest.approx(1.209831, rel=0.003)
    assert total == pytest.approx(303.2108, rel=0.1)
    assert lint(fixed(net, finding)) == []


@pytest.mark.parametrize(
    ("activation", "squared", "rule"),
    [
        (nn.Tanh, 2.5, "chaotic"),
        (nn.SELU, 2, "gain"),
        (nn.GELU, 2, "gain"),
        (nn.Sigmoid, 1, "gain"),
        (nn.SiLU, 4, "gain"),
    ],
)
def test_gains_that_do_not_fit_a_smooth_activation_are_found(
    activation: Callable[[], nn.Module], squared: float, rule: str
) -> None:
    finding = only(lint(deep(21, 128, activation, gain_of(squared))), rule)
    assert len(finding.layers) == 20


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU])
def test_smooth_activations_at_their_own_gain_stand_on_an_unstable_point(activation: Callable[[], nn.Module]) -> None:
    from initlab import gain

    net = deep(31, 256, activation, gain_of(gain(activation()) ** 2))
    finding = only(lint(net), "unstable_gain")
    slope = {nn.GELU: "1.144", nn.SiLU: "1.17"}[activation]
    assert f"(slope {slope}" in finding.text
    if activation is nn.GELU:
        assert "from 0.9 it goes to 0.0012 in 30 layers, from 1.1 to 11" in finding.text
    assert finding.fix == 'initlab.init_(model, "lsuv", batch=batch)'


@pytest.mark.parametrize(
    ("activation", "squared"), [(nn.Tanh, 1), (nn.SELU, 1), (nn.ELU, 1.55), (nn.ReLU, 2), (nn.Identity, 1)]
)
def test_gains_that_fit_are_left_alone_at_30_layers(activation: Callable[[], nn.Module], squared: float) -> None:
    assert lint(deep(31, 128, activation, gain_of(squared))) == []


def test_prelu_under_relus_gain_lacks_the_slope_layer_by_layer() -> None:
    net = deep(20, 128, lambda: nn.PReLU(init=0.25), gain_of(2))
    finding = only(lint(net), "slope")
    # scale.prelu_under_he; the layers after a PReLU but the last, which is 1/fan: 1.0625^19.
    assert "×1.062 per layer" in finding.text
    assert f"×{1.0625**19:.3g} over 19" in finding.text
    assert rules(lint(fixed(net, finding))) == set()
    assert lint(init_(net, "he")) == []


def test_slopes_that_differ_between_layers_are_told_layer_by_layer() -> None:
    net = nn.Sequential(
        nn.Linear(128, 128),
        nn.LeakyReLU(0.5),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.LeakyReLU(0.9),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
    init_(net, "he", negative_slope=0.0)
    findings = [finding for finding in lint(net) if finding.rule == "slope"]
    assert [finding.layers for finding in findings] == [("2",), ("6",)]
    for finding in findings:
        net = fixed(net, finding)
    assert lint(net) == []


def test_a_cut_without_correction_keeps_0_77_and_a_correction_without_cut_makes_1_29() -> None:
    def cut(weight: Tensor) -> None:
        std = math.sqrt(2 / weight.shape[1])
        nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)

    def corrected_but_absolute(weight: Tensor) -> None:
        nn.init.trunc_normal_(weight, std=math.sqrt(2 / weight.shape[1]) / 0.8796257)

    for draw, message in ((cut, "0.7737 of what was meant"), (corrected_but_absolute, "1.292 of what was meant")):
        net = deep(6, 128, nn.ReLU, draw)
        finding = only(lint(net), "truncation")
        assert message in finding.text
        assert finding.layers == ("0", "2", "4", "6", "8", "10")
        assert rules(lint(fixed(net, finding))) == set()


def test_a_meant_cut_that_absolute_bounds_left_out_is_a_plain_normal_and_not_told() -> None:
    def absolute(weight: Tensor) -> None:
        nn.init.trunc_normal_(weight, std=math.sqrt(2 / weight.shape[1]))

    assert lint(deep(6, 128, nn.ReLU, absolute)) == []


def test_fan_out_of_a_depthwise_convolution_is_64_times_too_large() -> None:
    net = nn.Sequential(nn.Conv2d(64, 64, 3, groups=64), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.ReLU())
    for layer in (net[0], net[2]):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        nn.init.zeros_(layer.bias)
    finding = only(lint(net), "grouped_fan_out")
    assert finding.layers == ("0",)
    assert "down to 1/64" in finding.text
    before = net[0].weight.detach().clone()
    exec(finding.fix, {"model": net})
    assert torch.equal(net[0].weight.detach(), before * 8)
    assert lint(net) == []
    with_norm = nn.Sequential(nn.Conv2d(64, 64, 3, groups=64), nn.BatchNorm2d(64), nn.ReLU())
    nn.init.kaiming_normal_(with_norm[0].weight, mode="fan_out")
    assert only(lint(with_norm), "grouped_fan_out").severity == "note"
    assert lint(init_(with_norm, "he", mode="fan_out")) == []


def test_one_std_for_all_layers_is_not_taken_for_a_wrong_fan_by_chance() -> None:
    # 0.02^2 = 1.88 / 4704, where 4704 = 96 * 7^2 is torch's fan_out of the depthwise layer: within 10 % of He's 2.
    net = nn.Sequential(
        nn.Conv2d(3, 96, 4),
        nn.GELU(),
        nn.Conv2d(96, 96, 7, groups=96),
        nn.GELU(),
        nn.Conv2d(96, 384, 1),
        nn.GELU(),
        nn.Conv2d(384, 96, 1),
        nn.GELU(),
    )
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    assert rules(lint(net)) & {"grouped_fan_out", "truncation"} == set()


def test_torchs_fan_in_of_a_strided_transposed_convolution_leaves_a_quarter() -> None:
    net = nn.Sequential(nn.ConvTranspose2d(32, 32, 4, stride=2), nn.ReLU())
    nn.init.kaiming_normal_(net[0].weight, mode="fan_in")
    nn.init.zeros_(net[0].bias)
    finding = only(lint(net), "transposed_fan_in")
    # conv.transpose_forward
    assert "×0.25" in finding.text
    exec(finding.fix, {"model": net})
    assert lint(net) == []
    assert lint(init_(net, "he")) == []


def test_an_orthogonal_first_layer_keeps_27_64ths() -> None:
    net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU())
    for layer in (net[0], net[2]):
        nn.init.orthogonal_(layer.weight, gain=math.sqrt(2))
        nn.init.zeros_(layer.bias)
    finding = only(lint(net), "orthogonal_first")
    assert finding.layers == ("0",)
    # conv.orthogonal_first
    assert "27/64 = 0.4219" in finding.text
    assert only(lint(init_(net, "orthogonal")), "orthogonal_first").layers == ("0",)
    assert lint(init_(net, "he")) == []
    assert lint(init_(nn.Sequential(nn.Conv2d(8, 64, 3), nn.ReLU()), "orthogonal")) == []


def test_a_loud_last_layer_is_found_on_the_batch_and_from_its_weights() -> None:
    net = init_(deep(3, 64, nn.ReLU), "he", last_factor=10.0)
    images = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    measured, expected = only(lint(net, images), "loss_at_start"), only(lint(net), "loss_at_start")
    with torch.no_grad():
        logits = net(images).double()
        # Over every label alike.
        by_hand = torch.stack([-logits.log_softmax(1)[:, k] for k in range(10)]).mean()
    assert f"starts near {by_hand:.3g}," in measured.text
    assert "ln 10 = 2.30" in expected.text
    assert rules(lint(fixed(net, measured), images)) == set()
    assert lint(init_(net, "he"), images) == []


def test_dead_layers_but_not_a_branchs_last_or_a_zero_classifier() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x + self.b(torch.relu(self.a(x))))

    net, images = init_(Residual(), "he"), torch.randn(8, 16)
    nn.init.zeros_(net.b.weight)
    nn.init.zeros_(net.head.weight)
    assert lint(net, images) == []
    nn.init.zeros_(net.a.weight)
    assert only(lint(net, images), "dead").layers == ("a",)
    nn.init.constant_(net.a.weight, 0.3)
    assert "are the same" in only(lint(net, images), "dead").text


def test_weights_that_are_not_finite_are_told_alone() -> None:
    net = init_(deep(3, 64, nn.ReLU), "he")
    with torch.no_grad():
        net[2].weight[0, 0] = math.nan
    assert only(lint(net), "nonfinite").layers == ("2",)


SCHEMES = ("he", "truncated_normal", "orthogonal", "xavier", "lecun", "delta_orthogonal")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("seed", range(3))
def test_our_own_schemes_raise_no_alarm_on_nets_that_they_fit(scheme: str, seed: int) -> None:
    smooth = scheme in ("xavier", "lecun")
    # in k^2 >= out in every layer, so that orthogonal rows fit.
    layers: list[nn.Module] = [nn.Conv2d(16, 16, 3, padding=1), nn.Tanh() if smooth else nn.ReLU()]
    for _ in range(14):
        layers += [nn.Conv2d(16, 16, 3, padding=1), nn.Tanh() if smooth else nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    init_(net, scheme, seed=seed)
    images = torch.randn(4, 16, 8, 8, generator=torch.Generator().manual_seed(seed))
    assert lint(net) == []
    assert lint(net, images) == []


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize("distribution", ["normal", "uniform"])
@pytest.mark.parametrize("activation", ["relu", "prelu"])
def test_he_on_the_plain_net_raises_no_alarm(mode: str, distribution: str, activation: str) -> None:
    net = build_net("plain", depth=30, input_shape=(1, 16, 16), activation=activation)
    init_(net, "he", mode=mode, distribution=distribution)
    # By fan_out the last layer has 2/10 on 64 inputs: logits of variance 12.8, so that the loss starts above 3 ln 10.
    loud = {("loss_at_start", "note")} if mode == "fan_out" else set()
    assert {(finding.rule, finding.severity) for finding in lint(net)} == loud
    images = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert {(finding.rule, finding.severity) for finding in lint(net, images)} <= loud


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("resnet18", 64, {"torch_default"}),  # fc
        ("mobilenet_v3_small", 64, {"grouped_fan_out"}),  # kaiming_normal_(mode="fan_out") on depthwise convolutions
        pytest.param("vit_b_16", 224, {"torch_default"}, marks=pytest.mark.slow),  # the attention's out_proj
        ("squeezenet1_0", 64, set()),
        pytest.param("convnext_tiny", 224, set(), marks=pytest.mark.slow),
        pytest.param("vgg16", 224, set(), marks=pytest.mark.slow),
        pytest.param("densenet121", 224, {"torch_default"}, marks=pytest.mark.slow),  # classifier
    ],
)
def test_torchvisions_nets_give_notes_of_what_is_there_and_no_fault(name: str, size: int, expected: set[str]) -> None:
    torch.manual_seed(0)
    net = torchvision.models.get_model(name, weights=None)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    findings = lint(net, torch.randn(2, 3, size, size))
    assert {finding.severity for finding in findings} <= {"note"}
    assert rules(findings) == expected
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_functions_count_as_their_modules_do_and_unknown_is_said_without_a_batch() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(8))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers[:-1]:
                x = torch.nn.functional.leaky_relu(layer(x), 0.5)
            return self.layers[-1](x)

    net = init_(Functional(), "he", negative_slope=0.0)
    unknown = only(lint(net), "unknown")
    assert len(unknown.layers) == 8
    assert "without a batch" in unknown.text
    assert only(lint(net, torch.randn(4, 64)), "slope").layers == tuple(f"layers.{i}" for i in range(1, 7))


def test_every_rule_is_listed_and_findings_read_as_text() -> None:
    findings = lint(deep(12, 128, nn.ReLU))
    assert rules(findings) <= set(RULES)
    assert str(findings[0]).startswith("fault torch_default: 13 layers, `0` to `24`: torch's default left in")


def test_a_lazy_model_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match=r"lint: 0.weight is not there yet \(lazy\); run the model on a batch first"):
        lint(nn.Sequential(nn.LazyLinear(4)))


def test_under_inference_mode_and_without_weight_layers() -> None:
    net = init_(deep(12, 64, nn.ReLU), "he")
    with torch.inference_mode():
        assert lint(net, torch.randn(4, 64)) == []
    assert lint(nn.ReLU(), torch.randn(4, 64)) == []
    assert lint(nn.Sequential(), torch.randn(4, 64)) == []
