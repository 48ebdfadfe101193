"""Small real folders of pictures for the tests: three classes, sizes and shapes of all kinds."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cat")
SIZES = ((40, 30), (24, 36), (33, 33), (61, 20), (20, 48))  # width, height


def write_picture(path: Path, size: tuple[int, int], seed: int) -> None:
    """A smooth random colour pattern."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=95)


def write_folder(root: Path, train: int = 10, val: int = 4) -> Path:
    """`train` and `val` pictures of each class in torchvision's ImageFolder layout."""
    for part, count in (("train", train), ("val", val)):
        for label, name in enumerate(CLASSES):
            for index in range(count):
                seed = 1000 * label + index + (500 if part == "val" else 0)
                write_picture(root / part / name / f"{index:03d}.jpg", SIZES[index % len(SIZES)], seed)
    return root
