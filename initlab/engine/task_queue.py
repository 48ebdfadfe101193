"""The tasks that an engine has still to begin, and when it may not: after a stop, many failures, on a full disk."""

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from initlab.engine.stopping import stop_asked
from initlab.engine.task import Answer, State, Task, TrialEnd, answer_all

ROOM_CHECK_S = 5.0
ROOM = 2**20  # bytes that must go onto the disk before tasks are begun again


class TaskQueue:
    """Tasks in their order; `take` one, then say what came of it."""

    def __init__(self, tasks: Sequence[Task], max_failures: int | None = None) -> None:
        """`max_failures`: alike in a row, and none without a failure, after which no more are begun; None is any."""
        self.tasks, self.max_failures = deque(tasks), max_failures
        self.stopped = False
        self.alike, self.cause, self.succeeded = 0, "", False
        self.room_checked: float | None = None  # when the disk was last found full

    @property
    def waiting(self) -> bool:
        """Whether there are tasks that may be begun, now or when the disk has room again."""
        return bool(self.tasks) and not (self.stopped or self.held or stop_asked(self.tasks[0]))

    @property
    def held(self) -> bool:
        """Whether too many have failed alike."""
        return self.max_failures is not None and not self.succeeded and self.alike >= self.max_failures

    def take(self) -> Task | None:
        """The next task; None where there is none that may be begun now."""
        return self.tasks.popleft() if self.waiting and self.has_room() else None

    def has_room(self) -> bool:
        """Whether the disk was not found full, or no longer is."""
        if self.room_checked is not None and time.monotonic() - self.room_checked > ROOM_CHECK_S:
            self.room_checked = None if writes(Path(self.tasks[0].out)) else time.monotonic()
        return self.room_checked is None

    def give_back(self, task: Task) -> None:
        """The task is to be tried again."""
        self.tasks.appendleft(task)

    def settle(self, task: Task, answer: Answer) -> Iterator[Answer]:
        """Take note of what came of a task; gives its answer and what the user should know, or puts it back."""
        if answer.no_room:
            if self.room_checked is None:
                yield Answer(ends=(), note=f"no room on the disk of {task.out}: paused until there is; make some")
            self.room_checked = time.monotonic()
            self.give_back(task)
            return
        self.stopped = self.stopped or answer.stop_requested
        held = self.held
        for end in answer.ends:
            self.count(end)
        yield answer
        if self.held and not held and self.tasks:
            text = f"{self.alike} trials failed alike and none succeeded: no more are begun"
            yield Answer(ends=(), note=f"{text} ({len(self.tasks)} to go); --max-failures N to try more")

    def count(self, end: TrialEnd) -> None:
        """Take note of how a trial ended."""
        if end.state is State.FAILED:
            self.alike = self.alike + 1 if end.cause == self.cause else 1
            self.cause = end.cause
        elif end.state.finished or end.state is State.STOPPED:
            self.succeeded = True

    def rest(self) -> Iterator[Answer]:
        """The answers of those that are left."""
        yield from (answer_all(task, State.PENDING) for task in self.tasks)


def writes(folder: Path) -> bool:
    """Whether a file finds room in a folder: tried, since quotas and inodes show no other way."""
    path = folder / f".room.{os.getpid()}"
    try:
        path.write_bytes(bytes(ROOM))
    except OSError:
        return False
    finally:
        path.unlink(missing_ok=True)
    return True
