"""The nets of the paper against its tables: maps, parameters and multiply-adds counted by hand (He et al. 2015).

The expected numbers are the fact sheet's, made from the tables layer by layer; torch's own modules count a third time.
"""

import math
from dataclasses import asdict, replace
from inspect import signature
from typing import get_args

import pytest
import torch
import torchvision
from torch import nn

from initlab import build_net, init_
from initlab.init.layers import matrices_of
from initlab.nets.architecture import DEFAULT_SLOPES, ActivationName, Conv, Linear, NetChoices
from initlab.nets.build import to_modules
from initlab.nets.catalog import CATALOG, PAPER_NETS, paper_net
from initlab.nets.counts import Counts, count, output_shapes
from initlab.study.sections import Net
from initlab.study.training import Train

INPUT = (3, 224, 224)
SMALL_2, SMALL_3 = [37, 36] * 2, [19, 18]
# depth, sides of the maps that the convolutions give, values that enter fc1
MAPS = {
    "small-14": (14, [109, *SMALL_2, *SMALL_3 * 3], 256 * 50),
    "small-30": (30, [109, *SMALL_2, *SMALL_3 * 11], 256 * 50),
    "vgg-16": (16, [224] * 2 + [112] * 2 + [56] * 3 + [28] * 3 + [14] * 3, 512 * 49),
    "vgg-19": (19, [224] * 2 + [112] * 2 + [56] * 4 + [28] * 4 + [14] * 4, 512 * 49),
    "A": (19, [112] + [56] * 5 + [28] * 5 + [14] * 5, 512 * 63),
    "B": (22, [112] + [56] * 6 + [28] * 6 + [14] * 6, 512 * 63),
    "C": (22, [112] + [56] * 6 + [28] * 6 + [14] * 6, 896 * 63),
    "B+3": (25, [112] + [56] * 7 + [28] * 7 + [14] * 7, 512 * 63),
    "B+6": (28, [112] + [56] * 8 + [28] * 8 + [14] * 8, 512 * 63),
    "B+9": (31, [112] + [56] * 9 + [28] * 9 + [14] * 9, 512 * 63),
}
B_MORE = 2 * 1_849_688_064 + 462_422_016  # multiply-adds of a further layer in each of B's stages
B_MORE_WEIGHTS = 9 * 256**2 + 2 * 9 * 512**2
# parameters with relu, multiply-adds of the convolutions and of the linear layers, slopes channel-wise and shared
COUNTS = {
    "small-14": (74_993_896, 907_612_864, 73_302_016, 10_304, 13),
    "small-30": (79_192_296, 2_344_161_984, 73_302_016, 14_400, 29),
    "vgg-16": (138_357_544, 15_346_630_656, 123_633_664, 4_224 + 8_192, 15),
    "vgg-19": (143_667_240, 19_508_428_800, 123_633_664, 13_696, 18),
    "A": (178_017_384, 18_905_112_576, 152_993_792, 14_688, 18),
    "B": (183_327_080, 23_066_910_720, 152_993_792, 15_968, 21),
    "C": (330_603_368, 53_211_045_888, 252_084_224, 20_576, 21),
    **{
        f"B+{3 * k}": (
            183_327_080 + k * (B_MORE_WEIGHTS + 1280),
            23_066_910_720 + k * B_MORE,
            152_993_792,
            15_968 + k * 1280,
            21 + 3 * k,
        )
        for k in (1, 2, 3)
    },
}
PRINTED = {"vgg-19": 1.96e10, "A": 1.90e10, "B": 2.32e10, "C": 5.30e10}  # table 3


def test_the_defaults_are_frozen_and_those_of_a_study_file() -> None:
    plain_alone = {"depth": 30, "width": 16, "widths": None, "stages": 3, "linear_width": 64, "downsample": "stride"}
    both = {"activation": "relu", "negative_slope": None, "norm": "none", "skip": "none"}
    golden = {**plain_alone, **both, "dropout": 0.0}
    golden |= {"heads": 4, "branch_factor": 1.0}
    assert asdict(NetChoices()) == golden
    assert {**Net().model_dump(exclude={"name", "options"}), "dropout": Train().dropout} == golden
    assert {key: signature(build_net).parameters[key].default for key in golden} == golden
    assert set(DEFAULT_SLOPES) < set(get_args(ActivationName))


def test_the_catalog_is_what_the_paper_runs() -> None:
    assert list(CATALOG) == ["plain", "mlp", "transformer", "lstm", *MAPS]


@pytest.mark.parametrize("name", MAPS)
def test_depth_and_maps(name: str) -> None:
    depth, sides, features = MAPS[name]
    layers = paper_net(name)
    shapes = output_shapes(layers, INPUT)
    convs = [shape for layer, shape in zip(layers, shapes, strict=True) if isinstance(layer, Conv)]
    assert [shape[1:] for shape in convs] == [(side, side) for side in sides]
    linears = [(layer.name, layer.in_features, layer.out_features) for layer in layers if isinstance(layer, Linear)]
    assert linears == [("fc1", features, 4096), ("fc2", 4096, 4096), ("fc3", 4096, 1000)]
    assert PAPER_NETS[name].depth == count(layers, INPUT).weight_layers == depth


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_multiply_adds(name: str) -> None:
    parameters, conv, linear, channel_wise, shared = COUNTS[name]
    depth = MAPS[name][0]
    assert count(paper_net(name), INPUT) == Counts(parameters, conv + linear, depth)
    prelu = Counts(parameters + channel_wise, conv + linear, depth, depth - 1)
    assert count(paper_net(name, choices=NetChoices(activation="prelu")), INPUT) == prelu
    one_each = Counts(parameters + shared, conv + linear, depth, depth - 1)
    assert count(paper_net(name, choices=NetChoices(activation="prelu_shared")), INPUT) == one_each


@pytest.mark.parametrize("name", PRINTED)
def test_multiply_adds_are_within_1_percent_of_the_papers(name: str) -> None:
    assert PAPER_NETS[name].printed_multiply_adds == PRINTED[name]
    assert count(paper_net(name), INPUT).multiply_adds == pytest.approx(PRINTED[name], rel=0.01)
    assert {n for n, net in PAPER_NETS.items() if net.printed_multiply_adds} == set(PRINTED)


@pytest.mark.parametrize("name", MAPS)
def test_torchs_modules_have_these_maps_parameters_and_multiply_adds(name: str) -> None:
    described = paper_net(name, choices=NetChoices(activation="prelu", dropout=0.5))
    shapes: list[tuple[int, ...]] = []
    multiply_adds = 0

    def hook(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal multiply_adds
        shapes.append(tuple(output.shape[1:]))
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            multiply_adds += output[0].numel() * module.weight[0].numel()

    with torch.device("meta"):
        net = build_net(name, activation="prelu", dropout=0.5).eval()
        for module in net:
            module.register_forward_hook(hook)
        net(torch.zeros(2, *INPUT))
    assert shapes == output_shapes(described, INPUT)
    assert [name for name, _ in net.named_children()] == [layer.name for layer in described]
    counts = count(described, INPUT)
    assert (sum(p.numel() for p in net.parameters()), multiply_adds) == (counts.parameters, counts.multiply_adds)


@pytest.mark.parametrize(("name", "theirs"), [("vgg-16", "vgg16"), ("vgg-19", "vgg19")])
def test_vgg_is_torchvisions(name: str, theirs: str) -> None:
    with torch.device("meta"):
        reference = getattr(torchvision.models, theirs)(weights=None, init_weights=False)
        ours = build_net(name)
    assert [p.shape for p in ours.parameters()] == [p.shape for p in reference.parameters()]


@pytest.mark.parametrize("name", ["small-14", "B"])
def test_layers_stand_in_the_papers_order(name: str) -> None:
    order = [layer.name for layer in paper_net(name, choices=NetChoices(dropout=0.5)) if "act" not in layer.name]
    ends = ["spp", "fc1", "dropout1", "fc2", "dropout2", "fc3"]
    small = ["conv1", "pool1", *(f"conv2_{i}" for i in range(1, 5)), "pool2", *(f"conv3_{i}" for i in range(1, 7))]
    large = ["conv1", *(x for s in (2, 3, 4) for x in (f"pool{s - 1}", *(f"conv{s}_{i}" for i in range(1, 7))))]
    assert order == (small if name == "small-14" else large) + ends


# the fact sheet's standard deviations: fan_in and fan_out of He, by the layer's name
STDS = {
    "small-14": {
        "conv1": (0.11664, 0.02525),
        "conv2_1": (0.08839, 0.06250),
        "conv2_2": (0.06250, 0.06250),
        "conv3_1": (0.06250, 0.04419),
        "conv3_6": (0.04419, 0.04419),
    },
    "B": {
        "conv1": (0.11664, 0.02062),
        "conv2_1": (0.04811, 0.02946),
        "conv2_6": (0.02946, 0.02946),
        "conv3_1": (0.02946, 0.02083),
        "conv4_6": (0.02083, 0.02083),
    },
}


@pytest.mark.parametrize("name", STDS)
@pytest.mark.parametrize(("mode", "column"), [("fan_in", 0), ("fan_out", 1)])
def test_he_std_of_each_kind_of_layer(name: str, mode: str, column: int) -> None:
    with torch.device("meta"):
        shapes = [replace(matrix.layer, mode=mode) for matrix in matrices_of(build_net(name))]
    stds = {shape.name: shape.gain / math.sqrt(shape.fan) for shape in shapes}
    assert {layer: round(stds[layer], 5) for layer in STDS[name]} == {k: v[column] for k, v in STDS[name].items()}


@pytest.mark.parametrize("activation", ["prelu", "prelu_shared"])
@pytest.mark.parametrize("name", ["small-14", "small-30"])
def test_prelu_starts_from_the_papers_rule_in_every_layer(name: str, activation: str) -> None:
    """(1 + a^2)/2 n Var[w] = 1 with a = 0.25 (eq. 15): Var[w] = 1.882/n."""
    conv_part = [
        layer for layer in paper_net(name, choices=NetChoices(activation=activation)) if not layer.name.startswith("fc")
    ]
    net = init_(to_modules(conv_part), "he", mode="fan_in", seed=3)
    weights = {key: module.weight for key, module in net.named_children() if isinstance(module, nn.Conv2d)}
    assert len(weights) == MAPS[name][0] - 3
    for weight in weights.values():
        n = weight[0].numel()
        five_standard_errors = 5 * math.sqrt(2 / weight.numel())
        rule = 0.5 * (1 + 0.25**2) * n * weight.double().var(correction=0).item()
        assert rule == pytest.approx(1, rel=five_standard_errors)
    slopes = [module.weight for module in net if isinstance(module, nn.PReLU)]
    assert all((slope == 0.25).all() for slope in slopes)
    widths = [1 if activation == "prelu_shared" else w.shape[0] for w in weights.values()]
    assert [len(slope) for slope in slopes] == widths


def test_a_net_with_spp_takes_images_of_any_size_and_one_without_does_not() -> None:
    with torch.device("meta"):
        small, vgg = build_net("small-14", num_classes=7), build_net("vgg-16")
        for size in ((180, 180), (224, 500), (77, 77)):
            assert small(torch.zeros(2, 3, *size)).shape == (2, 7)
        with pytest.raises(RuntimeError):
            vgg(torch.zeros(2, 3, 256, 256))
        with pytest.raises(ValueError, match=r"spp: a map of 5x6 is too small .*allowed: at least 6 a side"):
            small(torch.zeros(1, 3, 76, 77))


@pytest.mark.parametrize("name", MAPS)
def test_the_smallest_image_that_is_allowed_goes_through_and_a_smaller_one_does_not(name: str) -> None:
    least = {"s": 77, "v": 32}.get(name[0], 111)
    with torch.device("meta"):
        assert build_net(name, input_size=least)(torch.zeros(1, 3, least, least)).shape == (1, 1000)
    message = rf"{name.replace('+', '.')}: images too small .*got {least - 1}x{least}.*at least {least}x{least}"
    with pytest.raises(ValueError, match=message):
        build_net(name, input_shape=(3, least - 1, least))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "small-22"},
            r"build_net: unknown net \(got 'small-22'\); allowed: plain, mlp, transformer, lstm, small-14",
        ),
        ({"name": "B", "depth": 14}, r"build_net: B has no depth to choose \(got 14\); allowed: activation, dropout, "),
        ({"name": "A", "widths": [8]}, r"build_net: A has no widths to choose \(got \(8,\)\)"),
        ({"name": "C", "input_size": 224, "input_shape": (3, 224, 224)}, "give one of input_shape and input_size"),
        ({"name": "C", "activation": "swish"}, r"C: unknown activation \(got 'swish'\); allowed: relu, leaky_relu"),
        ({"name": "A", "input_shape": (224, 224)}, r"input_shape: not a shape \(got \(224, 224\)\)"),
        ({"name": "A", "input_size": 0}, r"input_shape: not a shape \(got \(3, 0, 0\)\)"),
        ({"name": "A", "num_classes": 0}, r"num_classes: out of range \(got 0\); allowed: at least 1"),
        ({"name": "plain"}, "give one of input_shape and input_size"),
        ({"name": "B", "skip": "conv"}, r"net.skip: unknown skip \(got 'conv'\); allowed: none, identity"),
        ({"name": "B", "norm": "layer"}, r"net.norm: unknown norm \(got 'layer'\); allowed: none, batch"),
    ],
)
def test_what_cannot_be_built_is_told_in_one_line(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        build_net(**arguments)  # type: ignore[arg-type]
