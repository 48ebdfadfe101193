"""A gang: several processes that share one task. The leader starts the followers, which end when it does or dies."""

import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from subprocess import TimeoutExpired
from typing import IO, Any

from initlab.engine.stopping import ignore_stop_signals
from initlab.engine.supervised import end_processes, spawn
from initlab.engine.task import PlainData, Task
from initlab.engine.worker import named_function

READY = "ready"
COLLECTIVE_TIMEOUT_S = 7200.0  # that followers wait for the leader, which validates alone


class Follower(PlainData):
    """A follower's part of a task."""

    task: Task
    rank: int  # from 1; the leader is 0
    rendezvous_file: str  # where the processes of the gang find each other


def backend(gpus: bool) -> str:
    """How torch's processes talk: small messages over gloo on the CPU, gradients on a GPU over NCCL."""
    return "cpu:gloo,cuda:nccl" if gpus else "gloo"


@contextmanager
def started_followers(function: str, parts: Sequence[Follower], threads: int) -> Iterator[None]:
    """One process per part that runs `function` (`pkg.module:name`) on it, all ready when the block begins.

    Raises:
        RuntimeError: a process died; with the end of what it printed.
    """
    errors = [tempfile.TemporaryFile("w+") for _ in parts]  # noqa: SIM115 - as long as the processes
    code = f"from initlab.engine.gang import main; main({function!r})"
    processes = [spawn(code, threads, file) for file in errors]
    try:
        for process, part in zip(processes, parts, strict=True):
            process.stdin.write(part.model_dump_json().encode() + b"\n")
            process.stdin.flush()
        for process in processes:
            if process.stdout.readline().decode().strip() != READY:
                raise RuntimeError("a process of the trial did not start")
        yield
    # Whatever the leader raised, that a follower died may be its cause.
    except Exception as error:
        raise RuntimeError(f"{error}{last_words(processes, errors)}") from error
    finally:
        end_processes(processes)


def last_words(processes: Sequence[Any], errors: Sequence[IO[str]]) -> str:
    """What the processes that died by themselves printed last."""
    words = []
    for rank, (process, file) in enumerate(zip(processes, errors, strict=True), start=1):
        with suppress(TimeoutExpired):
            if process.wait(1.0):
                file.seek(0)
                words.append(f"; process {rank} died: " + " | ".join(file.read().strip().splitlines()[-2:]))
    return "".join(words)


def main(function: str) -> None:
    """Run `function` on the part that comes on stdin; when stdin ends, the leader is gone, and so is this process."""
    ignore_stop_signals()
    run: Any = named_function(function)
    answers = os.fdopen(os.dup(1), "w")
    # What the task prints must not mix with the answer.
    os.dup2(2, 1)
    part = Follower.model_validate_json(sys.stdin.readline())
    threading.Thread(target=die_with_leader, daemon=True).start()
    print(READY, file=answers, flush=True)
    run(part)


class LateFailure:
    """Around code whose exception is let out only after some seconds, since another process shall report first."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, Exception):
            time.sleep(self.seconds)


def die_with_leader() -> None:
    """Wait for the end of stdin, then end this process."""
    sys.stdin.read()
    os._exit(1)
