"""The inline engine: tasks in this process, or in `jobs` worker processes on this machine."""

import os
import selectors
import subprocess
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import IO, Any

from initlab.engine.submit import MAX_DEATHS, TIMES, Resources, Work
from initlab.engine.task import Answer, State, Task, answer_all
from initlab.engine.worker import named_function

SHUTDOWN_TIMEOUT_S = 30.0  # for a last checkpoint


def submit(tasks: Sequence[Task], work: Work, resources: Resources) -> Iterator[Answer]:
    """Run every task; see `submit.Engine`."""
    jobs = resources.jobs or 1
    if jobs == 1:
        yield from map(named_function(work.run), tasks)
        return
    queue, deaths = deque(tasks), Counter[tuple[str, ...]]()
    workers = [Worker(work.run, resources.threads) for _ in range(min(jobs, len(tasks)))]
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        # Told that nobody waits for them, workers write a checkpoint and stop.
        stack.callback(end_processes, [worker.process for worker in workers])
        for worker in workers:
            worker.take_next(queue, selector)
        while selector.get_map():
            for key, _ in selector.select():
                worker = key.data
                line = worker.process.stdout.readline()
                if line:
                    yield Answer.model_validate_json(line)
                else:  # The process died with its task.
                    selector.unregister(worker.process.stdout)
                    deaths[worker.task.trials] += 1
                    if deaths[worker.task.trials] > MAX_DEATHS:
                        yield answer_all(worker.task, State.FAILED, worker.last_words(), died=True)
                    else:
                        queue.appendleft(worker.task)
                    worker.start()
                worker.take_next(queue, selector)


def end_processes(processes: Sequence[Any]) -> None:
    """Close what the processes read from, which they take for the sign to end, and kill those that go on."""
    for process in processes:
        with suppress(BrokenPipeError):
            process.stdin.close()
    for process in processes:
        try:
            process.wait(SHUTDOWN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()


def spawn(code: str, threads: int, errors: IO[str]) -> Any:
    """A process that runs `code`, with this one's import path, stdin and stdout as pipes and a session of its own."""
    # OpenMP reads its number of threads once, when torch is imported.
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
        env=environment,
    )


class Worker:
    """One worker process and the task that it works on."""

    task: Task

    def __init__(self, function: str, threads: int) -> None:
        self.function = function
        self.threads = threads
        self.start()

    def start(self) -> None:
        """Start the process, out of reach of the terminal's Ctrl-C."""
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        code = f"from initlab.engine.worker import main; main({self.function!r})"
        self.process = spawn(code, self.threads, self.errors)

    def take_next(self, queue: deque[Task], selector: selectors.BaseSelector) -> None:
        """Hand the next task over, or listen to this worker no more where none is left."""
        registered = self.process.stdout in [key.fileobj for key in selector.get_map().values()]
        if not queue:
            if registered:
                selector.unregister(self.process.stdout)
            return
        self.task = queue.popleft()
        with suppress(BrokenPipeError):  # Where it died meanwhile, the end of its stdout says so.
            self.process.stdin.write(self.task.model_dump_json() + "\n")
            self.process.stdin.flush()
        if not registered:
            selector.register(self.process.stdout, selectors.EVENT_READ, self)

    def last_words(self) -> str:
        """How the process ended, with the end of what it printed."""
        code = self.process.wait()
        self.errors.seek(0)
        tail = " | ".join(self.errors.read().strip().splitlines()[-3:])
        end = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"its process died {TIMES}, last with {end}" + (f": {tail}" if tail else "")
