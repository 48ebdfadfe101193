"""Ctrl-C and SIGTERM as a STOP file: trials keep a checkpoint and end; a second Ctrl-C stops at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


@contextmanager
def stop_file_on_signal(stop: Path, say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Inside, the first SIGINT or SIGTERM makes the file `stop`, which is removed at the end.

    Yields:
        Whether a signal came. Outside the main thread, where Python delivers no signals, nothing is installed.
    """
    came = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if came.is_set():
            raise KeyboardInterrupt
        came.set()
        stop.touch()
        say("stopping: every trial keeps a checkpoint (once more to stop at once)")

    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came.is_set():
            stop.unlink(missing_ok=True)
