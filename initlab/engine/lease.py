"""One launch at a time per output folder: an advisory lock that the system drops when its holder dies.

Shards of one study share the folder: each holds a lock of its own, beside shards of the same count alone.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from initlab.study.shard import Shard

LEASE = ".lease"


class Held(RuntimeError):
    """The output folder is held by another launch."""


@contextmanager
def lease(out: Path, shard: Shard | None = None) -> Iterator[None]:
    """Hold `out`, or a shard's part of it, for the length of the block.

    Raises:
        Held: another launch holds what this one wants; says which.
    """
    own = lease_file(out, shard)
    with open(own, "a+") as file:
        if not locked(file):
            raise held(own)
        file.truncate(0)
        file.write(f"host {os.uname().nodename}, pid {os.getpid()}\n")
        file.flush()
        # Looked for once the own lock is held, so that of two launches at once at most one goes on.
        shards_at_work(out, shard.count if shard else 0, but=own)
        yield


def shards_at_work(out: Path, count: int, but: Path | None = None) -> set[int]:
    """The numbers of those of `count` shards that run in `out` now, whose lock is not the file `but`.

    Raises:
        Held: what runs there is no such shard, and may be at work on any trial.
    """
    numbers = set()
    for path in out.glob(f"{LEASE}*"):
        number, _, others = path.name.removeprefix(f"{LEASE}-").partition("-of-")
        if path != but and is_locked(path):
            if others != str(count):
                raise held(path)
            numbers.add(int(number))
    return numbers


def lease_file(out: Path, shard: Shard | None) -> Path:
    """Where the lock of a launch lies."""
    return out / (f"{LEASE}-{shard}" if shard else LEASE)


def held(path: Path) -> Held:
    """The error that says who holds a lock."""
    holder = path.read_text().strip() or "unknown"
    shard = path.name.removeprefix(LEASE).replace("-of-", "/").replace("-", ", shard ")
    return Held(f"{path.parent}: held by another launch ({holder}{shard}); wait for it, stop it, or give another --out")


def locked(file: IO[str]) -> bool:
    """Whether the lock could be had; tried for a moment, since `is_held` takes it for an instant."""
    for _ in range(10):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.02)
    return False


def is_held(out: Path) -> bool:
    """Whether a launch runs in `out` now."""
    return any(is_locked(path) for path in out.glob(f"{LEASE}*"))


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of this file now."""
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
