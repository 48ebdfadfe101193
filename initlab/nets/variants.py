"""Variants of any described net, the answers of a year later: BatchNorm after convolutions, and identity skips.

Both leave every layer its name, so that a plain net, its normalised and its residual form have the same weights under
the same names, start from the same random numbers, and compare at equal depth.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

from initlab.nets.architecture import Add, BatchNorm, Conv, Layer, MaxPool, Norm, Skip, check_choice


def variant(layers: Sequence[Layer], *, norm: Norm = "none", skip: Skip = "none") -> list[Layer]:
    """The net with this norm and these skips; with neither, the net as it is.

    Raises:
        ValueError: an unknown norm or skip, or skips for a net that has no place for one.
    """
    check_choice("net.norm", "norm", norm, Literal["none", "batch"])
    check_choice("net.skip", "skip", skip, Skip)
    if skip == "identity":
        if problem := skip_problem(layers):
            raise ValueError(f"net.skip: {problem}")
        layers = with_skips(layers)
    return with_norms(layers) if norm == "batch" else list(layers)


def after_convs(layers: Sequence[Layer], added: Callable[[Conv, str], list[Layer]]) -> list[Layer]:
    """The layers, each convolution followed by what `added` makes of it and of its number (`2_1` of `conv2_1`)."""
    longer: list[Layer] = []
    for layer in layers:
        longer.append(layer)
        if isinstance(layer, Conv):
            longer += added(layer, layer.name.removeprefix("conv"))
    return longer


def with_norms(layers: Sequence[Layer]) -> list[Layer]:
    """BatchNorm between each convolution and what follows it (Ioffe and Szegedy 2015); linear layers stay as they are.

    The biases of the convolutions stay too, though the norm takes them out again.
    """
    return after_convs(layers, lambda conv, number: [BatchNorm(f"norm{number}", conv.out_channels)])


def with_skips(layers: Sequence[Layer]) -> list[Layer]:
    """Identity skips around pairs of convolutions, added before the second one's activation (He et al. 2016, eq. 1).

    The pairs are taken from the front: two convolutions with no pooling between them that give back as many channels,
    on as large a map, as they take. One that changes the channels or the stride, which is the first of most stages,
    stands alone without a skip, and so does one that is left over at a stage's end. So no skip has a parameter.

    `plain` of depth 30 has 12 skips: of the 9 convolutions of each stage all but the first. Without a norm each adds
    its branch's variance to the signal: under He init the variance grows two- to threefold from one pair to the next.
    """
    sources = {second: source for source, second in skipped_pairs(layers)}
    return after_convs(
        layers, lambda conv, number: [Add(f"add{number}", sources[conv.name])] if conv.name in sources else []
    )


def skip_problem(layers: Sequence[Layer]) -> str | None:
    """Why a net cannot have skips, or None; it would be a plain net that is called residual."""
    if skipped_pairs(layers):
        return None
    convs = sum(isinstance(layer, Conv) for layer in layers)
    return f"no pair to skip (got identity for {convs} convolutions); allowed: none, or more layers in a stage"


def skipped_pairs(layers: Sequence[Layer]) -> list[tuple[str, str]]:
    """(name of the layer before the pair, name of the pair's second convolution), in order."""
    pairs: list[tuple[str, str]] = []
    # A convolution that waits for its second, and the name of what precedes it.
    first: tuple[str, Conv] | None = None
    for before, layer in pairwise(layers):
        if isinstance(layer, MaxPool):
            first = None
        elif isinstance(layer, Conv) and first and gives_back(first[1], layer):
            pairs.append((first[0], layer.name))
            first = None
        elif isinstance(layer, Conv):
            first = before.name, layer
    return pairs


def gives_back(first: Conv, second: Conv) -> bool:
    """Whether two convolutions in a row give the shape that they take: 2x2 ones do with padding 1, 0 or 0, 1."""
    growth = sum(2 * conv.padding - (conv.kernel - 1) for conv in (first, second))
    return first.in_channels == second.out_channels and first.stride == second.stride == 1 and growth == 0
