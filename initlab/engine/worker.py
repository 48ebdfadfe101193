"""A worker process of the inline engine: takes tasks as JSON lines on stdin, answers with JSON lines on stdout.

Started as a plain subprocess, so that it needs neither a guarded `__main__` nor a fork, and works from a notebook.
When its parent dies, stdin ends and `orphaned` is set: the trial at work writes a checkpoint and stops.
"""

import importlib
import os
import queue
import signal
import threading
from collections.abc import Callable
from typing import Any

from initlab.engine.task import Task

orphaned = threading.Event()


def main(function: str) -> None:
    """Serve tasks with `function` (`pkg.module:name`) until stdin ends."""
    # Ctrl-C is for the parent, which decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w")
    # What trials print must not mix with the answers.
    os.dup2(2, 1)
    tasks: queue.Queue[Task | None] = queue.Queue()
    threading.Thread(target=read_tasks, args=(tasks,), daemon=True).start()
    run = named_function(function)
    while (task := tasks.get()) is not None:
        print(run(task).model_dump_json(), file=answers, flush=True)


def read_tasks(tasks: "queue.Queue[Task | None]") -> None:
    """Put every task on stdin into the queue, None at its end."""
    # A child forked by the data loader closes sys.stdin, and would wait for ever for this thread's hold on it.
    with os.fdopen(os.dup(0)) as lines:
        for line in lines:
            tasks.put(Task.model_validate_json(line))
    orphaned.set()
    tasks.put(None)


def named_function(name: str) -> Callable[[Task], Any]:
    """The function that `pkg.module:name` says."""
    module, _, attribute = name.partition(":")
    function: Callable[[Task], Any] = getattr(importlib.import_module(module), attribute)
    return function
