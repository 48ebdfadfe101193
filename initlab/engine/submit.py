"""The one interface of all engines: tasks in, answers out as they end.

An engine is a module of this room with a function `submit` like the one here; its name in a study is the module's, and
`Run.engine` lists the names. Engines know nothing of what a task computes: they call a function by its name.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from initlab.engine.task import Answer, Task

MAX_DEATHS = 2  # times that a task's process may be killed from outside before the task is given up
TIMES = f"{MAX_DEATHS + 1} times"


@dataclass(frozen=True)
class Work:
    """What the processes run, each function as `pkg.module:name`, so that the launcher needs no torch."""

    run: str  # of task to answer
    follow: str  # of task to nothing: the further processes of a task that several share


@dataclass(frozen=True)
class Resources:
    """What tasks may take."""

    jobs: int | None  # tasks at once; None is as many as a cluster has room for
    threads: int = 1  # CPU threads per process
    devices: int = 1  # processes per task
    gpus: float = 0.0  # per process; a fraction shares one, 0 is a CPU
    address: str | None = None  # of a running cluster
    isolate: bool = False  # a fresh process for every task
    timeout_s: float | None = None  # without a step, after which a task is ended; None is as `supervised` has it
    max_failures: int | None = None  # alike in a row, before any success, after which no task is begun; None is any


class Engine(Protocol):
    """What a module of this room offers as an engine."""

    def submit(self, tasks: Sequence[Task], work: Work, resources: Resources) -> Generator[Answer, None, None]:
        """Run every task, one whose process is killed again up to `MAX_DEATHS` times; one answer per task.

        Those not begun, after a stop or too many failures, are answered as pending, last of all.
        """


def submit(engine: str, tasks: Sequence[Task], work: Work, resources: Resources) -> Generator[Answer, None, None]:
    """Run the tasks on the engine of this name; yields one answer per task as it ends."""
    module = cast(Engine, import_module(f"initlab.engine.{engine}"))
    return module.submit(tasks, work, resources)
