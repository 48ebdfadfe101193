"""A worker process of the inline engine: takes tasks as JSON lines on stdin, answers with JSON lines on stdout.

Started as a plain subprocess, so that it needs neither a guarded `__main__` nor a fork, and works from a notebook.
When its parent dies, stdin ends and `orphaned` is set: the trial in hand keeps a checkpoint and stops.
"""

import importlib
import json
import os
import queue
import signal
import threading
from collections.abc import Callable
from typing import Any

orphaned = threading.Event()


def main(function: str) -> None:
    """Serve tasks with `function` (`pkg.module:name`) until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what trials print must not mix with the answers
    tasks: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(target=read_tasks, args=(tasks,), daemon=True).start()
    run = named_function(function)
    while (task := tasks.get()) is not None:
        print(json.dumps(run(task)), file=answers, flush=True)


def read_tasks(tasks: "queue.Queue[dict[str, Any] | None]") -> None:
    # not sys.stdin: a child forked by the data loader closes that, and would wait for ever for this thread's hold on it
    with os.fdopen(os.dup(0)) as lines:
        for line in lines:
            tasks.put(json.loads(line))
    orphaned.set()
    tasks.put(None)


def named_function(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The function that `pkg.module:name` says."""
    module, _, attribute = name.partition(":")
    function: Callable[[dict[str, Any]], dict[str, Any]] = getattr(importlib.import_module(module), attribute)
    return function
