"""`initlab bench engine`: a study under each engine against the plain loop of `loop.py`, as ratios from one run.

All arms use the same number of one-thread processes and the same steps and validations; probes, logs and checkpoints
are initlab's own cost. Wall time is from the start of the first process to the end of the last trial, imports included;
Ray's one-off start is shown by itself.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from initlab.launch.run import run
from initlab.plan.plan import PlannedTrial, costliest_first, plan
from initlab.study.mistakes import StudyError
from initlab.study.study import load_study


def bench_engine(study: Path, jobs: int, repeats: int, overrides: Sequence[str]) -> Iterator[str]:
    """Lines of text: per arm seconds, and its ratio to the plain loop.

    Raises:
        StudyError: a study that the plain loop cannot run (it knows digits and plain relu nets).
    """
    # Imported here, because only this command needs Ray at once.
    from initlab.engine.cluster import ray_running

    trials = costliest_first(plan(load_study(study, overrides), str(study)))
    lines = [json.dumps(for_the_loop(trial)) for trial in trials]
    yield f"{len(trials)} trials of {study}, {jobs} processes of one thread, {repeats} runs of each arm in turn"
    base = inline = ray = 0.0
    for _ in range(repeats):
        base += (seconds := plain_loop(lines, jobs))
        yield f"plain loop {seconds:7.1f} s"
        inline += (seconds := with_engine(study, "inline", jobs, overrides))
        yield f"inline     {seconds:7.1f} s"
        with ray_running(jobs) as ray_start:
            ray += (seconds := with_engine(study, "ray", jobs, overrides))
        yield f"ray        {seconds:7.1f} s, and {ray_start:.1f} s to start Ray once"
    yield f"ratio to the plain loop: inline {inline / base:.3f}, ray {ray / base:.3f}"


def for_the_loop(trial: PlannedTrial) -> dict[str, Any]:
    """The fields that the plain loop takes."""
    spec = trial.spec
    net = (spec.net.name, spec.net.activation, spec.net.norm, spec.net.skip)
    fits = (spec.data.name, *net) == ("digits", "plain", "relu", "none", "none")
    if not fits or spec.train.epochs != int(spec.train.epochs) or spec.train.validate_every != 1:
        rule = "the plain loop knows plain relu nets on digits, whole epochs, a validation each"
        raise StudyError([f"bench engine: {rule}"])
    if spec.data.image_size != 16:
        rule = "set data.image_size 16, the only size whose linear layers the plain loop knows"
        raise StudyError([f"bench engine: images of another size (got {spec.data.image_size}); {rule}"])
    return {
        "seed": spec.seed,
        **spec.data.model_dump(include={"image_size", "scale"}),
        **spec.net.model_dump(include={"depth", "width"}),
        **spec.init.model_dump(include={"scheme", "mode", "last_factor"}),
        **spec.train.model_dump(include={"lr", "momentum", "weight_decay", "batch_size"}),
        "epochs": int(spec.train.epochs),
    }


def plain_loop(lines: Sequence[str], jobs: int) -> float:
    """Seconds that `jobs` processes of the plain loop need for all trials."""
    # With -P the script's folder, which holds an inspect.py, does not come before the standard library.
    command = [sys.executable, "-P", str(Path(__file__).with_name("loop.py"))]
    # All threads take from one iterator, a list's, which gives each line once.
    waiting = iter(list(lines))

    def serve(process: Any) -> None:
        """Hand trials to one process until none is left."""
        with process:
            for line in waiting:
                process.stdin.write(line + "\n")
                process.stdin.flush()
                if not process.stdout.readline():
                    raise RuntimeError("bench engine: the plain loop died; see its error above")

    started = time.perf_counter()
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with ThreadPoolExecutor(jobs) as threads:
        list(threads.map(serve, [subprocess.Popen(command, **pipes) for _ in range(jobs)]))
    return time.perf_counter() - started


def with_engine(study: Path, engine: Any, jobs: int, overrides: Sequence[str]) -> float:
    """Seconds that a launch of initlab needs for all trials."""
    with tempfile.TemporaryDirectory(prefix="initlab-bench-") as out:
        started = time.perf_counter()
        run(study, out, engine=engine, jobs=jobs, device="cpu", overrides=overrides, show="nothing")
        return time.perf_counter() - started
