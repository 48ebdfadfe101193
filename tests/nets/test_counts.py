"""Counts of described nets against closed forms and against the modules that torch makes of them."""

import pytest
import torch
from torch import nn

from initlab.nets.architecture import Conv, Linear, MaxPool, NetChoices, plain
from initlab.nets.build import build_net
from initlab.nets.catalog import CATALOG, SEQUENCE_NETS
from initlab.nets.counts import Counts, count, output_shapes


def test_a_net_of_six_layers_counted_by_hand():
    """1x8x8 images, one stage of 3 convolutions of 2 channels, linear layers of 5 and 5, 3 classes."""
    layers = plain(3, (1, 8, 8), NetChoices(depth=6, width=2, stages=1, linear_width=5))
    convs = 9 * 1 * 2 + 2 * (9 * 2 * 2)  # weights: 18 + 36 + 36
    linears = 2 * 64 * 5 + 5 * 5 + 5 * 3  # 640 + 25 + 15
    biases = 3 * 2 + 5 + 5 + 3
    assert count(layers, (1, 8, 8)) == Counts(convs + linears + biases, convs * 64 + linears, 6)
    assert count(layers, (1, 8, 8)) == Counts(789, 6440, 6)


def test_a_stage_halves_the_map_and_doubles_the_channels():
    layers = plain(10, (1, 16, 16), NetChoices(depth=9, width=16))  # two convolutions in each of three stages
    shapes = [
        shape
        for layer, shape in zip(layers, output_shapes(layers, (1, 16, 16)), strict=True)
        if isinstance(layer, Conv)
    ]
    assert shapes == [(16, 16, 16), (16, 16, 16), (32, 8, 8), (32, 8, 8), (64, 4, 4), (64, 4, 4)]


@pytest.mark.parametrize(("downsample", "last"), [("stride", (64, 3, 3)), ("max_pool", (64, 2, 2))])
def test_an_odd_side_rounds_up_under_stride_and_down_under_pooling(downsample: str, last: tuple[int, int, int]):
    layers = plain(10, (1, 9, 9), NetChoices(depth=9, width=16, downsample=downsample))  # 9, 5, 3 or 9, 4, 2
    shapes = output_shapes(layers, (1, 9, 9))
    assert [shape for layer, shape in zip(layers, shapes, strict=True) if isinstance(layer, Conv)][-1] == last


@pytest.mark.parametrize("depth", range(6, 63))
def test_depth_counts_weight_layers(depth: int):
    layers = plain(10, (1, 8, 8), NetChoices(depth=depth, width=2, linear_width=4))
    convs = [layer.name for layer in layers if isinstance(layer, Conv)]
    assert len(convs) == depth - 3
    assert [layer.name for layer in layers if isinstance(layer, Linear)] == ["fc1", "fc2", "fc3"]
    assert count(layers, (1, 8, 8)).weight_layers == depth
    per_stage = [sum(name.startswith(f"conv{stage}_") for name in convs) for stage in (1, 2, 3)]
    assert per_stage == sorted(per_stage, reverse=True) and per_stage[0] - per_stage[2] <= 1


@pytest.mark.parametrize(("depth", "convs", "per_stage"), [(22, 19, (7, 6, 6)), (30, 27, (9, 9, 9))])
def test_the_papers_depths(depth: int, convs: int, per_stage: tuple[int, int, int]):
    """19 + 3 and 27 + 3 layers (He et al. 2015, figs. 2 and 3), spread evenly over the stages."""
    layers = plain(10, (1, 16, 16), NetChoices(depth=depth, width=16))
    names = [layer.name for layer in layers if isinstance(layer, Conv)]
    assert len(names) == convs
    assert tuple(sum(name.startswith(f"conv{stage}_") for name in names) for stage in (1, 2, 3)) == per_stage


NETS = {
    "demo 30": {"depth": 30, "width": 16, "input_shape": (1, 16, 16)},
    "demo 22": {"depth": 22, "width": 16, "input_shape": (1, 16, 16)},
    "max_pool": {"depth": 14, "width": 4, "input_shape": (3, 19, 12), "downsample": "max_pool"},
    "stride, odd sides": {"depth": 14, "width": 4, "input_shape": (3, 19, 13)},
    "prelu": {"depth": 12, "width": 4, "input_shape": (3, 32, 32), "activation": "prelu"},
    "prelu_shared": {"depth": 12, "width": 4, "input_shape": (3, 32, 32), "activation": "prelu_shared"},
    "widths": {"depth": 11, "widths": (5, 3, 7, 2), "input_shape": (2, 9, 9), "activation": "leaky_relu"},
    "dropout": {"depth": 8, "width": 4, "input_shape": (1, 8, 8), "dropout": 0.5, "linear_width": 9},
}


@pytest.mark.parametrize("net", NETS)
def test_counts_agree_with_the_modules_that_torch_runs(net: str):
    arguments = dict(NETS[net])
    modules = build_net("plain", num_classes=7, **arguments).eval()
    shape = arguments.pop("input_shape")
    described = plain(7, shape, NetChoices(**arguments))
    shapes: list[tuple[int, ...]] = []
    multiply_adds = 0

    def hook(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal multiply_adds
        shapes.append(tuple(output.shape[1:]))
        if isinstance(module, (nn.Conv2d, nn.Linear)):  # every output value is a sum over the weights of one filter
            multiply_adds += output[0].numel() * module.weight[0].numel()

    for module in modules:
        module.register_forward_hook(hook)
    modules(torch.zeros(1, *shape))
    weighted = sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in modules)
    parameters = sum(parameter.numel() for parameter in modules.parameters())
    assert output_shapes(described, shape) == shapes
    slopes = sum(isinstance(module, nn.PReLU) for module in modules)
    assert count(described, shape) == Counts(parameters, multiply_adds, weighted, slopes)


def test_prelu_has_a_slope_per_channel_and_prelu_shared_one_per_layer():
    relu, prelu, shared = (
        count(plain(10, (1, 8, 8), NetChoices(depth=9, width=4, linear_width=6, activation=kind)), (1, 8, 8)).parameters
        for kind in ("relu", "prelu", "prelu_shared")
    )
    assert prelu - relu == 2 * (4 + 8 + 16) + 2 * 6
    assert shared - relu == 6 + 2


def test_pooling_stands_between_stages_alone():
    names = [
        layer.name
        for layer in plain(10, (1, 8, 8), NetChoices(depth=7, width=4, downsample="max_pool"))
        if not layer.name.startswith(("act", "fc"))
    ]
    assert names == ["conv1_1", "conv1_2", "pool1", "conv2_1", "pool2", "conv3_1", "flatten"]
    assert not any(isinstance(layer, MaxPool) for layer in plain(10, (1, 8, 8), NetChoices(depth=7, width=4)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 5}, r"plain: depth: too small for 3 stages \(got 5\); allowed: at least 6"),
        ({"depth": 9, "stages": 5}, r"plain: stages: too many for images of 8 pixels \(got 5\); allowed: at most 4"),
        ({"depth": 9, "activation": "swish"}, r"plain: unknown activation \(got 'swish'\); allowed: relu, leaky_relu"),
        ({"depth": 9, "downsample": "crop"}, r"plain: unknown downsample \(got 'crop'\); allowed: stride, max_pool"),
    ],
)
def test_a_net_that_cannot_be_laid_out_says_what_can(arguments, message: str):
    with pytest.raises(ValueError, match=message):
        plain(10, (1, 8, 8), NetChoices(width=4, **arguments))


def test_every_name_of_the_catalog_builds():
    with torch.device("meta"):
        for name in CATALOG:
            shape = (16,) if name in SEQUENCE_NETS else (3, 224, 224)
            assert isinstance(build_net(name, input_shape=shape), nn.Sequential)
