"""`initlab bench engine`: trials under each engine against the plain loop of `loop.py`, as ratios from one run.

All arms use the same number of one-thread processes and the same steps and validations; probes, logs and checkpoints
are initlab's own cost. Wall time is from the start of the first process to the end of the last trial, imports included;
Ray's one-off start is shown by itself.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from initlab.bench.loop import train
from initlab.bench.timing import in_turn
from initlab.launch.run import run
from initlab.plan.plan import PlannedTrial, costliest_first, plan
from initlab.study.mistakes import StudyError
from initlab.study.study import Study


def trivial(trials: int) -> Study:
    """A study of trials of one epoch of 44 steps, a fifth of a second each: what is around them shows."""
    train = {"epochs": 1, "log_every": 1000}
    net, data = {"depth": 6, "width": 4}, {"image_size": 16}
    grid = {"seed": list(range(trials))}
    content = {"name": "trivial", "data": data, "net": net, "train": train, "probe": {"every": 0}, "grid": grid}
    return Study.model_validate(content)


def bench_engine(study: Study, jobs: int, repeats: int) -> Iterator[str]:
    """Lines of text: per arm seconds, trials a second, the ratio to the plain loop, and what a trial costs more.

    Raises:
        StudyError: a study that the plain loop cannot run (it knows digits and plain relu nets).
    """
    trials = [for_the_loop(trial) for trial in costliest_first(plan(study))]
    lines = [json.dumps(trial) for trial in trials]
    starts: list[float] = []
    arms: dict[str, Callable[[], float]] = {
        "plain loop": lambda: plain_loop(lines, jobs),
        "inline": lambda: with_engine(study, "inline", jobs),
        "plain Tune": lambda: under_ray(lambda: plain_tune(trials), jobs, starts),
        "ray": lambda: under_ray(lambda: with_engine(study, "ray", jobs), jobs, starts),
    }
    yield f"{len(trials)} trials of {study.name}, {jobs} processes of one thread, median of {repeats} rounds"
    seconds = {name: median(values) for name, values in in_turn(arms, repeats).items()}
    base = seconds["plain loop"]
    for name, taken in seconds.items():
        more = (taken - base) * jobs / len(trials) * 1000
        figures = f"{taken:8.1f} s {len(trials) / taken:7.2f} trials/s {taken / base:6.2f} times the loop"
        yield f"{name:<10} {figures} {more:+8.0f} ms of a process per trial"
    yield f"Ray's own start, not in these: {median(starts):.1f} s"


def under_ray(measure: Callable[[], float], jobs: int, starts: list[float]) -> float:
    """What `measure` measures while a local Ray runs; the seconds of Ray's start go to `starts`."""
    # Imported here, because only these arms need Ray.
    from initlab.engine.cluster import ray_running

    with ray_running(jobs) as start:
        starts.append(start)
        return measure()


def plain_tune(trials: Sequence[dict[str, Any]]) -> float:
    """Seconds that a function of Ray Tune, written by hand around the plain loop's training, needs for all trials."""
    from ray import tune

    def trainable(config: dict[str, Any]) -> None:
        """Train one trial, and report its error."""
        tune.report({"val_error": train(config)})

    with tempfile.TemporaryDirectory(prefix="initlab-bench-") as folder:
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space=tune.grid_search([*trials]),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        started = time.perf_counter()
        results = tuner.fit()
        seconds = time.perf_counter() - started
    if results.num_errors:
        raise RuntimeError(f"bench engine: plain Tune failed: {results.errors[0]}")
    return seconds


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


def with_engine(study: Study, engine: Any, jobs: int) -> float:
    """Seconds that a launch of initlab needs for all trials."""
    with tempfile.TemporaryDirectory(prefix="initlab-bench-") as out:
        started = time.perf_counter()
        run(study, out, engine=engine, jobs=jobs, device="cpu", show="nothing")
        return time.perf_counter() - started
