"""The pictures and labels of each built-in set, resized once; their names are in `initlab.data.facts`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from initlab.data.examples import Examples
from initlab.data.facts import FACTS, absence
from initlab.random_streams import stream_seed

# The class of each set in torchvision.datasets.
CLASSES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "fashion-mnist": "FashionMNIST"}


def load_raw(
    name: str,
    image_size: int | None = None,
    classes: int = 10,
    channels: int = 3,
    *,
    folder: Path | None = None,
    download: bool = False,
) -> Examples:
    """Load a built-in data set; `classes` and `channels` shape `synthetic` alone.

    Raises:
        FileNotFoundError: the files are absent; says which, where, and how to get them.
    """
    if name == "digits":
        return digits(image_size or FACTS["digits"].size)
    if name == "synthetic":
        return synthetic(image_size or FACTS["synthetic"].size, classes, channels)
    raw = torchvision_set(name, folder, download)
    if image_size is None:
        return raw
    train, val = (resize(images, image_size) for images in (raw.train_inputs, raw.val_inputs))
    return replace(raw, train_inputs=train, val_inputs=val)


def digits(image_size: int) -> Examples:
    """scikit-learn's 1,797 handwritten digits (8x8, 17 grey levels), split 1,437/360 by one fixed permutation."""
    # Imported here, since it takes a second and only this source needs it.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = resize(torch.from_numpy(bunch.images).float()[:, None] * (255 / 16), image_size)
    labels = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(stream_seed(0, "digits", "split")))
    train, val = order[: FACTS["digits"].train], order[FACTS["digits"].train :]
    return Examples(images[train], labels[train], images[val], labels[val], num_classes=10)


def synthetic(image_size: int, classes: int, channels: int) -> Examples:
    """Class-conditional noise: a random pattern per class plus noise of twice its std; the same on every machine."""
    generator = torch.Generator().manual_seed(stream_seed(0, "synthetic", image_size, classes, channels))
    patterns = torch.randn((classes, channels, image_size, image_size), generator=generator)
    parts: list[Tensor] = []
    for size in (FACTS["synthetic"].train, FACTS["synthetic"].val):
        labels = torch.arange(size) % classes
        noise = torch.randn((size, *patterns.shape[1:]), generator=generator)
        images = 128 + 24 * (patterns[labels] + 2 * noise)
        parts += [images.round().clamp(0, 255).to(torch.uint8), labels]
    train_images, train_labels, val_images, val_labels = parts
    return Examples(train_images, train_labels, val_images, val_labels, num_classes=classes)


def torchvision_set(name: str, folder: Path | None, download: bool) -> Examples:
    """CIFAR-10, CIFAR-100 or Fashion-MNIST from torchvision's layout in `folder`."""
    # Imported here, since it takes a second and digits do without.
    import torchvision

    absent = absence(name, folder)
    if absent and not (download and folder):
        raise FileNotFoundError(absent)
    parts: list[Tensor] = []
    for train in (True, False):
        split: Any = getattr(torchvision.datasets, CLASSES[name])(str(folder), train=train, download=download)
        images = torch.as_tensor(split.data)
        images = images[:, None] if images.dim() == 3 else images.permute(0, 3, 1, 2)
        parts += [images.contiguous(), torch.as_tensor(split.targets).long()]
    train_images, train_labels, val_images, val_labels = parts
    facts, classes = FACTS[name], tuple(split.classes)
    return Examples(train_images, train_labels, val_images, val_labels, facts.num_classes, facts.flip, classes)


def resize(images: Tensor, size: int) -> Tensor:
    """Bilinear, smoothed where it shrinks, as uint8; some thousands at a time, since they are floats in between."""
    chunks = []
    for chunk in images.split(4096):
        pixels = chunk.float()
        if images.shape[-2:] != (size, size):
            pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
        chunks.append(pixels.round().clamp(0, 255).to(torch.uint8))
    return torch.cat(chunks)
