"""One launch at a time per output folder: an advisory lock that the system drops when its holder dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise Held(
                f"{out}: held by another launch ({holder}); wait for it, stop it, or give another --out"
            ) from None
        file.truncate(0)
        file.write(f"host {os.uname().nodename}, pid {os.getpid()}\n")
        file.flush()
        yield


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
