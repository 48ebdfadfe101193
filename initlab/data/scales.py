"""Images at any scale, and the views of them that testing takes: centre, corners, mirrored.

The images of a test come from `ImageSet.val_at`.
"""

import torch.nn.functional as F
from torch import Tensor

# Shorter side of an image over the net's input, where views need room to move: 256 over 224 (He et al. 2015, sec. 3).
SCALE = 8 / 7


def resized_shape(first: int, second: int, side: int) -> tuple[int, int]:
    """Both sides after the shorter has become `side`: `resized_shape(500, 375, 256)` is (341, 256)."""
    shorter = min(first, second)
    return max(side, round(first * side / shorter)), max(side, round(second * side / shorter))


def at_side(images: Tensor, side: int) -> Tensor:
    """Images (N, C, height, width) resized so that the shorter side is `side`: bilinear, smoothed where it shrinks."""
    height, width = images.shape[2:]
    if min(height, width) == side:
        return images
    shape = resized_shape(height, width, side)
    resized = F.interpolate(images, size=shape, mode="bilinear", align_corners=False, antialias=True)
    return resized.round().clamp(0, 255)


def centre_view(images: Tensor, height: int, width: int) -> Tensor:
    """The middle (N, C, height, width); of an odd margin the larger half lies above and to the left."""
    top, left = (images.shape[2] - height + 1) // 2, (images.shape[3] - width + 1) // 2
    return images[:, :, top : top + height, left : left + width]


def ten_views(images: Tensor, height: int, width: int, flips: bool = True) -> list[Tensor]:
    """The four corners and the centre, and the same mirrored (Krizhevsky et al. 2012, sec. 4.1); 5 without flips.

    Top left, top right, bottom left, bottom right, centre: of 3 x 3 pixels numbered row by row from 0, the 2 x 2 views
    begin with 0, 1, 3 and 4, and the centre with 4: of an odd margin the larger half lies above and to the left.
    """
    bottom, right = images.shape[2] - height, images.shape[3] - width
    corners = [images[:, :, top : top + height, left : left + width] for top in (0, bottom) for left in (0, right)]
    views = [*corners, centre_view(images, height, width)]
    return [*views, *(view.flip(3) for view in views)] if flips else views


def mean_at(mean: Tensor, height: int, width: int) -> Tensor:
    """The mean image (C, H, W) stretched to another size, for images that are tested whole."""
    if mean.shape[1:] == (height, width):
        return mean
    return F.interpolate(mean[None], size=(height, width), mode="bilinear", align_corners=False)[0]
