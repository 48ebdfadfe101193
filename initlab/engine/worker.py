"""A worker process of the inline engine: takes tasks as JSON lines on stdin, answers with JSON lines on stdout.

Started as a plain subprocess, so that it needs neither a guarded `__main__` nor a fork, and works from a notebook.
When its parent dies, stdin ends and `orphaned` is set: the trial at work writes a checkpoint and stops.
"""

import faulthandler
import importlib
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from initlab.engine.signs import report_to, sign, tell
from initlab.engine.stopping import ignore_stop_signals
from initlab.engine.task import Task

orphaned = threading.Event()
STACKS = signal.SIGQUIT  # makes a worker print where each of its threads is, also while it hangs
SHUTDOWN_TIMEOUT_S = 30.0  # for a last checkpoint


def main(function: str) -> None:
    """Serve tasks with `function` (`pkg.module:name`) until stdin ends."""
    ignore_stop_signals()
    faulthandler.enable()
    faulthandler.register(STACKS)
    report_to(os.fdopen(os.dup(1), "wb"))
    # What trials print must not mix with the answers, and not be lost with the process.
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    tasks: queue.Queue[Task | None] = queue.Queue()
    threading.Thread(target=read_tasks, args=(tasks,), daemon=True).start()
    run = named_function(function)
    while (task := tasks.get()) is not None:
        sign()
        answer = run(task).model_dump_json()
        sys.stdout.flush()
        tell(answer.encode())


def read_tasks(tasks: "queue.Queue[Task | None]") -> None:
    """Put every task on stdin into the queue, None at its end."""
    # A child forked by the data loader closes sys.stdin, and would wait for ever for this thread's hold on it.
    with os.fdopen(os.dup(0)) as lines:
        for line in lines:
            tasks.put(Task.model_validate_json(line))
    # What is printed from now on goes nowhere: nobody reads the pipe.
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    orphaned.set()
    tasks.put(None)
    # Nobody is left to end a process that hangs; this thread needs no turn of the interpreter to do it.
    faulthandler.dump_traceback_later(2 * SHUTDOWN_TIMEOUT_S, exit=True)


def named_function(name: str) -> Callable[[Task], Any]:
    """The function that `pkg.module:name` says."""
    module, _, attribute = name.partition(":")
    function: Callable[[Task], Any] = getattr(importlib.import_module(module), attribute)
    return function
