"""Tasks that nothing is to be known of, and functions that workers run on them; every worker process imports this."""

import os
import signal
from pathlib import Path

from initlab.engine.submit import Resources, Work, submit
from initlab.engine.task import Answer, DataAccess, Provenance, State, Task, answer_all
from initlab.study.spec import Run


def task(trial: str, out: str = "") -> Task:
    """A task of one trial."""
    nobody = Provenance(command="", git_commit=None)
    return Task(out=out, trials=(trial,), run=Run(), access=DataAccess(), provenance=nobody)


def answers_its_out(task: Task) -> Answer:
    """Answers that the trials ended in the state that the task names as its output folder."""
    return answer_all(task, State(task.out))


def counts_and_dies(task: Task) -> Answer:
    """Notes in the task's output folder that it was called, and takes its process down."""
    with open(Path(task.out) / task.trials[0], "a") as calls:
        calls.write("x")
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def submitted(engine: str, tasks: list[Task], run: str, follow: str = "", **resources: float | None) -> list[Answer]:
    """The answers of an engine; functions go by their names in this module, unless they name another."""
    names = [name if ":" in name or not name else f"{__name__}:{name}" for name in (run, follow)]
    return list(submit(engine, tasks, Work(*names), Resources(**resources)))  # type: ignore[arg-type]
