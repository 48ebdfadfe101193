"""One launch at a time per output folder: an advisory lock that the system drops when its holder dies."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LEASE = ".lease"


class Held(RuntimeError):
    """The output folder is held by another launch."""


@contextmanager
def lease(out: Path) -> Iterator[None]:
    """Hold `out` for the length of the block.

    Raises:
        Held: another launch holds it; says which.
    """
    with open(out / LEASE, "a+") as file:
        if not locked(file):
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise Held(f"{out}: held by another launch ({holder}); wait for it, stop it, or give another --out")
        file.truncate(0)
        file.write(f"host {os.uname().nodename}, pid {os.getpid()}\n")
        file.flush()
        yield


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
    if not (out / LEASE).exists():
        return False
    with open(out / LEASE) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
