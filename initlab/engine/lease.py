"""One launch at a time per output folder: a lock that the system drops when its holder dies, or a file that beats.

The holder names itself in `.lease` and touches the file every few seconds. Where the file system has no locks,
`.lease.held`, which only one launch can create, stands for the lock. A holder that has given no sign of life for
`STALE_S`, as one whose node died, can be replaced on request. Should it wake up after all, both launches end right:
each attempt at a trial is claimed by mkdir, and a writer that finds a later one beside its own leaves.

Shards of one study share the folder: each holds a lease of its own, beside shards of the same count alone.
"""

import errno
import fcntl
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from initlab.errors import UserError
from initlab.study.shard import Shard

LEASE, HELD = ".lease", ".held"
HEARTBEAT_S, STALE_S = 10.0, 120.0
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


class Held(RuntimeError):
    """Another launch is at work on the output folder."""


@contextmanager
def lease(out: Path, shard: Shard | None = None, take_over: bool = False) -> Iterator[None]:
    """Hold `out`, or a shard's part of it, for the length of the block.

    Args:
        take_over: also where another launch seems to hold it, but has given no sign of life for `STALE_S` seconds.

    Raises:
        Held: another launch holds what this one wants; says which, since when, and when it was last heard of.
        UserError: the lease is a symbolic link.
    """
    own = out / (f"{LEASE}-{shard}" if shard else LEASE)
    path, descriptor = claim(own)
    if descriptor is None and take_over and silence_s(path) > STALE_S:
        path.unlink(missing_ok=True)
        path, descriptor = claim(own)
    if descriptor is None:
        raise held(own)
    text = f"host {os.uname().nodename}, pid {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S %z')}\n"
    os.ftruncate(descriptor, 0)
    os.write(descriptor, text.encode())
    ended = threading.Event()
    thread = threading.Thread(target=beat, args=(descriptor, ended), daemon=True)
    thread.start()
    try:
        # Looked for once the own lease is held, so that of two launches at once at most one goes on.
        shards_at_work(out, shard.count if shard else 0, but=own)
        yield
    finally:
        ended.set()
        thread.join()
        # Another launch may have taken over, and this one not have known.
        if path != own and path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
            path.unlink()
        os.close(descriptor)


def claim(own: Path) -> tuple[Path, int | None]:
    """The file that stands for the lock of a lease, and its descriptor where this process holds it now."""
    descriptor = opened(own, os.O_CREAT)
    try:
        if locked(descriptor):
            return own, descriptor
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        os.close(descriptor)
        path = held_file(own)
        try:
            return path, opened(path, os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return path, None
    os.close(descriptor)
    return own, None


def held_file(own: Path) -> Path:
    """What stands for the lock of a lease where the file system has no locks."""
    return own.with_name(own.name + HELD)


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
            time.sleep(0.01)
    return False


def beat(descriptor: int, ended: threading.Event) -> None:
    """Give a sign of life until the launch has ended."""
    while not ended.wait(HEARTBEAT_S):
        # A disk that fails for a while must not end the beat for good.
        with suppress(OSError):
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


def held(own: Path) -> Held:
    """The error that says who holds a lease since when, and what to do about it."""
    path = held_file(own) if held_file(own).exists() else own
    text, silence = path.read_text().strip() or "unknown", silence_s(path)
    shard = own.name.removeprefix(LEASE).replace("-of-", "/").replace("-", ", shard ")
    advice = "wait for it, stop it, or give another --out"
    if silence > STALE_S:
        text += f", no sign of life for {silence:.0f} s"
        advice = "if it is dead, add --take-over; else wait for it, or stop it"
    return Held(f"{own.parent}: held by another launch ({text}{shard}); {advice}")


def leases(out: Path) -> list[Path]:
    """The files that say who holds an output folder, or a shard's part of it."""
    return [path for path in out.glob(f"{LEASE}*") if re.fullmatch(rf"{LEASE}(-\d+-of-\d+)?", path.name)]


def shards_at_work(out: Path, count: int, but: Path | None = None) -> set[int]:
    """The numbers of those of `count` shards that run in `out` now, whose lease is not the file `but`.

    Raises:
        Held: what runs there is no such shard, and may be at work on any trial.
    """
    numbers = set()
    for path in leases(out):
        number, _, others = path.name.removeprefix(f"{LEASE}-").partition("-of-")
        if path != but and is_locked(path):
            if others != str(count):
                raise held(path)
            numbers.add(int(number))
    return numbers


def is_held(out: Path) -> bool:
    """Whether a launch runs in `out` now."""
    return any(map(is_locked, leases(out)))


def is_locked(own: Path) -> bool:
    """Whether a process holds this lease now."""
    try:
        descriptor = os.open(own, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return held_file(own).exists() and silence_s(held_file(own)) <= STALE_S
    finally:
        os.close(descriptor)
    return False
