"""What is known of each built-in data set before it is loaded: sizes, shapes, defaults, files. No torch."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Facts:
    """Examples as delivered; 0 stands for what only the user's folder shows.

    `size` is the side in pixels that the net sees, of pictures in folders the crop's; of text the tokens in a row.
    """

    train: int
    val: int
    num_classes: int
    channels: int
    size: int
    flip: bool  # whether mirrored images keep their class, so that training flips by default
    files: tuple[str, ...] = ()  # below the data folder, in torchvision's layout; none where the set is made here
    place: str | None = None  # pictures in class folders: the folder that holds train and val, where it has a name
    pictures: bool = False  # one file per image, of any size, decoded while training
    tokens: bool = False  # sequences of `size` tokens, each to be predicted from those before it


# Of the help topics of Python, which have some more in all versions.
TRAIN_CHARACTERS, VAL_CHARACTERS = 2**18, 2**15
TOKENS = 64  # in a row, unless a study says otherwise
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
    "topics": Facts(
        TRAIN_CHARACTERS // TOKENS,
        VAL_CHARACTERS // TOKENS,
        num_classes=97,
        channels=0,
        size=TOKENS,
        flip=False,
        tokens=True,
    ),
    "imagefolder": Facts(0, 0, num_classes=0, channels=3, size=224, flip=False, pictures=True),
    "imagenet": Facts(
        1_281_167, 50_000, num_classes=1000, channels=3, size=224, flip=True, place="imagenet", pictures=True
    ),
    "tiny-imagenet": Facts(
        100_000, 10_000, num_classes=200, channels=3, size=56, flip=True, place="tiny-imagenet-200", pictures=True
    ),
}
FOLDER_OPTIONS = "--data-dir or INITLAB_DATA"
SET_FOLDER = "give --data-dir DIR or set INITLAB_DATA=DIR"


def is_pictures(name: str) -> bool:
    """Whether a data set is pictures in class folders, of any size; the user's code is not."""
    return name in FACTS and FACTS[name].pictures


def absence(name: str, folder: Path | None, downloads: bool = True) -> str | None:
    """The error of a data set whose files are not in `folder`, else None; `downloads`: they can be fetched."""
    facts, layout = FACTS[name], "train/CLASS/*.jpg and val/CLASS/*.jpg"
    if folder is None:
        if facts.pictures:
            return f"data.name: {name} needs a folder with {layout} (got none); {SET_FOLDER}"
        fetch = ", and add --set data.download=true to fetch the files into it" * downloads
        return f"data.name: {name} needs a folder (got none); {SET_FOLDER}{fetch}" if facts.files else None
    if facts.pictures:
        parts = [part for part in ("train", "val") if not (picture_root(name, folder) / part).is_dir()]
        expected, fix = f"the folders {', '.join(parts)}", f"point {FOLDER_OPTIONS} at a folder with {layout}"
    else:
        parts = [file for file in facts.files if not (folder / file).exists()]
        fetch = ", or add --set data.download=true" * downloads
        expected, fix = ", ".join(parts), f"put the files there, or point {FOLDER_OPTIONS} at their folder{fetch}"
    return f"data.name: {name} is not in {folder} (wanted {expected}); {fix}" if parts else None


def picture_root(name: str, folder: Path) -> Path:
    """The folder with train and val: the data folder itself, or the one in it that has the set's name."""
    place = FACTS[name].place
    return folder / place if place and (folder / place).is_dir() else folder
