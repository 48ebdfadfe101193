"""What is known of each built-in data set before it is loaded: sizes, shapes, defaults, files. No torch."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Facts:
    """Images as delivered: `size` is the side in pixels."""

    train: int
    val: int
    num_classes: int
    channels: int
    size: int
    flip: bool  # whether mirrored images keep their class, so that training flips by default
    files: tuple[str, ...] = ()  # below the data folder, in torchvision's layout; none where the set is made here


CIFAR10_FILES = tuple(f"cifar-10-batches-py/{n}" for n in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"))
CIFAR100_FILES = ("cifar-100-python/train", "cifar-100-python/test")
FASHION_FILES = tuple(
    f"FashionMNIST/raw/{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)
FACTS = {
    "digits": Facts(1437, 360, num_classes=10, channels=1, size=8, flip=False),
    "cifar10": Facts(50_000, 10_000, num_classes=10, channels=3, size=32, flip=True, files=CIFAR10_FILES),
    "cifar100": Facts(50_000, 10_000, num_classes=100, channels=3, size=32, flip=True, files=CIFAR100_FILES),
    "fashion-mnist": Facts(60_000, 10_000, num_classes=10, channels=1, size=28, flip=True, files=FASHION_FILES),
    "synthetic": Facts(2048, 512, num_classes=10, channels=3, size=32, flip=False),
}


def absence(name: str, folder: Path | None) -> str | None:
    """What to say where a data set's files are not in `folder`, or None where all are."""
    files = FACTS[name].files
    if files and folder is None:
        return (
            f"data.name: {name} needs a folder (got none); give --data-dir DIR or set INITLAB_DATA=DIR, "
            "and add --set data.download=true to fetch the files into it"
        )
    absent = [file for file in files if folder and not (folder / file).exists()]
    if absent:
        return (
            f"data.name: {name} is not in {folder} (wanted {', '.join(absent)}); put the files there, point --data-dir "
            "or INITLAB_DATA at their folder, or add --set data.download=true"
        )
    return None
