"""Dense testing: convolutions once over the whole image, the linear layers on every window of the last map.

The linear layers so become convolutions (He et al. 2015, sec. 3; Sermanet et al. 2014); with pyramid pooling in
between, each window is pooled first, as SPP-net does. A window has the side that the last map of a training image has.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from initlab.errors import UserError
from initlab.nets.layers import SkipSequential, SpatialPyramidPool

Scores = Literal["softmax", "logits"]
HEAD = (nn.Flatten, nn.Linear, SpatialPyramidPool, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)
CHUNK = 2**24  # values of windows that go through the linear layers at once: 64 MB in float32


@torch.no_grad()
def dense_scores(
    net: nn.Module,
    images: Tensor,
    input_size: int | tuple[int, int] = 224,
    flips: bool = True,
    *,
    scores: Scores = "softmax",
) -> Tensor:
    """Class scores of whole images, the mean over all windows of the last map, and over the mirrored images too.

    On a net without padding, a window is the crop of `input_size` that its position stands for: where the grids
    coincide (pooling drops no rest of a crop), the result equals the mean over all crops at the net's total stride.
    Zero padding parts them: a crop has zeros around it where a window has its neighbours in the image. At the net's
    own input size there is one window, and the result is that of `net(images)` whatever the padding.

    Args:
        net: an `nn.Sequential` of maps, then flatten or pyramid pooling, then linear layers; nested ones are opened.
            It runs in eval mode, and is left as it was.
        images: (N, channels, height, width), normalised as in training, any size from `input_size` on.
        input_size: side, or (height, width), of the images that the net was trained on.
        flips: average with the scores of the images mirrored left to right.
        scores: what is averaged: `softmax`, the probabilities, or `logits`, the last layer's output.

    Returns:
        (N, classes) in the images' floating type. Softmax scores sum to 1; a net whose logits are all equal gives
        1 / classes everywhere.

    Raises:
        UserError: not such a net, images smaller than `input_size`, or an `input_size` that the net cannot take.
    """
    check_scores(scores)
    sides = (input_size, input_size) if isinstance(input_size, int) else input_size
    if images.dim() != 4 or not images.is_floating_point():
        raise UserError(
            f"dense_scores: images: not a batch (got {images.dtype} {tuple(images.shape)}); "
            "allowed: floating point (N, channels, height, width)"
        )
    if images.shape[2] < sides[0] or images.shape[3] < sides[1]:
        raise UserError(
            f"dense_scores: images smaller than input_size (got {images.shape[2]}x{images.shape[3]} for "
            f"{sides[0]}x{sides[1]}); enlarge them, or give the input_size that the net was trained with"
        )
    maps, head = split(net)
    with evaluating(net):
        window = window_size(maps, head, images[:1, :, : sides[0], : sides[1]])
        views = [images, images.flip(3)] if flips else [images]
        total = torch.stack([window_scores(head, maps(view), window, scores) for view in views])
    return total.mean(0).to(images.dtype)


def check_scores(scores: str) -> None:
    """Refuse a kind of scores that there is not."""
    if scores not in get_args(Scores):
        raise UserError(f"scores: unknown (got {scores!r}); allowed: {', '.join(get_args(Scores))}")


def as_scores(logits: Tensor, scores: Scores) -> Tensor:
    """(N, classes) in float64, ready to be averaged."""
    return logits.double().softmax(1) if scores == "softmax" else logits.double()


def split(net: nn.Module) -> tuple[nn.Sequential, nn.Sequential]:
    """The part that makes maps, and the part from flatten, pooling to a fixed size or the first linear layer on."""
    if not isinstance(net, nn.Sequential) or type(net).forward not in (nn.Sequential.forward, SkipSequential.forward):
        raise UserError(
            f"dense_scores: net: not a Sequential (got {type(net).__name__}); "
            "allowed: layers in a row, as initlab.build_net gives them"
        )
    row = opened(net)
    at = next((place for place, module in enumerate(row) if any(isinstance(m, HEAD) for m in module.modules())), 0)
    if not any(isinstance(module, nn.Linear) for module in row.modules()):
        raise UserError(
            f"dense_scores: net: no linear layer (got {len(row)} layers without); "
            "a net without any already gives a map of scores: average net(images) over its positions"
        )
    return row[:at], row[at:]


def opened(net: nn.Sequential) -> nn.Sequential:
    """The same layers with rows inside rows opened, so that the first linear layer stands for itself."""
    if type(net) is not nn.Sequential:
        return net  # the skips of a SkipSequential go by its own names
    layers: list[nn.Module] = []
    for child in net:
        layers += opened(child) if type(child) is nn.Sequential else [child]
    return nn.Sequential(*layers)


def window_size(maps: nn.Sequential, head: nn.Sequential, image: Tensor) -> tuple[int, int]:
    """Height and width of the last map of one image of the input size, which must go through the whole net."""
    try:
        seen = maps(image)
        logits = head(seen)
    except RuntimeError as error:  # torch's words for shapes that do not fit
        reason = str(error).splitlines()[0]
        raise UserError(
            f"dense_scores: input_size: not what the net was built for (got {tuple(image.shape[1:])}: {reason})"
        ) from None
    if logits.dim() != 2:
        raise UserError(f"dense_scores: net: no scores per image (got {tuple(logits.shape)}); allowed: (N, classes)")
    return seen.shape[2], seen.shape[3]


def window_scores(head: nn.Sequential, maps_NCHW: Tensor, window: tuple[int, int], scores: Scores) -> Tensor:
    """Mean scores (N, classes), in float64, of the linear layers over all windows of the maps; some at a time."""
    views_NCijhw = maps_NCHW.unfold(2, window[0], 1).unfold(3, window[1], 1)
    count, channels, rows, columns = views_NCijhw.shape[:4]
    places = [(i, j) for i in range(rows) for j in range(columns)]
    at_once = max(1, CHUNK // max(1, count * channels * window[0] * window[1]))
    total: Tensor | float = 0.0
    for start in range(0, len(places), at_once):
        chunk = places[start : start + at_once]
        windows = torch.cat([views_NCijhw[:, :, i, j] for i, j in chunk])
        total = total + as_scores(head(windows), scores).unflatten(0, (len(chunk), count)).sum(0)
    return torch.as_tensor(total) / len(places)


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Eval mode, and afterwards each module's own mode again."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
