"""The inline engine: trials in this process, or in `jobs` worker processes on this machine."""

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

from initlab.engine.worker import named_function

Task = dict[str, Any]  # plain data with at least `trial`
Answer = dict[str, Any]  # `trial`, `state`, and `error` where a process died
PATIENCE_S = 30.0  # for a last checkpoint
MAX_DEATHS = 2  # times that a trial may take its process down before it is given up


def run_inline(tasks: Sequence[Task], function: str, jobs: int, *, threads: int = 1) -> list[Answer]:
    """Run `function` (`pkg.module:name`) on every task; a task whose process dies is tried again, twice.

    Returns:
        One answer per task, as they end.
    """
    if jobs == 1:
        run = named_function(function)
        return [run(task) for task in tasks]
    todo, answers = deque(tasks), []
    workers = [Worker(function, threads) for _ in range(min(jobs, len(tasks)))]
    deaths: dict[str, int] = {}
    with ended(workers), selectors.DefaultSelector() as selector:
        for worker in workers:
            worker.give(todo, selector)
        while selector.get_map():
            for key, _ in selector.select():
                worker = key.data
                line = worker.process.stdout.readline()
                if line:
                    answers.append(json.loads(line))
                else:  # the process died with its task
                    selector.unregister(worker.process.stdout)
                    task = worker.task
                    deaths[task["trial"]] = deaths.get(task["trial"], 0) + 1
                    if deaths[task["trial"]] > MAX_DEATHS:
                        answers.append({"trial": task["trial"], "state": "failed", "error": worker.last_words()})
                    else:
                        todo.appendleft(task)
                    worker.start()
                worker.give(todo, selector)
    return answers


@contextmanager
def ended(workers: Sequence["Worker"]) -> Iterator[None]:
    """Ends the processes afterwards: told that nobody waits for them, they keep a checkpoint and stop."""
    try:
        yield
    finally:
        for worker in workers:
            with suppress(BrokenPipeError):
                worker.process.stdin.close()
        for worker in workers:
            try:
                worker.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                worker.process.kill()


def spawn(code: str, threads: int, errors: IO[str]) -> Any:
    """A process that runs `code`, with this one's import path, stdin and stdout as pipes and its own session."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
        # threads are fixed before torch is imported: OpenMP reads this once
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": str(threads)},
    )


class Worker:
    """One worker process and the task it has in hand."""

    def __init__(self, function: str, threads: int) -> None:
        self.function = function
        self.threads = threads
        self.start()

    def start(self) -> None:
        """Start the process, on its own from the terminal's Ctrl-C."""
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        code = f"from initlab.engine.worker import main; main({self.function!r})"
        self.process = spawn(code, self.threads, self.errors)

    def give(self, todo: deque[Task], selector: selectors.BaseSelector) -> None:
        """Hand over the next task, or rest."""
        registered = self.process.stdout in [key.fileobj for key in selector.get_map().values()]
        if not todo:
            if registered:
                selector.unregister(self.process.stdout)
            return
        self.task = todo.popleft()
        with suppress(BrokenPipeError):  # it died meanwhile: its stdout will say so
            self.process.stdin.write(json.dumps(self.task) + "\n")
            self.process.stdin.flush()
        if not registered:
            selector.register(self.process.stdout, selectors.EVENT_READ, self)

    def last_words(self) -> str:
        """How the process ended, with the end of what it printed."""
        code = self.process.wait()
        self.errors.seek(0)
        tail = " | ".join(self.errors.read().strip().splitlines()[-3:])
        end = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"its process died {MAX_DEATHS + 1} times, last with {end}" + (f": {tail}" if tail else "")
