"""Signals, and the end of the time a launch has, as a STOP file: trials write a checkpoint and end.

Schedulers, systemd and terminals send their signal to every process there is. The launching process alone heeds it: all
others ignore it (`ignore_stop_signals`) and end when it says so, by the STOP file or by going away.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from initlab.engine.task import STOP, Task

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
asked = threading.Event()  # whether this launch was asked to stop
at_once = threading.Event()  # whether it was asked twice: nothing is waited for


@contextmanager
def stop_file_on_signal(
    stop: Path, say: Callable[[str], None], seconds: float | None = None, because: str = ""
) -> Iterator[None]:
    """Inside, the first of `SIGNALS` makes the file, and so does the end of `seconds`; it is removed at the end.

    A Ctrl-C after that stops at once: it raises KeyboardInterrupt. Outside the main thread, where Python delivers no
    signals, only the time counts, which `because` names.
    """
    asked.clear()
    at_once.clear()

    def ask(because: str) -> None:
        """Make the file; on a full disk, where none can be made, workers are ended after a while (`supervised`)."""
        asked.set()
        with suppress(OSError):
            stop.touch()
        say(f"stopping ({because}): every trial keeps a checkpoint (Ctrl-C to stop at once)")

    def handle(number: int, frame: FrameType | None) -> None:
        """Ask for a stop at the first signal, and interrupt at a Ctrl-C that follows."""
        if not asked.is_set():
            ask(signal.Signals(number).name)
        elif number == signal.SIGINT and not at_once.is_set():
            at_once.set()
            raise KeyboardInterrupt

    timer = threading.Timer(max(seconds, 0.0), ask, [because]) if seconds is not None else None
    on_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handle) for number in SIGNALS} if on_main else {}
    try:
        if timer:
            timer.daemon = True
            timer.start()
        yield
    finally:
        if timer:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
        if asked.is_set():
            stop.unlink(missing_ok=True)
        # Whoever calls an engine without this is not asked to stop by an earlier launch of the same process.
        asked.clear()
        at_once.clear()


@contextmanager
def signals_held() -> Iterator[None]:
    """Processes started inside receive none of `SIGNALS` until they have called `ignore_stop_signals`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_stop_signals() -> None:
    """In a process that another one tells when to stop; its own children ignore them too."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def stop_asked(task: Task) -> bool:
    """Whether the launch that a task is of was asked to stop, or all that work in its output folder were."""
    return asked.is_set() or any(os.path.exists(os.path.join(task.out, name)) for name in {STOP, task.stop})
