"""Views of pictures: the square that the net sees, cut from a picture of any size.

Training (He et al. 2015, sec. 3): the shorter side is resized to a length drawn for each image, a random square of
it is cut and half of them are mirrored, and the colours move along the principal components of the training set's
RGB values (Krizhevsky et al. 2012, sec. 4.1). Validation and the set's statistics take the centre of the picture at
one scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from initlab.data.scales import resized_shape
from initlab.random_streams import stream_seed
from initlab.to_device import to_device


@dataclass(frozen=True)
class Views:
    """How pictures become inputs: lengths in pixels, `jitter` the range of the shorter side in training."""

    crop: int
    val_side: int
    jitter: tuple[int, int]
    flip: bool
    color_std: float


class Draws(NamedTuple):
    """The random numbers of one training batch, one row per image."""

    sides: Tensor  # (B,) shorter sides in pixels
    offsets: Tensor  # (B, 2) in [0, 1): where between top and bottom, left and right, the square lies
    mirrored: Tensor  # (B,) bool
    color: Tensor  # (B, 3) coefficients of the principal components


def draw(views: Views, count: int, seed: int, step: int) -> Draws:
    """The draws of a step, on the CPU: always of all kinds, so that none depends on whether another is used."""
    generator = torch.Generator().manual_seed(stream_seed(seed, "augment", step))
    low, high = views.jitter
    shares = torch.rand((4, count), generator=generator, dtype=torch.float64)
    normals = torch.randn((count, 3), generator=generator, dtype=torch.float64)
    return Draws(
        sides=(low + shares[0] * (high - low + 1)).long(),
        offsets=shares[1:3].T,
        mirrored=(shares[3] < 0.5) & views.flip,
        color=normals * views.color_std,
    )


def training_views(pictures: Sequence[Tensor], draws: Draws, crop: int) -> Tensor:
    """Squares (B, 3, crop, crop) uint8 of pictures (3, height, width) uint8, on the pictures' device."""
    rows = zip(pictures, draws.sides.tolist(), draws.offsets.tolist(), strict=True)
    squares = torch.stack([square(picture, side, crop, *offset) for picture, side, offset in rows])
    return torch.where(to_device(draws.mirrored, squares.device)[:, None, None, None], squares.flip(3), squares)


def centre_view(picture: Tensor, side: int, crop: int) -> Tensor:
    """The middle of a picture whose shorter side is resized to `side`: (3, crop, crop) uint8."""
    return square(picture, side, crop, 0.5, 0.5)


def square(picture: Tensor, side: int, crop: int, down: float, right: float) -> Tensor:
    """The crop x crop square at a share (in [0, 1)) of the way down and right, after the shorter side became `side`."""
    resized = at_shorter_side(picture, side)
    height, width = resized.shape[1:]
    top, left = int(down * (height - crop + 1)), int(right * (width - crop + 1))
    return resized[:, top : top + crop, left : left + crop]


def at_shorter_side(picture: Tensor, side: int) -> Tensor:
    """A picture (3, height, width) uint8, or some of one size (N, 3, height, width), its shorter side now `side`."""
    height, width = picture.shape[-2:]
    shape = resized_shape(height, width, side)
    resized: Tensor = functional.resize(picture, list(shape), antialias=True)
    return resized


def color_shift(coefficients: Tensor, components: Tensor) -> Tensor:
    """The colour (B, 3, 1, 1) that coefficients (B, 3) of `Statistics.components` add to every pixel of an image."""
    return (coefficients @ components.T)[:, :, None, None]
