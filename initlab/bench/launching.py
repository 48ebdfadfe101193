"""`initlab bench launch`: how long a launch of many trials takes to its first step, to stop, and to find all done."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from initlab.bench.engine import trivial
from initlab.store import files

POLL_S = 0.05
PATIENCE_S = 600.0


def bench_launch(trials: int, few: int, jobs: int) -> Iterator[str]:
    """Lines of text: seconds to the first step of `trials` trials and to stop them; to resume a study of `few`."""
    with tempfile.TemporaryDirectory(prefix="initlab-bench-") as folder:
        yield f"{trials:,} trials, {jobs} processes of one thread; from the start of the command, imports included"
        first, stopped = first_step(Path(folder, "many"), trials, jobs)
        yield f"to the first step of a trial: {first:.1f} s"
        yield f"from SIGINT there to the end, with a checkpoint in every trial begun: {stopped:.1f} s"
        out = Path(folder, "few")
        yield f"{few} trials, all run: {command(out, few, jobs):.1f} s"
        yield f"again, with nothing to do: {command(out, few, jobs):.1f} s"
        shutil.rmtree(next((out / files.TRIALS).iterdir()))
        yield f"again, with one of them to do: {command(out, few, jobs):.1f} s"


def launch(out: Path, trials: int, jobs: int) -> subprocess.Popen[bytes]:
    """The command that runs so many trivial trials, begun."""
    study = out.with_suffix(".json")
    study.write_text(json.dumps(trivial(trials).model_dump(mode="json", exclude_defaults=True)))
    arguments = ["run", str(study), "--out", str(out), "--device", "cpu", "--jobs", str(jobs)]
    return subprocess.Popen([sys.executable, "-m", "initlab", *arguments], stdout=subprocess.DEVNULL)


def command(out: Path, trials: int, jobs: int) -> float:
    """Seconds of the whole command.

    Raises:
        RuntimeError: it ended with another code than 0; its stderr says why.
    """
    started = time.perf_counter()
    code = launch(out, trials, jobs).wait()
    if code:
        raise RuntimeError(f"bench launch: the command ended with {code}; see its error above")
    return time.perf_counter() - started


def first_step(out: Path, trials: int, jobs: int) -> tuple[float, float]:
    """Seconds from the start of the command to a trial's first row after step 0, and from SIGINT there to its end.

    Raises:
        RuntimeError: no trial began, or the command did not stop as asked.
    """
    started = time.perf_counter()
    with launch(out, trials, jobs) as process:
        while not begun(out):
            if process.poll() is not None or time.perf_counter() - started > PATIENCE_S:
                process.kill()
                raise RuntimeError("bench launch: no trial began; see the command's error above")
            time.sleep(POLL_S)
        first = time.perf_counter() - started
        process.send_signal(signal.SIGINT)
        asked = time.perf_counter()
        code = process.wait(PATIENCE_S)
    if code != 3:
        raise RuntimeError(f"bench launch: a stop was asked for, and the command ended with {code}, not 3")
    return first, time.perf_counter() - asked


def begun(out: Path) -> bool:
    """Whether a trial has a row of scalars after that of step 0."""
    rows = (out / files.TRIALS).glob(f"*/*/{files.SCALARS}")
    return any(len(path.read_bytes().splitlines()) > 1 for path in rows)
