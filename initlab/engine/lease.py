"""One launch at a time per output folder: a lock that the system drops when its holder dies, or a file that beats.

The holder names itself in `.lease` and touches the file every few seconds. Where the file system has no locks,
`.lease.held`, which only one launch can create, stands for the lock. A holder that has given no sign of life for
`STALE_S`, as one whose node died, can be replaced on request. Should it wake up after all, both launches end right:
each attempt at a trial is claimed by mkdir, and a writer that finds a later one beside its own leaves.
"""

import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from initlab.errors import UserError

LEASE, HELD = ".lease", ".lease.held"
HEARTBEAT_S, STALE_S = 10.0, 120.0
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


class Held(RuntimeError):
    """The output folder is held by another launch."""


@contextmanager
def lease(out: Path, take_over: bool = False) -> Iterator[None]:
    """Hold `out` for the length of the block.

    Args:
        take_over: also where another launch seems to hold it, but has given no sign of life for `STALE_S` seconds.

    Raises:
        Held: another launch holds it; says which, since when, and when it was last heard of.
        UserError: the lease is a symbolic link.
    """
    path, descriptor = claim(out)
    if descriptor is None and take_over and silence_s(path) > STALE_S:
        path.unlink(missing_ok=True)
        path, descriptor = claim(out)
    if descriptor is None:
        raise Held(f"{out}: held by another launch ({holder(path)}")
    text = f"host {os.uname().nodename}, pid {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S %z')}\n"
    os.ftruncate(descriptor, 0)
    os.write(descriptor, text.encode())
    ended = threading.Event()
    thread = threading.Thread(target=beat, args=(descriptor, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        # Another launch may have taken over, and this one not have known.
        if path.name == HELD and path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
            path.unlink()
        os.close(descriptor)


def claim(out: Path) -> tuple[Path, int | None]:
    """The file that says who holds `out`, and its descriptor where that is this process now."""
    path = out / LEASE
    descriptor = opened(path, os.O_CREAT)
    try:
        if locked(descriptor):
            return path, descriptor
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        path = out / HELD
    os.close(descriptor)
    if path.name == LEASE:
        return path, None
    try:
        return path, opened(path, os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return path, None


def opened(path: Path, flags: int) -> int:
    """A descriptor of a file that is no symbolic link: writing through one would empty the file that it points to."""
    try:
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW | flags, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UserError(f"{path}: a symbolic link (to {os.readlink(path)}); remove it, and run again") from None


def locked(descriptor: int) -> bool:
    """Whether the lock could be had; tried for a moment, since `is_held` takes it for an instant."""
    for _ in range(10):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.02)
    return False


def beat(descriptor: int, ended: threading.Event) -> None:
    """Give a sign of life until the launch has ended."""
    while not ended.wait(HEARTBEAT_S):
        os.utime(descriptor)


def silence_s(path: Path) -> float:
    """Seconds since the holder's last sign of life, by the clock of the file system, which all hosts share."""
    clock = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        clock.touch()
        now = clock.stat().st_mtime
        clock.unlink()
    # A reader may not write here.
    except OSError:
        now = time.time()
    try:
        return now - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def holder(path: Path) -> str:
    """Who holds an output folder since when, and what to do about it."""
    text, silence = path.read_text().strip() or "unknown", silence_s(path)
    if silence <= STALE_S:
        return f"{text}); wait for it, stop it, or give another --out"
    return f"{text}, no sign of life for {silence:.0f} s); if it is dead, add --take-over; else wait for it, or stop it"


def is_held(out: Path) -> bool:
    """Whether a launch runs in `out` now."""
    try:
        descriptor = os.open(out / LEASE, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return (out / HELD).exists() and silence_s(out / HELD) <= STALE_S
    finally:
        os.close(descriptor)
    return False
