"""Ctrl-C and SIGTERM as a STOP file: trials write a checkpoint and end; a second Ctrl-C stops at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


@contextmanager
def stop_file_on_signal(stop: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Inside, the first SIGINT or SIGTERM makes the file `stop`, which is removed at the end.

    Outside the main thread, where Python delivers no signals, nothing is installed.
    """
    stopping = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        """Ask for a stop at the first signal, and interrupt at the second."""
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()
        stop.touch()
        say("stopping: every trial keeps a checkpoint (once more to stop at once)")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if stopping.is_set():
            stop.unlink(missing_ok=True)
