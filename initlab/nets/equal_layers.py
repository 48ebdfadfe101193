"""Nets of equal layers, of any depth: perceptrons for numbers, transformer decoders and LSTMs for sequences of tokens.

A decoder's block is causal self-attention and two linear layers, four times as wide in between, each on a residual
branch: x + factor * branch(x). Its norm is LayerNorm after each sum (`post`: Vaswani et al. 2017), or at the start of
each branch and before the head (`pre`: GPT-2; Xiong et al. 2020), or nowhere (`none`: T-Fixup, Huang et al. 2020).
Tokens and positions are embedded and added; the head shares no weight.
"""

import math

from initlab.nets.architecture import (
    LSTM,
    ActivationName,
    Add,
    Attention,
    Dropout,
    Embedding,
    Flatten,
    InputShape,
    Layer,
    LayerNorm,
    Linear,
    NetChoices,
    Norm,
    Positions,
)

# Width of the inner linear layer of a decoder's block, in widths of the net.
EXPANSION = 4


def mlp(num_classes: int, input_shape: InputShape, choices: NetChoices) -> list[Layer]:
    """A perceptron of `depth` linear layers, all but the last of `width` units with an activation behind them."""
    choices.check("mlp")
    layers: list[Layer] = [Flatten("flatten")]
    features = math.prod(input_shape)
    for number in range(1, choices.depth):
        layers += [
            Linear(f"fc{number}", features, choices.width),
            choices.activation_layer(f"act{number}", choices.width),
        ]
        if choices.dropout:
            layers.append(Dropout(f"dropout{number}", choices.dropout))
        features = choices.width
    return [*layers, Linear(f"fc{choices.depth}", features, num_classes)]


def transformer(num_classes: int, input_shape: InputShape, choices: NetChoices) -> list[Layer]:
    """A causal decoder of `depth` blocks for sequences of at most `positions` tokens out of `num_classes`.

    Args:
        input_shape: (positions,).

    Raises:
        ValueError: an input that is no sequence, or choices that do not fit: see `decoder_problem`.
    """
    choices.check("transformer")
    width = choices.width
    misfit = decoder_problem(width, choices.heads, choices.norm, choices.activation)
    if problem := sequence_problem(input_shape) or misfit:
        raise ValueError(f"transformer: {': '.join(problem)}")
    layers: list[Layer] = [Embedding("tokens", num_classes, width), Positions("positions", input_shape[0], width)]
    for number in range(1, choices.depth + 1):
        layers += with_skip(
            f"attention{number}", [Attention(f"attention{number}", width, choices.heads)], layers, choices
        )
        inner: list[Layer] = [
            Linear(f"up{number}", width, EXPANSION * width),
            choices.activation_layer(f"act{number}", EXPANSION * width),
            Linear(f"down{number}", EXPANSION * width, width),
        ]
        layers += with_skip(f"mlp{number}", inner, layers, choices)
    norm: list[Layer] = [LayerNorm("norm", width)] if choices.norm == "pre" else []
    return [*layers, *norm, Linear("head", width, num_classes)]


def with_skip(name: str, branch: list[Layer], before: list[Layer], choices: NetChoices) -> list[Layer]:
    """A residual branch on what the layers before give: its norm, its dropout at the end and its sum with the skip."""
    norm: list[Layer] = [LayerNorm(f"norm_{name}", choices.width)]
    dropout: list[Layer] = [Dropout(f"dropout_{name}", choices.dropout)] if choices.dropout else []
    total = Add(f"add_{name}", before[-1].name, choices.branch_factor)
    layers = [*branch, *dropout, total]
    return [*norm, *layers] if choices.norm == "pre" else [*layers, *norm] if choices.norm == "post" else layers


def lstm(num_classes: int, input_shape: InputShape, choices: NetChoices) -> list[Layer]:
    """`depth` LSTM layers of `width` units (Hochreiter and Schmidhuber 1997) between an embedding and a linear head.

    Raises:
        ValueError: an input that is no sequence.
    """
    if problem := sequence_problem(input_shape):
        raise ValueError(f"lstm: {': '.join(problem)}")
    width = choices.width
    embedding, head = Embedding("tokens", num_classes, width), Linear("head", width, num_classes)
    return [embedding, LSTM("lstm", width, choices.depth), head]


def sequence_problem(input_shape: InputShape) -> tuple[str, str] | None:
    """(what, explanation) of an input that is no sequence of tokens, or None."""
    if len(input_shape) == 1:
        return None
    got = "x".join(map(str, input_shape))
    return "input", f"no sequence of tokens (got {got}); allowed: one dimension, the positions, as of topics"


def decoder_problem(width: int, heads: int, norm: Norm, activation: ActivationName) -> tuple[str, str] | None:
    """(argument, explanation) of why a decoder cannot be laid out, or None."""
    if width % heads:
        return "heads", f"do not divide the width of {width} (got {heads}); allowed: its divisors"
    if activation == "prelu":
        # torch takes the second dimension for the channels, which are the last one of a sequence.
        return "activation", "not for transformer (got 'prelu'); allowed: prelu_shared, or another"
    if norm == "batch":
        return "norm", "not for transformer (got 'batch'); allowed: none, pre, post"
    return None
