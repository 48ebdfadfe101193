"""Identity skips and BatchNorm: where they stand, what they compute, and that a net without them stays what it was."""

import hashlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from initlab import build_net, init_
from initlab.nets.architecture import Add, BatchNorm, Conv, NetChoices, plain
from initlab.nets.build import to_modules
from initlab.nets.catalog import PAPER_NETS, paper_net
from initlab.nets.counts import Counts, count, output_shapes
from initlab.nets.layers import SkipSequential
from initlab.nets.variants import skipped_pairs, variant

IMAGES = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def small_net(**options: str) -> nn.Sequential:
    """Five convolutions in two stages of 3 and 2; the pair (conv1_2, conv1_3) is the one that can be skipped."""
    return init_(build_net("plain", depth=8, width=4, stages=2, input_shape=(1, 8, 8), linear_width=6, **options))


def test_a_net_without_norm_and_skip_is_the_sequential_it_was() -> None:
    net = build_net("plain", depth=7, width=4, input_shape=(1, 8, 8), activation="prelu", dropout=0.5)
    assert type(net) is nn.Sequential
    names = "\n".join(net.state_dict())
    assert list(net.state_dict())[:4] == ["conv1_1.weight", "conv1_1.bias", "act1_1.weight", "conv1_2.weight"]
    # names of all parameters, in order, as checkpoints of this net have had them from the first
    assert hashlib.sha256(names.encode()).hexdigest()[:12] == GOLDEN_NAMES


GOLDEN_NAMES = "ce645393b4a1"


@pytest.mark.parametrize(
    ("layers", "pairs"),
    [
        (plain(10, (1, 8, 8), NetChoices(depth=8, width=4, stages=2)), [("act1_1", "conv1_3")]),
        (
            plain(10, (1, 16, 16), NetChoices(depth=30, width=16)),
            [(f"act{s}_{i}", f"conv{s}_{i + 2}") for s in (1, 2, 3) for i in (1, 3, 5, 7)],
        ),
        # without a stride the first convolution of a stage keeps the map, but not the channels
        (plain(10, (1, 8, 8), NetChoices(depth=9, width=4, downsample="max_pool")), []),
        (
            plain(10, (1, 8, 8), NetChoices(depth=9, width=4, widths=(4, 4, 4), downsample="max_pool")),
            [("pool1", "conv2_2"), ("pool2", "conv3_2")],
        ),
        (plain(10, (1, 8, 8), NetChoices(depth=9, width=4, widths=(4, 4, 4))), []),
        (paper_net("small-14"), [("act2_1", "conv2_3"), ("act3_1", "conv3_3"), ("act3_3", "conv3_5")]),
        (paper_net("vgg-16"), [("act3_1", "conv3_3"), ("act4_1", "conv4_3"), ("pool4", "conv5_2")]),
        (
            paper_net("A"),
            [
                ("act2_1", "conv2_3"),
                ("act2_3", "conv2_5"),
                ("act3_1", "conv3_3"),
                ("act3_3", "conv3_5"),
                ("pool3", "conv4_2"),
                ("act4_2", "conv4_4"),
            ],
        ),
    ],
)
def test_which_pairs_are_skipped(layers, pairs: list[tuple[str, str]]) -> None:
    assert skipped_pairs(layers) == pairs
    if not pairs:
        with pytest.raises(ValueError, match=r"net.skip: no pair to skip \(got identity for 6 convolutions\)"):
            variant(layers, skip="identity")
        return
    added = [(layer.source, layer.name) for layer in variant(layers, skip="identity") if isinstance(layer, Add)]
    assert added == [(source, second.replace("conv", "add")) for source, second in pairs]


@pytest.mark.parametrize("name", PAPER_NETS)
def test_every_skip_adds_two_maps_of_one_shape(name: str) -> None:
    layers = variant(paper_net(name), norm="batch", skip="identity")
    shapes = dict(zip([layer.name for layer in layers], output_shapes(layers, (3, 224, 224)), strict=True))
    adds = [layer for layer in layers if isinstance(layer, Add)]
    assert len(adds) >= 3
    assert all(shapes[add.source] == shapes[add.name] for add in adds)
    with torch.device("meta"):
        assert to_modules(variant(paper_net(name), skip="identity"))(torch.zeros(2, 3, 224, 224)).shape == (2, 1000)


@pytest.mark.parametrize("name", ["small-30", "B", "vgg-19"])
def test_counts_of_the_variants(name: str) -> None:
    layers, shape = paper_net(name), (3, 224, 224)
    base = count(layers, shape)
    channels = sum(layer.out_channels for layer in layers if isinstance(layer, Conv))
    assert count(variant(layers, skip="identity"), shape) == base, "skips have no parameter"
    both = count(variant(layers, norm="batch", skip="identity"), shape)
    assert both == Counts(base.parameters + 2 * channels, base.multiply_adds, base.weight_layers)
    with torch.device("meta"):
        net = build_net(name, norm="batch", skip="identity")
    assert sum(p.numel() for p in net.parameters()) == both.parameters


def test_the_forward_pass_of_skips_by_hand() -> None:
    net = small_net(skip="identity")
    x1 = F.relu(net.conv1_1(IMAGES))
    x3 = F.relu(net.conv1_3(F.relu(net.conv1_2(x1))) + x1)
    x5 = F.relu(net.conv2_2(F.relu(net.conv2_1(x3))))
    logits = net.fc3(F.relu(net.fc2(F.relu(net.fc1(x5.flatten(1))))))
    assert isinstance(net, SkipSequential)
    assert torch.equal(net(IMAGES), logits)


def test_the_forward_pass_of_norm_and_skips_by_hand() -> None:
    net = small_net(skip="identity", norm="batch")

    def normed(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(net.get_submodule(name)(x), None, None, training=True)

    x1 = F.relu(normed("conv1_1", IMAGES))
    x3 = F.relu(normed("conv1_3", F.relu(normed("conv1_2", x1))) + x1)
    x5 = F.relu(normed("conv2_2", F.relu(normed("conv2_1", x3))))
    logits = net.fc3(F.relu(net.fc2(F.relu(net.fc1(x5.flatten(1))))))
    assert torch.allclose(net(IMAGES), logits, atol=1e-6)


def test_a_branch_of_zeros_makes_its_pair_the_identity() -> None:
    net, without = small_net(skip="identity"), small_net()
    with torch.no_grad():
        net.conv1_3.weight.zero_()
    remaining = [module for name, module in without.named_children() if name not in ("conv1_2", "act1_2", "conv1_3")]
    assert torch.equal(net(IMAGES), nn.Sequential(*remaining)(IMAGES))


def test_variants_start_from_the_same_weights_under_the_same_names() -> None:
    weights = small_net().state_dict()
    assert list(small_net(skip="identity").state_dict()) == list(weights)
    for options in ({"skip": "identity"}, {"norm": "batch"}, {"skip": "identity", "norm": "batch"}):
        other = small_net(**options).state_dict()
        assert all(torch.equal(other[name], tensor) for name, tensor in weights.items())


def test_a_norm_stands_between_each_convolution_and_its_activation_or_skip() -> None:
    layers = variant(plain(10, (1, 8, 8), NetChoices(depth=8, width=4, stages=2)), norm="batch", skip="identity")
    names = [layer.name for layer in layers]
    assert names[:10] == [
        "conv1_1",
        "norm1_1",
        "act1_1",
        "conv1_2",
        "norm1_2",
        "act1_2",
        "conv1_3",
        "norm1_3",
        "add1_3",
        "act1_3",
    ]
    assert sum(isinstance(layer, BatchNorm) for layer in layers) == 5
    assert names[-6:] == ["flatten", "fc1", "fc_act1", "fc2", "fc_act2", "fc3"]


def test_slices_around_whole_skips_work_and_others_say_so() -> None:
    net = small_net(skip="identity")
    cut = list(net._modules).index("conv2_1")
    assert torch.equal(net[cut:](net[:cut](IMAGES)), net(IMAGES))
    within = list(net._modules).index("conv1_3")
    with pytest.raises(
        ValueError, match=r"add1_3: its skip starts outside \(got no act1_1\); slice around whole skips"
    ):
        net[within:](net[:within](IMAGES))


def test_a_skip_brings_the_gradient_past_layers_that_block_it() -> None:
    """With weights of zero in the branch, the plain net's gradient at conv1_1 is 0 and the residual one's is not."""
    for skip, flows in (("none", False), ("identity", True)):
        net = small_net(skip=skip)
        with torch.no_grad():
            net.conv1_2.weight.zero_()
        net(IMAGES).square().sum().backward()
        assert bool((net.conv1_1.weight.grad != 0).any()) is flows
