"""Statistics of a training set of pictures: mean image, spread, principal components of colour.

They are taken from the centre view of every training picture at validation scale: a random crop has no fixed
position in the picture, so the mean image is that of the squares which validation sees.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from initlab.data.pictures import Pictures, one_pass
from initlab.data.views import Views, centre_view


@dataclass(frozen=True)
class Statistics:
    """Of training pixels in grey levels, 0 to 255, in float64."""

    mean: Tensor  # (3, crop, crop)
    std: float  # around the mean image, over all pixels and channels
    components: Tensor  # (3, 3): column i is the i-th principal component of RGB times its eigenvalue


@dataclass(frozen=True)
class CentreViews:
    """The centre view of each picture, cut where the picture is read: in the worker process."""

    pictures: Pictures
    views: Views

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        return centre_view(self.pictures[index], self.views.val_side, self.views.crop)


def measure(train: CentreViews, workers: int, say: Callable[[str], None]) -> Statistics:
    """Statistics of all training pictures, on the CPU; those that cannot be read are named in an error."""
    crop = train.views.crop
    return statistics_of(values.view(-1, 3, crop, crop) for _, values in one_pass(train, workers, "measured", say))


def statistics_of(batches: Iterable[Tensor]) -> Statistics:
    """Statistics of all images in batches (B, 3, crop, crop) uint8, summed where they lie.

    Up to two million images of 224 pixels every sum is a whole number below 2^53, so that neither the size of the
    batches nor the device changes a bit of it.
    """
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    for batch in batches:
        images = batch.double()
        flat = images.flatten(2)  # (B, 3, pixels)
        count += len(images)
        total = total.to(images) + images.sum(0)  # (3, crop, crop)
        # Of x x^T over all pixels, x = (R, G, B): a product per image, as one long sum uses little of a GPU.
        products = products.to(images) + (flat @ flat.mT).sum(0)
    total, products = total.cpu(), products.cpu()
    mean, pixels = total / count, count * total[0].numel()
    squares = products.diagonal().sum().item() - count * (mean**2).sum().item()
    center = total.sum((1, 2)) / pixels
    covariance = products / pixels - center[:, None] * center
    return Statistics(mean, (max(squares, 0.0) / (3 * pixels)) ** 0.5, color_components(covariance))


def color_components(covariance: Tensor) -> Tensor:
    """Principal components of an RGB covariance (3, 3), largest first, in columns, each times its eigenvalue.

    Both are in grey levels. AlexNet's paper gives no unit, and p * eigenvalue depends on it: as usual, the eigenvalue
    is that of pixels in [0, 1], about 0.2 for the first, so a coefficient of 0.1 moves grey pixels by about
    255 * 0.1 * 0.2 / sqrt(3) = 3 levels. A component's sign means nothing; its largest entry is made positive, so
    that all machines agree.
    """
    values, vectors = torch.linalg.eigh(covariance / 255**2)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    components: Tensor = vectors * largest.sign() * values.clamp(min=0) * 255
    return components.flip(1)
