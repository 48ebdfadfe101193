"""Pictures: image files decoded to uint8 tensors, one by one or by worker processes, in batches of mixed sizes."""

import signal
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from initlab.errors import UserError
from initlab.to_device import sent

# Pillow's modes of at most 8 bits a channel, and what it raises on bad files.
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
# A single pixel is a placeholder, not a picture; a longer strip would not fit into memory when it is enlarged.
LEAST_SIDE, MOST_ASPECT = 2, 32

# Indices, and (3, height, width) uint8 each.
Batch = tuple[list[int], list[Tensor]]
# Indices, (height, width) of each, the pixels of all in a row, problems.
Packed = tuple[list[int], list[tuple[int, int]], Tensor, list[str]]


class Pictures(Protocol):
    """Any sequence of uint8 images (3, height, width) of mixed sizes; reading one may raise UserError."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Tensor: ...


class Files:
    """Pictures decoded from their files at every access, the shorter side resized to `side` if that is a number."""

    def __init__(self, root: Path, files: Sequence[str], side: int | None = None) -> None:
        self.root, self.files, self.side = root, files, side

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return decode(self.root / self.files[index], self.side)


def decode(path: Path, side: int | None = None) -> Tensor:
    """Read an image file as uint8 (3, height, width); grey, palette and CMYK become RGB, transparency is dropped.

    Args:
        side: length that the shorter side is resized to (bilinear, smoothed where it shrinks); None = as it is.

    Raises:
        UserError: a file that is no whole picture, has more than 8 bits a channel, or is too thin.
    """
    try:
        with Image.open(path) as file:
            file.load()
            check_form(path, file)
            image = file.convert("RGB")
    except UserError:
        raise
    except BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: not a readable picture (got {reason}); replace or remove the file") from None
    if side is not None and min(image.size) != side:
        image = image.resize(resized_shape(image.width, image.height, side), Image.Resampling.BILINEAR)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1).contiguous()


def check_form(path: Path, image: Image.Image) -> None:
    """Refuse pictures that would be converted wrongly or cannot be used."""
    if image.mode not in MODES:
        raise UserError(
            f"{path}: more than 8 bits a channel (got Pillow's mode {image.mode}); convert the file to 8 bits"
        )
    shorter, longer = sorted(image.size)
    if shorter < LEAST_SIDE or longer > MOST_ASPECT * shorter:
        raise UserError(
            f"{path}: too thin for a picture (got {image.width} x {image.height} pixels); allowed: sides of at least "
            f"{LEAST_SIDE}, the longer at most {MOST_ASPECT} times the shorter; replace or remove the file"
        )


def resized_shape(first: int, second: int, side: int) -> tuple[int, int]:
    """Both sides after the shorter has become `side`: `resized_shape(500, 375, 256)` is (341, 256)."""
    shorter = min(first, second)
    return max(side, round(first * side / shorter)), max(side, round(second * side / shorter))


class Reading(Dataset[tuple[int, Tensor | str]]):
    """Pictures as (index, picture), or (index, what is wrong with it): an error must cross processes as one line."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        try:
            return index, self.pictures[index]
        except UserError as error:
            return index, str(error)


def packed(items: Sequence[tuple[int, Tensor | str]]) -> Packed:
    """A batch as one tensor, which crosses to another process and to the device in one piece."""
    good = [(index, item) for index, item in items if isinstance(item, Tensor)]
    sizes = [(picture.shape[1], picture.shape[2]) for _, picture in good]
    pixels = torch.cat([picture.flatten() for _, picture in good]) if good else torch.empty(0, dtype=torch.uint8)
    return [index for index, _ in good], sizes, pixels, [item for _, item in items if isinstance(item, str)]


def unpacked(batch: Packed, device: torch.device) -> Batch:
    """The batch's pictures on a device.

    Raises:
        UserError: some of them could not be read; names the first.
    """
    indices, sizes, pixels, problems = batch
    if problems:
        raise UserError(problems[0])
    parts = sent(pixels, device).split([3 * height * width for height, width in sizes])
    return indices, [part.view(3, *size) for part, size in zip(parts, sizes, strict=True)]


def read(pictures: Pictures, batches: Iterable[list[int]], workers: int, device: torch.device) -> Iterator[Packed]:
    """Batches of pictures in the order of `batches`, read ahead by `workers` processes; 0 reads in this one."""
    loader = DataLoader(
        Reading(pictures),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=packed,
        worker_init_fn=ignore_ctrl_c,
        pin_memory=device.type == "cuda" and workers > 0,
        # The loader's own draw must not move torch's global generator.
        generator=torch.Generator(),
    )
    return iter(loader)


def ignore_ctrl_c(worker: int) -> None:
    """In a worker process: the trial decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def in_batches(count: int, size: int) -> Iterator[list[int]]:
    """`in_batches(5, 2)` gives [0, 1], [2, 3] and [4]."""
    return (list(range(start, min(start + size, count))) for start in range(0, count, size))
