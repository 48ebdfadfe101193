"""Tasks that nothing is to be known of, and functions that workers run on them; every worker process imports this."""

import os
import signal
import sys
import time
from pathlib import Path

from initlab.engine.signs import log_to, sign
from initlab.engine.submit import Resources, Work, submit
from initlab.engine.task import Answer, DataAccess, Provenance, State, Task, TrialEnd, answer_all
from initlab.study.run_options import Run


def task(trial: str, out: str = "") -> Task:
    """A task of one trial."""
    nobody = Provenance(command="", git_commit=None)
    return Task(out=out, trials=(trial,), run=Run(), access=DataAccess(), provenance=nobody)


def answers_its_out(task: Task) -> Answer:
    """Answers that the trials ended in the state that the task names as its output folder."""
    return answer_all(task, State(task.out))


def counts_and_dies(task: Task) -> Answer:
    """Notes in the task's output folder that it was called, and takes its process down."""
    counts_call(task)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def submitted(engine: str, tasks: list[Task], run: str, follow: str = "", **resources: float | None) -> list[Answer]:
    """The answers of an engine; functions go by their names in this module, unless they name another."""
    names = [name if ":" in name or not name else f"{__name__}:{name}" for name in (run, follow)]
    return list(submit(engine, tasks, Work(*names), Resources(**resources)))  # type: ignore[arg-type]


def fails_alike(task: Task) -> Answer:
    """Notes its call, and fails with a text that only a number sets apart; not at all where the trial is t-good."""
    (Path(task.out) / f"called-{task.trials[0]}").touch()
    if task.trials[0] == "t-good":
        return answer_all(task, State.DONE)
    return answer_all(task, State.FAILED, f"ValueError: seed {task.trials[0][1:]} is odd")


def leaves_a_child(task: Task) -> Answer:
    """Forks a process that holds all pipes for longer than any test, and dies where the trial is t-dies."""
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
    Path(task.out, task.trials[0]).write_text(str(pid))
    if task.trials[0] == "t-dies":
        os._exit(0)
    return answer_all(task, State.DONE)


def hangs(task: Task) -> Answer:
    """Takes a step, then none; stopped by a signal where the trial is t-stopped, at once where it is t-first."""
    if task.trials[0] != "t-first":
        sign(step=True)
    if task.trials[0] == "t-stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(600)
    raise AssertionError("unreachable")


def slow_steps(task: Task) -> Answer:
    """Takes six steps of 0.3 s, thus longer than a timeout of one second, but each of them shorter."""
    for _ in range(6):
        sign(step=True)
        time.sleep(0.3)
    return answer_all(task, State.DONE)


def crashes(task: Task) -> Answer:
    """Notes its call and takes a segmentation fault."""
    counts_call(task)
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError("unreachable")


def leaves(task: Task) -> Answer:
    """Notes its call and ends its process as if all were well."""
    counts_call(task)
    os._exit(0)


def counts_call(task: Task) -> None:
    """Note the call in the task's output folder."""
    with open(Path(task.out) / task.trials[0], "a") as calls:
        calls.write("x")


def prints_much(task: Task) -> Answer:
    """Prints 30 MB on stdout and a last line on stderr, into a log of its own."""
    log_to(Path(task.out) / f"{task.trials[0]}.txt")
    for _ in range(30):
        print("x" * 1_000_000)
    print(f"last of {task.trials[0]}", file=sys.stderr)
    return answer_all(task, State.DONE)


def says_its_process(task: Task) -> Answer:
    """Answers with the process that it ran in."""
    return answer_all(task, State.FAILED, str(os.getpid()))


def finds_no_room(task: Task) -> Answer:
    """Needs room on the disk while there is a file `full` in the output folder."""
    if (Path(task.out) / "full").exists():
        return Answer(ends=(TrialEnd(trial=task.trials[0], state=State.INTERRUPTED, no_room=True),))
    return answer_all(task, State.DONE)
