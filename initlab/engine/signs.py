"""Signs of life: what a worker tells the process that watches it, as lines on the pipe of its answers.

In a process that nobody watches, all of this does nothing.
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import IO

STEP, OTHER, LOG = b"+", b".", b"log "
INTERVAL_S = 0.5

_pipe: IO[bytes] | None = None
_last = (b"", 0.0)  # the last sign, and when it was given


def report_to(pipe: IO[bytes]) -> None:
    """Give signs on this pipe from now on."""
    global _pipe
    _pipe = pipe


def sign(step: bool = False) -> None:
    """Say that this process is alive, and whether it has taken a training step; cheap enough for every step."""
    global _last
    kind, now = STEP if step else OTHER, time.monotonic()
    if _pipe and (_last[0] != kind or now - _last[1] > INTERVAL_S):
        _last = (kind, now)
        tell(kind)


def log_to(path: Path) -> None:
    """Say that another trial begins, and which file takes what is printed from now on."""
    global _last
    _last = (b"", 0.0)
    tell(LOG + str(path).encode())


def tell(line: bytes) -> None:
    """Write a line to whoever watches; a broken pipe means nobody, which `worker.orphaned` says too."""
    if _pipe:
        with suppress(OSError):
            _pipe.write(line + b"\n")
            _pipe.flush()
