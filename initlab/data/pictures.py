"""Pictures: image files decoded to uint8 tensors, one by one or by worker processes, in batches of mixed sizes."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from initlab.data.scales import resized_shape
from initlab.errors import UserError
from initlab.to_device import to_device

# Pillow's modes of at most 8 bits a channel, and what it raises on bad files.
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
# A single pixel is a placeholder, not a picture; a longer strip would not fit into memory when it is enlarged.
LEAST_SIDE, MOST_ASPECT = 2, 32
# Pictures read at once in a pass over all, and seconds from one line on its progress to the next.
BATCH, INTERVAL_S = 64, 10.0
# Named in one message; a set with more is not looked at any further.
MOST_PROBLEMS = 10

Sizes = list[tuple[int, int]]  # height, width
# Indices, the size of each, the pixels of all in a row, problems.
Packed = tuple[list[int], Sizes, Tensor, list[str]]


class Pictures(Protocol):
    """Any sequence of uint8 images (3, height, width) of mixed sizes; reading one may raise UserError."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Tensor: ...


@dataclass(frozen=True)
class Files:
    """Pictures decoded from their files at every access, the shorter side resized to `side` if that is a number."""

    root: Path
    files: Sequence[str]
    side: int | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return decode(self.root / self.files[index], self.side)


def decode(path: Path, side: int | None = None) -> Tensor:
    """Read an image file as uint8 (3, height, width); grey, palette and CMYK become RGB, transparency is dropped.

    The shorter side is resized to `side` (bilinear, smoothed where it shrinks); None leaves it as it is.

    Raises:
        UserError: a file that is no whole picture, has more than 8 bits a channel, or is too thin.
    """
    try:
        with Image.open(path) as file:
            file.load()
            # Converted wrongly otherwise, or of no use.
            if file.mode not in MODES:
                form = f"more than 8 bits a channel (got Pillow's mode {file.mode})"
                raise UserError(f"{path}: {form}; convert the file to 8 bits")
            width, height = file.size
            if min(file.size) < LEAST_SIDE or max(file.size) > MOST_ASPECT * min(file.size):
                raise UserError(
                    f"{path}: too thin for a picture (got {width} x {height} pixels); allowed: sides of at least "
                    f"{LEAST_SIDE}, the longer at most {MOST_ASPECT} times the shorter; replace or remove the file"
                )
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


def read_batch(pictures: Pictures, indices: list[int]) -> Packed:
    """A batch as one tensor, which crosses to another process and to the device in one piece; errors as one line."""
    readable, problems = list[tuple[int, Tensor]](), list[str]()
    for index in indices:
        try:
            readable.append((index, pictures[index]))
        except UserError as error:
            problems.append(str(error))
    sizes = [(picture.shape[1], picture.shape[2]) for _, picture in readable]
    pixels = torch.cat([torch.empty(0, dtype=torch.uint8), *(picture.flatten() for _, picture in readable)])
    return [index for index, _ in readable], sizes, pixels, problems


def unpacked(batch: Packed, device: torch.device) -> tuple[list[int], list[Tensor]]:
    """The batch's pictures on a device; refuses it where some could not be read, naming the first."""
    indices, sizes, pixels, problems = batch
    if problems:
        raise UserError(problems[0])
    parts = to_device(pixels, device).split([3 * height * width for height, width in sizes])
    return indices, [part.view(3, *size) for part, size in zip(parts, sizes, strict=True)]


def read(pictures: Pictures, batches: Iterable[list[int]], workers: int, device: torch.device) -> Iterator[Packed]:
    """Batches of pictures in the order of `batches`, read ahead by `workers` processes; 0 reads in this one."""
    loader: DataLoader[Packed] = DataLoader(
        # The collation reads, and so makes one tensor where the pictures are decoded; any sequence of indices will do.
        range(len(pictures)),  # type: ignore[arg-type]
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=partial(read_batch, pictures),
        worker_init_fn=ignore_signals,
        pin_memory=device.type == "cuda" and workers > 0,
        # The loader's own draw must not move torch's global generator.
        generator=torch.Generator(),
    )
    return iter(loader)


def ignore_signals(worker: int) -> None:
    """In a worker process: the trial decides when to stop, whatever all processes of a job are sent."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def one_pass(pictures: Pictures, workers: int, verb: str, say: Callable[[str], None]) -> Iterator[tuple[Sizes, Tensor]]:
    """Every picture once, in batches: (height, width) of each, and the pixels of all in a row, on the CPU.

    Every ten seconds `say` gets a line; `verb` is what is done with the pictures: `measured`. Those that cannot be read
    are refused when the pass is over, or has met ten of them.
    """
    done, problems = 0, list[str]()
    start = last_line = time.monotonic()
    batches = read(pictures, BatchSampler(range(len(pictures)), BATCH, drop_last=False), workers, torch.device("cpu"))
    for _, sizes, pixels, batch_problems in batches:
        problems += batch_problems
        if len(problems) >= MOST_PROBLEMS:
            break
        yield sizes, pixels
        done += len(sizes)
        now = time.monotonic()
        if now - last_line >= INTERVAL_S:
            last_line, rate = now, done / (now - start)
            remaining_s = (len(pictures) - done) / rate if rate else 0
            say(f"{verb} {done:,} of {len(pictures):,} pictures, {rate:,.0f}/s, {remaining_s:,.0f} s left")
    if problems:
        more = f" (and {len(problems) - 1} more files: {'; '.join(problems[1:MOST_PROBLEMS])})" if problems[1:] else ""
        raise UserError(f"data: {problems[0]}{more}")
