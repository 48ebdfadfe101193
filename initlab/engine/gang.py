"""Further processes for one task: started by the one that has it in hand, and gone when that is done or dies."""

import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from subprocess import TimeoutExpired
from typing import IO, Any

from initlab.engine.inline import spawn
from initlab.engine.worker import named_function

READY = "ready"
PATIENCE_S = 30.0
SILENCE_S = 7200.0  # that followers bear while the leader validates


def backend(gpus: bool) -> str:
    """How torch's processes talk: small messages over gloo on the CPU, gradients on a GPU over NCCL."""
    return "cpu:gloo,cuda:nccl" if gpus else "gloo"


@contextmanager
def followers(function: str, tasks: Sequence[dict[str, Any]], threads: int) -> Iterator[None]:
    """One process per task that runs `function` (`pkg.module:name`) on it, all ready when the block begins.

    Raises:
        RuntimeError: a process died; with the end of what it printed.
    """
    errors = [tempfile.TemporaryFile("w+") for _ in tasks]  # noqa: SIM115 - as long as the processes
    code = f"from initlab.engine.gang import main; main({function!r})"
    processes = [spawn(code, threads, file) for file in errors]
    try:
        for process, task in zip(processes, tasks, strict=True):
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
        for process in processes:
            if process.stdout.readline().strip() != READY:
                raise RuntimeError("a process of the trial did not start")
        yield
    except Exception as error:
        raise RuntimeError(f"{error}{last_words(processes, errors)}") from error
    finally:
        for process in processes:
            with suppress(BrokenPipeError):
                process.stdin.close()
        for process in processes:
            try:
                process.wait(PATIENCE_S)
            except TimeoutExpired:
                process.kill()


def last_words(processes: Sequence[Any], errors: Sequence[IO[str]]) -> str:
    """What the processes that died by themselves said last."""
    words = []
    for number, (process, file) in enumerate(zip(processes, errors, strict=True), start=1):
        with suppress(TimeoutExpired):
            if process.wait(1.0):
                file.seek(0)
                words.append(f"; process {number} died: " + " | ".join(file.read().strip().splitlines()[-2:]))
    return "".join(words)


def main(function: str) -> None:
    """Run `function` on the task that comes on stdin; when stdin ends, the leader is gone, and so is this process."""
    run = named_function(function)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the task prints must not mix with the answer
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=die_with_leader, daemon=True).start()
    print(READY, file=answers, flush=True)
    run(task)


def die_with_leader() -> None:
    sys.stdin.read()
    os._exit(1)
