"""The cache folder: statistics of picture sets, and their decoded pictures as one file of bytes.

Files are named by a key of what they hold, written aside and renamed into place, so that a half-written one is never
read. A lock lets the first of several trials do the work and the others wait for it.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from initlab.data.pictures import Pictures, Sizes, one_pass
from initlab.data.statistics import Statistics
from initlab.errors import UserError


class Decoded:
    """Pictures decoded before, read from a file of bytes that the system maps into memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as index:
            self.sizes = index["sizes"].astype(np.int64)  # (N, 2): height, width
        lengths = 3 * self.sizes.prod(axis=1)
        self.ends = lengths.cumsum()
        self.bytes = np.memmap(path, dtype=np.uint8, mode="r")
        if len(self.bytes) != self.ends[-1]:
            raise UserError(f"{path}: damaged (got {len(self.bytes)} bytes, wanted {self.ends[-1]}); remove the file")

    def __reduce__(self) -> tuple[type["Decoded"], tuple[Path]]:
        """A process that is not forked maps the file itself."""
        return Decoded, (self.path,)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Tensor:
        height, width = self.sizes[index]
        end = self.ends[index]
        return torch.from_numpy(self.bytes[end - 3 * height * width : end].reshape(3, height, width).copy())


def decoded(pictures: Pictures, folder: Path, key: str, workers: int, say: Callable[[str], None]) -> Decoded:
    """The pictures from the cache, decoded into it at their first use; a second use reads no image file."""
    path = folder / f"pictures-{key}.u8"
    with locked(path):
        # The sizes are written last, so they tell that the pixels are complete.
        if not path.with_suffix(".npz").exists():
            sizes: Sizes = []
            with atomic(path) as file:
                for batch_sizes, pixels in one_pass(pictures, workers, "cached", say):
                    file.write(pixels.numpy().data)
                    sizes += batch_sizes
            with atomic(path.with_suffix(".npz")) as file:
                np.savez(file, sizes=np.array(sizes, dtype=np.int32))
    return Decoded(path)


def cached_statistics(folder: Path, key: str, make: Callable[[], Statistics]) -> Statistics:
    """The statistics under a key, made at their first use."""
    path = folder / f"statistics-{key}.npz"
    with locked(path):
        if not path.exists():
            new = make()
            with atomic(path) as file:
                np.savez(file, mean=new.mean.numpy(), std=new.std, components=new.components.numpy())
    with np.load(path, allow_pickle=False) as saved:
        return Statistics(torch.from_numpy(saved["mean"]), float(saved["std"]), torch.from_numpy(saved["components"]))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that belongs to a cache file; the system lets it go when the process ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_suffix(".lock"), "w")  # noqa: SIM115
    except OSError as error:
        raise UserError(
            f"{path.parent}: not a folder to cache in (got {error.strerror}); "
            "set INITLAB_CACHE to one that can be written"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name only when it is complete."""
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
