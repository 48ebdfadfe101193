"""Perceptrons, decoders and LSTMs: counts by hand, attention against torch's own, causality by perturbed tokens."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initlab import build_net, init_
from initlab.init.branches import branch_factors
from initlab.init.layers import matrices_of
from initlab.nets.architecture import NetChoices
from initlab.nets.catalog import describe_net
from initlab.nets.counts import count, output_shapes
from initlab.nets.sequence_layers import Attention, Positions

WORDS, LENGTH, WIDTH = 11, 7, 12
TOKENS = torch.randint(WORDS, (3, LENGTH), generator=torch.Generator().manual_seed(0))


def decoder(**choices: Any) -> nn.Sequential:
    """A small decoder in float64, with weights of one seed."""
    torch.manual_seed(0)
    choices = {"depth": 2, "width": WIDTH, "heads": 3} | choices
    return build_net("transformer", num_classes=WORDS, input_shape=(LENGTH,), **choices).double()


def test_attention_is_torch_multihead_attention_with_the_same_weights() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(WIDTH, 3).double(), nn.MultiheadAttention(WIDTH, 3, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([layer.weight for layer in (ours.query, ours.key, ours.value)]))
        theirs.in_proj_bias.copy_(torch.cat([layer.bias for layer in (ours.query, ours.key, ours.value)]))
        theirs.out_proj.load_state_dict(ours.output.state_dict())
    x = torch.randn(3, LENGTH, WIDTH, dtype=torch.float64)
    ahead = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    expected, _ = theirs(x, x, x, attn_mask=ahead, need_weights=False)
    torch.testing.assert_close(ours(x), expected)


@pytest.mark.parametrize("name", ["transformer", "lstm"])
def test_a_later_token_changes_nothing_before_it(name: str) -> None:
    torch.manual_seed(0)
    net = build_net(name, depth=2, width=WIDTH, num_classes=WORDS, input_shape=(LENGTH,)).double()
    changed = TOKENS.clone()
    changed[:, 4] = (changed[:, 4] + 1) % WORDS
    differs = (net(TOKENS) != net(changed)).any(2)
    assert not differs[:, :4].any()
    assert differs[:, 4:].all()


@pytest.mark.parametrize("norm", ["none", "pre", "post"])
def test_a_block_by_hand(norm: str) -> None:
    net = decoder(depth=1, norm=norm, branch_factor=0.5)
    layers = dict(net.named_children())

    def normed(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (WIDTH,), layers[name].weight, layers[name].bias)

    def branch(x: Tensor, name: str) -> Tensor:
        if name == "attention1":
            return layers["attention1"](x)
        return layers["down1"](F.relu(layers["up1"](x)))

    x = layers["tokens"].weight[TOKENS] + layers["positions"].embedding.weight[:LENGTH]
    for name in ("attention1", "mlp1"):
        if norm == "pre":
            x = x + 0.5 * branch(normed(f"norm_{name}", x), name)
        elif norm == "post":
            x = normed(f"norm_{name}", x + 0.5 * branch(x, name))
        else:
            x = x + 0.5 * branch(x, name)
    expected = layers["head"](normed("norm", x) if norm == "pre" else x)
    torch.testing.assert_close(net(TOKENS), expected)
    assert sum(isinstance(module, nn.LayerNorm) for module in net) == {"none": 0, "pre": 3, "post": 2}[norm]


def test_positions_are_added_and_limited() -> None:
    layer = Positions(4, 2)
    x = torch.randn(3, 3, 2)
    torch.testing.assert_close(layer(x) - x, layer.embedding.weight[:3].expand(3, 3, 2))
    with pytest.raises(ValueError, match=r"positions: too many \(got 5\); allowed: at most 4"):
        layer(torch.randn(1, 5, 2))


def test_counts_by_hand() -> None:
    # a block: 4 matrices d x d with biases, d x 4d and 4d x d with theirs, two norms; one norm at the end
    d, blocks = WIDTH, 3
    block = 4 * (d * d + d) + (4 * d * d + 4 * d) + (4 * d * d + d) + 4 * d
    parameters = WORDS * d + LENGTH * d + blocks * block + 2 * d + d * WORDS + WORDS
    # per position the 12 d^2 weights of a block, and d products with each of the positions, twice
    multiply_adds = LENGTH * (blocks * (12 * d * d + 2 * LENGTH * d) + d * WORDS)
    layers = describe_net("transformer", WORDS, (LENGTH,), NetChoices(depth=blocks, width=d, norm="pre"))
    counted = count(layers, (LENGTH,))
    assert (counted.parameters, counted.multiply_adds, counted.weight_layers) == (parameters, multiply_adds, 6 * 3 + 1)
    assert output_shapes(layers, (LENGTH,))[-1] == (LENGTH, WORDS)
    # an LSTM's layer: 4 gates of d x d for input and for state, each with a bias
    layers = describe_net("lstm", WORDS, (LENGTH,), NetChoices(depth=2, width=d))
    counted = count(layers, (LENGTH,))
    assert counted.parameters == WORDS * d + 2 * 4 * (2 * d * d + 2 * d) + d * WORDS + WORDS
    assert counted.multiply_adds == LENGTH * (2 * 8 * d * d + d * WORDS)
    layers = describe_net("mlp", 10, (1, 4, 5), NetChoices(depth=3, width=6, activation="gelu"))
    counted = count(layers, (1, 4, 5))
    assert (counted.parameters, counted.multiply_adds) == (21 * 6 + 7 * 6 + 7 * 10, 20 * 6 + 6 * 6 + 6 * 10)


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("transformer", {"norm": "none"}),
        ("transformer", {"norm": "pre", "dropout": 0.1, "activation": "prelu_shared"}),
        ("transformer", {"norm": "post"}),
        ("lstm", {}),
    ],
)
def test_the_module_has_the_parameters_that_its_description_counts(name: str, choices: dict[str, Any]) -> None:
    net = build_net(name, depth=3, width=WIDTH, num_classes=WORDS, input_shape=(LENGTH,), **choices)
    layers = describe_net(name, WORDS, (LENGTH,), NetChoices(depth=3, width=WIDTH, **choices))
    assert sum(parameter.numel() for parameter in net.parameters()) == count(layers, (LENGTH,)).parameters
    assert net.eval()(TOKENS).shape == (3, LENGTH, WORDS)


@pytest.mark.parametrize(("activation", "kind"), [("gelu", nn.GELU), ("tanh", nn.Tanh)])
def test_an_mlp_has_the_activation_behind_all_layers_but_the_last(activation: Any, kind: type[nn.Module]) -> None:
    net = build_net("mlp", depth=3, width=6, input_shape=(1, 4, 5), activation=activation)
    assert [type(module) for module in net] == [nn.Flatten, nn.Linear, kind, nn.Linear, kind, nn.Linear]
    assert net(torch.randn(2, 1, 4, 5)).shape == (2, 10)


@pytest.mark.parametrize("norm", ["none", "pre"])
def test_branches_of_a_decoder_are_found_as_gpt_2_scales_them(norm: str) -> None:
    net = decoder(depth=3, norm=norm)
    factors = branch_factors(net, TOKENS, matrices_of(net), "scaled").weights
    ends = {f"{name}{block}{end}" for block in (1, 2, 3) for name, end in (("attention", ".output"), ("down", ""))}
    assert {name for name, factor in factors.items() if factor != 1} == ends
    assert all(factors[name] == pytest.approx(1 / math.sqrt(2 * 3)) for name in ends)


def test_gpt_2_init_of_a_decoder() -> None:
    net = decoder(width=48, norm="pre")
    init_(net, "gaussian", std=0.02, embedding_std=0.02, branches="scaled", batch=TOKENS)
    stds = {name: parameter.std().item() for name, parameter in net.named_parameters() if parameter.dim() == 2}
    for name, std in stds.items():
        expected = 0.02 / (2 if "output" in name or "down" in name else 1)
        count = net.get_parameter(name).numel()
        assert std == pytest.approx(expected, rel=5 / math.sqrt(2 * count)), name


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("transformer", {"heads": 5}, r"transformer: heads: do not divide the width of 16 \(got 5\)"),
        ("transformer", {"norm": "batch"}, r"norm: not for transformer \(got 'batch'\); allowed: none, pre"),
        ("transformer", {"activation": "prelu"}, r"transformer: activation: not for transformer \(got 'prelu'\)"),
        ("transformer", {"input_shape": (1, 8, 8)}, r"transformer: input: no sequence of tokens \(got 1x8x8\)"),
        ("lstm", {"input_shape": (1, 8, 8)}, r"lstm: input: no sequence of tokens"),
        ("lstm", {"norm": "pre"}, r"build_net: lstm has no norm to choose \(got pre\); allowed: depth, width"),
        ("mlp", {"activation": "swish"}, r"mlp: unknown activation \(got 'swish'\); allowed: relu, .*gelu, tanh"),
        ("plain", {"norm": "pre", "input_shape": (1, 8, 8)}, r"unknown norm \(got 'pre'\); allowed: none, batch"),
    ],
)  # fmt: skip
def test_what_cannot_be_laid_out_is_refused(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_net(name, **{"input_shape": (8,), **arguments})
