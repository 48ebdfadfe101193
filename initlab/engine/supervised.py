"""A worker process and its supervision: what it prints goes to a log, what goes silent is ended with its stacks.

All pipes are read as they fill and none is waited for: a child that a trial left behind may hold them open for ever.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from initlab.engine.log_file import LogFile
from initlab.engine.signs import LOG, OTHER, STEP
from initlab.engine.stopping import signals_held
from initlab.engine.task import Answer, Task
from initlab.engine.worker import SHUTDOWN_TIMEOUT_S, STACKS

TIMEOUT_S = 300.0  # at least, and this many times the longest wait between two steps so far:
TIMES_LONGEST = 20
TIMES_BEFORE_STEP = 12  # as long may pass before the first step: code is imported, data loaded, a net compiled
STOP_TIMEOUT_S = 60.0  # from a stop to the last checkpoint
STACKS_S = 5.0  # that a process has to print its stacks
TAIL = 50_000  # bytes that are kept of what a process printed last
CHUNK = 65_536
# Longer than from one look at the workers to the next: the launch itself was stopped meanwhile, not they.
LAPSE_S = 5.0


class Worker:
    """One worker process, the task that it works on, and what is known of how it does."""

    task: Task | None = None

    def __init__(self, function: str, threads: int, timeout_s: float | None = None) -> None:
        """Start the process, which serves tasks with `function` (`pkg.module:name`)."""
        self.timeout_s = timeout_s
        code = f"from initlab.engine.worker import main; main({function!r})"
        self.process = spawn(code, threads, subprocess.PIPE)
        self.pipes = [self.process.stdout, self.process.stderr]
        for pipe in self.pipes:
            os.set_blocking(pipe.fileno(), False)
        self.line, self.tail, self.log = b"", b"", None  # type: tuple[bytes, bytes, LogFile | None]
        self.silent_s = self.longest_s = self.stopping_s = 0.0
        self.stepped = False
        self.looked = time.monotonic()

    def give(self, task: Task) -> None:
        """Hand a task over."""
        self.task, self.tail, self.log = task, b"", None
        self.silent_s, self.stepped, self.looked = 0.0, False, time.monotonic()
        # Where the process died meanwhile, its end says so.
        with suppress(BrokenPipeError):
            self.process.stdin.write(task.model_dump_json().encode() + b"\n")
            self.process.stdin.flush()

    def read(self) -> Answer | None:
        """Take in what the process has said and printed since the last time; its answer, if there is one."""
        answer = None
        *lines, self.line = (self.line + self.available(self.process.stdout)).split(b"\n")
        for line in lines:
            if line in (STEP, OTHER):
                self.heard(line == STEP)
            elif line.startswith(LOG):
                # What was printed before belongs to the trial before.
                self.read_output()
                self.log, self.stepped, self.silent_s = LogFile(Path(os.fsdecode(line.removeprefix(LOG)))), False, 0.0
            else:
                answer = Answer.model_validate_json(line)
        self.read_output()
        return answer

    def read_output(self) -> None:
        """Take in what was printed."""
        output = self.available(self.process.stderr)
        self.tail = (self.tail + output)[-TAIL:]
        if output and self.log:
            self.log.write(output)

    def available(self, pipe: IO[bytes]) -> bytes:
        """What lies in a pipe now, at most what it can hold, 1 MiB; after its end it is listened to no more."""
        parts = [b""]
        while pipe in self.pipes and len(parts) * CHUNK < 2**20:
            try:
                parts.append(os.read(pipe.fileno(), CHUNK))
            except BlockingIOError:
                break
            if not parts[-1]:
                self.pipes.remove(pipe)
        return b"".join(parts)

    def heard(self, step: bool) -> None:
        """Take note of a sign of life."""
        if self.stepped:
            self.longest_s = max(self.longest_s, self.silent_s)
        self.silent_s, self.stepped = 0.0, self.stepped or step

    def look(self, stopping: bool) -> str | None:
        """Count the time since the last look; why the process is to be ended, None where it does well enough."""
        now = time.monotonic()
        seconds, self.looked = min(now - self.looked, LAPSE_S), now
        self.silent_s += seconds
        self.stopping_s = self.stopping_s + seconds if stopping else 0.0
        if self.stopping_s > max(STOP_TIMEOUT_S, 2 * self.longest_s):
            return f"did not stop within {self.stopping_s:.0f} s"
        if self.silent_s > self.limit_s:
            return f"made no {'' if self.stepped else 'first '}step for {self.silent_s:.0f} s"
        return None

    @property
    def limit_s(self) -> float:
        """Seconds that it may be silent."""
        at_least = self.timeout_s or TIMEOUT_S
        if not self.stepped:
            return TIMES_BEFORE_STEP * at_least
        return at_least if self.timeout_s else max(at_least, TIMES_LONGEST * self.longest_s)

    def stacks(self) -> str:
        """Where the threads of the process are; "" where it does not say so in time."""
        self.read()
        self.tail = b""
        for number in (STACKS, signal.SIGCONT):
            self.process.send_signal(number)
        until = time.monotonic() + STACKS_S
        while time.monotonic() < until and self.process.poll() is None:
            before = self.tail
            time.sleep(0.3)
            self.read_output()
            if self.tail and self.tail == before:
                break
        return self.tail.decode(errors="replace")

    def last_words(self) -> tuple[str, str]:
        """How the process ended with the end of what it printed, in one line, and the stacks it died with."""
        code = self.process.wait()
        text, fatal, stacks = self.tail.decode(errors="replace").partition("Fatal Python error: ")
        end = f"signal {-code}" if code < 0 else f"exit code {code}"
        tail = " | ".join(text.strip().splitlines()[-3:])
        return end + (f": {tail}" if tail else ""), fatal + stacks

    @property
    def killed(self) -> bool:
        """Whether the process, which has died, was killed from outside, rather than by what it did itself."""
        return -int(self.process.returncode) in (signal.SIGKILL, signal.SIGTERM)


def spawn(code: str, threads: int, errors: Any) -> Any:
    """A process that runs `code`, with this one's import path, stdin and stdout as pipes and a session of its own.

    `errors` takes its stderr. It gets none of the signals that mean a stop.
    """
    # -P and not PYTHONPATH, since the working folder must not come before the standard library.
    code = f"import sys; sys.path[:] = {[path for path in sys.path if path]!r}; {code}"
    with signals_held():
        return subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            # OpenMP reads its number of threads once, when torch is imported.
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )


def end_processes(
    processes: Sequence[Any], timeout_s: float = SHUTDOWN_TIMEOUT_S, meanwhile: Callable[[], object] = lambda: None
) -> None:
    """Close what the processes read from, which they take for the sign to end, and kill those that go on.

    What they started is killed too, but for what has left their session. `meanwhile` is done again and again.
    """
    for process in processes:
        with suppress(BrokenPipeError):
            process.stdin.close()
    until = time.monotonic() + timeout_s
    try:
        while time.monotonic() < until and any(process.poll() is None for process in processes):
            meanwhile()
            time.sleep(0.05)
    # A second Ctrl-C ends the wait.
    finally:
        for process in processes:
            kill(process)


def kill(process: Any) -> None:
    """Kill a process and what it has started; one that hangs in the system, as on a dead disk, is left to itself."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STACKS_S)
