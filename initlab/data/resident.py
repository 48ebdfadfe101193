"""Pictures of one size, decoded once and kept on the device as uint8: a batch is one gather of windows.

For sets that a study brings to one size, as Tiny ImageNet's 64 x 64 pixels at a side of 256: decoding, and a resize of
its own for every picture, would take longer than the steps of a fast net.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from math import prod

import torch
from torch import Tensor

from initlab.data.pictures import Pictures, Sizes, one_pass
from initlab.data.scales import centre_view
from initlab.data.views import Draws, Views, at_shorter_side

# Of a GPU's free memory, what pictures may take: the net, its maps and its checkpoint need room too.
MOST_OF_FREE = 0.5


@dataclass(frozen=True)
class Resident:
    """Both parts of a set on a device."""

    train: Tensor  # (N, 3, height, width) uint8, whole
    val: Tensor  # (M, 3, crop, crop) uint8, the centre views


class Unfit(Exception):
    """Pictures that are not kept on the device, with the reason in words."""


# The set of this process's last trial, under its key: one, since two may not fit.
LAST: dict[str, Resident] = {}


def resident(
    train: Pictures,
    val: Pictures,
    key: str,
    views: Views,
    workers: int,
    device: torch.device,
    say: Callable[[str], None],
) -> Resident:
    """Both parts on the device, decoded by `workers` processes; those that were last asked for under `key` are reused.

    Raises:
        Unfit: pictures of several sizes, or too many for the device.
        UserError: pictures that cannot be read.
    """
    low, high = views.jitter
    if not low == high == views.val_side:
        raise Unfit(f"their shorter side varies (data.jitter [{low}, {high}], data.val_side {views.val_side})")
    if key not in LAST:
        LAST.clear()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        whole = on_device(train, lambda images: at_shorter_side(images, low), workers, device, say)
        centres = on_device(
            val, lambda images: centre_view(at_shorter_side(images, low), views.crop, views.crop), workers, device, say
        )
        LAST[key] = Resident(whole, centres)
    return LAST[key]


def on_device(
    pictures: Pictures, make: Callable[[Tensor], Tensor], workers: int, device: torch.device, say: Callable[[str], None]
) -> Tensor:
    """What `make` gives for each picture, (N, 3, height, width) uint8; it takes pictures (B, 3, ...) of one size."""
    images, done = torch.empty(0), 0
    for sizes, pixels in one_pass(pictures, workers, "decoded", say):
        for batch in stacks(sizes, pixels.to(device)):
            views = make(batch)
            if not done:
                shape = (len(pictures), *views.shape[1:])
                check_room(prod(shape), device)
                images = torch.empty(shape, dtype=torch.uint8, device=device)
            if views.shape[1:] != images.shape[1:]:
                one, other = (f"{shape[2]} x {shape[1]}" for shape in (images.shape[1:], views.shape[1:]))
                raise Unfit(f"they are not of one shape (got {one} and {other} pixels)")
            images[done : done + len(views)] = views
            done += len(views)
    return images


def stacks(sizes: Sizes, pixels: Tensor) -> Iterator[Tensor]:
    """Pictures whose pixels are in a row, in the same order: neighbours of one size as one (B, 3, height, width)."""
    start = 0
    for (height, width), neighbours in groupby(sizes):
        count = len(list(neighbours))
        length = 3 * height * width * count
        yield pixels[start : start + length].view(count, 3, height, width)
        start += length


def check_room(size: int, device: torch.device) -> None:
    """Refuse so many bytes on a GPU that has too little memory free; on a CPU they are asked for."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if size > MOST_OF_FREE * free:
            raise Unfit(f"they take {size / 1e9:.1f} GB (at most half of the {free / 1e9:.1f} GB that are free)")


def places(images: Tensor, indices: Tensor, draws: Draws, crop: int) -> Tensor:
    """Where the squares of a batch lie, on the CPU: rows of index, top, left and mirrored, (4, B) int64."""
    margins = torch.tensor(images.shape[2:]) - crop + 1
    top_left = (draws.offsets * margins).long()
    return torch.stack([indices, *top_left.unbind(1), draws.mirrored.long()])


def windows(images: Tensor, places: Tensor, crop: int) -> Tensor:
    """The squares (B, 3, crop, crop) of images (N, 3, height, width) at `places` on their device: one gather."""
    indices, tops, lefts, mirrored = places[:, :, None]
    span, channels = torch.arange(crop, device=images.device), torch.arange(3, device=images.device)
    rows, columns = tops + span, lefts + torch.where(mirrored == 1, span.flip(0), span)
    return images[indices[:, :, None, None], channels[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]
