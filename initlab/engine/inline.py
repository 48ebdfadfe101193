"""The inline engine: tasks in this process, or in `jobs` worker processes on this machine."""

import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import NoReturn

from initlab.engine.stopping import at_once, stop_asked
from initlab.engine.submit import MAX_DEATHS, TIMES, Resources, Work
from initlab.engine.supervised import Worker, end_processes, kill
from initlab.engine.task import Answer, State, Task, answer_all
from initlab.engine.task_queue import TaskQueue
from initlab.engine.worker import SHUTDOWN_TIMEOUT_S, named_function

POLL_S = 0.5


def submit(tasks: Sequence[Task], work: Work, resources: Resources) -> Generator[Answer, None, None]:
    """Run every task; see `submit.Engine`. One job without isolation runs in this process, which nothing watches."""
    queue = TaskQueue(tasks, resources.max_failures)
    here = resources.jobs == 1 and not resources.isolate
    yield from in_this_process(queue, named_function(work.run)) if here else Pool(queue, work.run, resources).answers()
    yield from queue.rest()


def in_this_process(queue: TaskQueue, run: Callable[[Task], Answer]) -> Iterator[Answer]:
    """The answers of tasks that run one after the other here."""
    while queue.waiting:
        if (task := queue.take()) is None:
            time.sleep(POLL_S)
            continue
        with exit_raises():
            answer = run(task)
        yield from queue.settle(task, answer)


@contextmanager
def exit_raises() -> Iterator[None]:
    """Inside, `os._exit` of this process is an exception: a user's net must not end the launch."""
    leave, pid = os._exit, os.getpid()

    def refuse(status: int) -> NoReturn:
        """Raise in this process, end one that was forked from it."""
        if os.getpid() != pid:
            leave(status)
        raise SystemExit(f"os._exit({status})")

    os._exit = refuse
    try:
        yield
    finally:
        os._exit = leave


class Pool:
    """Worker processes that share a queue of tasks."""

    def __init__(self, queue: TaskQueue, function: str, resources: Resources) -> None:
        self.queue, self.function, self.resources = queue, function, resources
        self.busy: list[Worker] = []
        self.idle: list[Worker] = []
        self.leaving: list[Worker] = []  # told to end
        self.deaths = Counter[tuple[str, ...]]()

    def answers(self) -> Iterator[Answer]:
        """An answer for each task that was begun."""
        try:
            while self.give_out():
                wait([pipe for worker in self.busy for pipe in worker.pipes], POLL_S)
                for worker in list(self.busy):
                    yield from self.attend(worker)
        finally:
            # Told that nobody waits for them, workers write a checkpoint and stop.
            workers = [*self.busy, *self.idle, *self.leaving]
            patience_s = 0.0 if at_once.is_set() else SHUTDOWN_TIMEOUT_S
            end_processes([worker.process for worker in workers], patience_s, lambda: listen(workers))

    def give_out(self) -> bool:
        """Give tasks to as many workers as there may be; whether any is at work, or may be later."""
        listen([*self.idle, *self.leaving])
        for worker in [w for w in self.leaving if w.look(stopping=True) or w.process.poll() is not None]:
            self.leaving.remove(worker)
            kill(worker.process)
        while len(self.busy) < (self.resources.jobs or 1) and (task := self.queue.take()):
            # An idle one may have been killed meanwhile.
            worker = self.idle.pop() if self.idle else self.started()
            worker.give(task)
            self.busy.append(worker)
        # With nothing at work there is nothing to wait for but room on the disk.
        if not self.busy and self.queue.waiting:
            time.sleep(POLL_S)
        return bool(self.busy) or self.queue.waiting

    def started(self) -> Worker:
        """A new worker."""
        return Worker(self.function, self.resources.threads, self.resources.timeout_s)

    def attend(self, worker: Worker) -> Iterator[Answer]:
        """Hear what a worker at work has to say, and see whether it is well."""
        assert worker.task
        dead = worker.process.poll() is not None
        answer, complaint = worker.read(), worker.look(stop_asked(worker.task))
        if answer:
            self.release(worker, dead)
            yield from self.queue.settle(worker.task, answer)
        elif dead:
            self.release(worker, dead)
            yield from self.died(worker, worker.task)
        elif complaint:
            stacks = worker.stacks()
            self.release(worker, dead=True)
            state = State.INTERRUPTED if worker.stopping_s else State.FAILED
            error = None if worker.stopping_s else f"{complaint} and was ended; its stacks are in status.json"
            yield from self.queue.settle(worker.task, answer_all(worker.task, state, error, traceback=stacks))

    def release(self, worker: Worker, dead: bool) -> None:
        """A worker has done its task: keep it for the next one, or see it off."""
        self.busy.remove(worker)
        if dead:
            kill(worker.process)
        elif self.resources.isolate:
            worker.process.stdin.close()
            self.leaving.append(worker)
        else:
            self.idle.append(worker)

    def died(self, worker: Worker, task: Task) -> Iterator[Answer]:
        """What is made of the death of a process: killed from outside, its task is tried again, a few times."""
        self.deaths[task.trials] += 1
        end, stacks = worker.last_words()
        if worker.killed and self.deaths[task.trials] <= MAX_DEATHS and not stop_asked(task):
            self.queue.give_back(task)
            return
        error = f"its process died {TIMES}, last with {end}" if worker.killed else f"its process died with {end}"
        yield from self.queue.settle(task, answer_all(task, State.FAILED, error, died=True, traceback=stacks))


def listen(workers: Sequence[Worker]) -> None:
    """Take in what workers print that nothing else is awaited from: one with a full pipe would wait for ever."""
    for worker in workers:
        worker.read_output()
