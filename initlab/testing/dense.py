"""Dense testing: convolutions once over the whole image, the linear layers on every window of the last map.

The linear layers so become convolutions (He et al. 2015, sec. 3; Sermanet et al. 2014); with pyramid pooling in
between, each window is pooled first, as SPP-net does. A window has the side that the last map of a training image has.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from initlab.errors import UserError
from initlab.nets.layers import SkipSequential, SpatialPyramidPool
from initlab.nets.undisturbed import in_eval_mode

Scores = Literal["softmax", "logits"]
HEAD = (nn.Flatten, nn.Linear, SpatialPyramidPool, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)
# Values of windows that go through the linear layers at once: 64 MB in float32.
CHUNK = 2**24


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
    With zero padding the two differ: a crop has zeros around it where a window has its neighbours in the image. At the
    net's own input size there is one window, and the result is that of `net(images)` whatever the padding.

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
    check_choice("scores", scores, get_args(Scores))
    sides = (input_size, input_size) if isinstance(input_size, int) else input_size
    if images.dim() != 4 or not images.is_floating_point():
        shape, allowed = tuple(images.shape), "floating point (N, channels, height, width)"
        raise UserError(f"dense_scores: images: not a batch (got {images.dtype} {shape}); allowed: {allowed}")
    if images.shape[2] < sides[0] or images.shape[3] < sides[1]:
        raise UserError(
            f"dense_scores: images smaller than input_size (got {images.shape[2]}x{images.shape[3]} for "
            f"{sides[0]}x{sides[1]}); enlarge them, or give the input_size that the net was trained with"
        )
    maps, head = split(net)
    with in_eval_mode(net):
        window = window_size(maps, head, images[:1, :, : sides[0], : sides[1]])
        views = [images, images.flip(3)] if flips else [images]
        total = torch.stack([window_scores(head, maps(view), window, scores) for view in views])
    return total.mean(0).to(images.dtype)


def check_choice(option: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a value of an option that is none of those allowed."""
    if value not in allowed:
        raise UserError(f"{option}: unknown (got {value!r}); allowed: {', '.join(allowed)}")


def as_scores(logits: Tensor, scores: Scores) -> Tensor:
    """(N, classes) in float64, ready to be averaged."""
    return logits.double().softmax(1) if scores == "softmax" else logits.double()


def split(net: nn.Module) -> tuple[nn.Sequential, nn.Sequential]:
    """The part that makes maps, and the part from flatten, pooling to a fixed size or the first linear layer on."""
    if not isinstance(net, nn.Sequential) or type(net).forward not in (nn.Sequential.forward, SkipSequential.forward):
        allowed = "layers in a row, as initlab.build_net gives them"
        raise UserError(f"dense_scores: net: not a Sequential (got {type(net).__name__}); allowed: {allowed}")
    skips = isinstance(net, SkipSequential)
    # Skips go by the names of the layers.
    layers = list(net._modules.items()) if skips else [(str(i), layer) for i, layer in enumerate(opened(net))]
    if not any(isinstance(module, nn.Linear) for module in net.modules()):
        raise UserError(
            f"dense_scores: net: no linear layer (got {len(layers)} layers without); "
            "a net without any already gives a map of scores: average net(images) over its positions"
        )
    at = next(i for i, (_, layer) in enumerate(layers) if any(isinstance(m, HEAD) for m in layer.modules()))
    # Not a slice of the net: that calls the constructor of its class, which may take other arguments.
    row = SkipSequential if skips else nn.Sequential
    return row(OrderedDict(layers[:at])), row(OrderedDict(layers[at:]))


def opened(net: nn.Sequential) -> Iterator[nn.Module]:
    """The layers of a row, with those of rows inside it in their place."""
    for child in net:
        if isinstance(child, nn.Sequential) and type(child).forward is nn.Sequential.forward:
            yield from opened(child)
        else:
            yield child


def window_size(maps: nn.Sequential, head: nn.Sequential, image: Tensor) -> tuple[int, int]:
    """Height and width of the last map of one image of the input size, which must go through the whole net."""
    try:
        map_NCHW = maps(image)
        logits = head(map_NCHW)
    except RuntimeError as error:
        # Torch's words for shapes that do not fit.
        reason = str(error).splitlines()[0]
        shape = tuple(image.shape[1:])
        raise UserError(f"dense_scores: input_size: not what the net was built for (got {shape}: {reason})") from None
    if logits.dim() != 2:
        raise UserError(f"dense_scores: net: no scores per image (got {tuple(logits.shape)}); allowed: (N, classes)")
    return map_NCHW.shape[2], map_NCHW.shape[3]


def window_scores(head: nn.Sequential, maps_NCHW: Tensor, window: tuple[int, int], scores: Scores) -> Tensor:
    """Mean scores (N, classes), in float64, of the linear layers over all windows of the maps; some at a time."""
    views_NCijhw = maps_NCHW.unfold(2, window[0], 1).unfold(3, window[1], 1)
    count, channels, rows, columns = views_NCijhw.shape[:4]
    places = [(i, j) for i in range(rows) for j in range(columns)]
    chunk = max(1, CHUNK // max(1, count * channels * window[0] * window[1]))
    sums = []
    for start in range(0, len(places), chunk):
        windows = [views_NCijhw[:, :, i, j] for i, j in places[start : start + chunk]]
        sums.append(as_scores(head(torch.cat(windows)), scores).unflatten(0, (len(windows), count)).sum(0))
    return torch.stack(sums).sum(0) / len(places)
