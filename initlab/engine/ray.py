"""The Ray engine: trials as Ray Tune trials, on a local Ray of their own or on a running cluster.

Tune schedules, packs GPUs and tries a trial again whose process or node died; it decides nothing else. Whether a trial
is finished is for the store to say: Tune calls a trial that a signal ended a success.
"""

import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from initlab.engine.cluster import EngineError, check_fits, handlers_kept, ray_running
from initlab.engine.deaths import Died, exit_detail
from initlab.engine.worker import named_function

# Ray is imported after its settings, which `cluster` makes
# isort: split
import ray
from ray import tune
from ray.tune.search import Searcher

Task = dict[str, Any]  # plain data with at least `trial`; `out` too with an address
Answer = dict[str, Any]  # `trial`, `state`, and `error` where a process died
MAX_DEATHS = 2  # times that a trial may take its process down before it is given up
STOPPED = ("pending", "interrupted")  # the states that a trial answers with when a stop was asked for
NOTHING: dict[str, float] = {"cpu": 0, "memory": 1}  # one byte: Tune refuses a trial that needs nothing at all


def run_ray(
    tasks: Sequence[Task],
    function: str,
    jobs: int | None,
    *,
    threads: int = 1,
    gpus_per_trial: float = 0.0,
    address: str | None = None,
    devices: int = 1,
    follow: str = "",
) -> list[Answer]:
    """Run `function` (`pkg.module:name`, of task to answer) on every task.

    A task whose process dies is tried again, twice. Once an answer says that a stop was asked for, none is begun.

    Args:
        jobs: tasks at once, as far as the cluster has room; None is as many as it has room for (with an address).
        threads: CPUs per process.
        gpus_per_trial: per process; a fraction up to 1, or a whole number; 0 on a CPU.
        address: of a running cluster (`auto`, `HOST:PORT`), whose nodes share the folder `out` of the tasks.
        devices: processes per task, which Ray Train starts (`engine/ray_train.py`); they may lie on several nodes.
        follow: what those but the first run (`pkg.module:name`, of task to nothing).

    Returns:
        One answer per task: those that ran as they were begun, then those that were not begun, as `pending`.

    Raises:
        EngineError: the cluster cannot be reached, or no node of it has room for a task.
    """
    if gpus_per_trial > 1 and gpus_per_trial % 1:
        text = f"not whole (got {gpus_per_trial}); allowed: a fraction up to 1, or a whole number"
        raise EngineError(f"--gpus-per-trial: {text}")
    if not tasks:
        return []
    queue = TaskQueue(tasks)
    at_once = (jobs or 1) * devices
    running = nullcontext() if ray.is_initialized() else ray_running(at_once, threads=threads, address=address)
    with running, tune_folder(tasks, address) as folder, handlers_kept():
        places = check_fits(threads, gpus_per_trial, devices)
        if devices > 1:
            jobs = min(jobs or places, places)  # Tune can't tell: its own trial holds nothing of what the others need
            gang = {"function": function, "follow": follow, "size": devices, "threads": threads, "gpus": gpus_per_trial}
            trainable = tune.with_resources(gang_reporting(gang, folder), NOTHING)
        else:
            trainable = tune.with_resources(reporting(function), {"cpu": threads, "gpu": gpus_per_trial})
        if jobs:
            os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(jobs)  # else processes start one after the other
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=queue,
                num_samples=len(tasks),
                max_concurrent_trials=jobs,
                # a process leaves its CUDA cache and flags to the next trial
                reuse_actors=devices > 1 or not gpus_per_trial,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                storage_path=str(folder),
                name="tune",
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=MAX_DEATHS),
            ),
        )
        results = tuner.fit()
        answers = [answer_of(results[i]) for i in range(len(results))]
    return answers + [{"trial": task["trial"], "state": "pending"} for task in queue.tasks]


class TaskQueue(Searcher):
    """Hands the tasks to Tune one by one, and none after a stop: a grid would start a process for each that is left."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.tasks = deque(tasks)
        self.stopped = False

    def suggest(self, trial_id: str) -> Any:
        """The next task as a Tune config, or that there is none."""
        if self.stopped or not self.tasks:
            return Searcher.FINISHED
        return {"task": self.tasks.popleft()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take note of a stop."""
        self.stopped = self.stopped or (result or {}).get("answer/state") in STOPPED  # Tune hands it over flat


def reporting(function: str) -> Callable[[dict[str, Any]], None]:
    """The function as Tune calls it in a worker, its answer as the report."""

    def trial(config: dict[str, Any]) -> None:
        tune.report({"answer": named_function(function)(config["task"])})

    return trial


def gang_reporting(gang: dict[str, Any], folder: Path) -> Callable[[dict[str, Any]], None]:
    """The same where several processes share a task; `gang` says how, as `ray_train.Gang` takes it."""

    def trial(config: dict[str, Any]) -> None:
        from initlab.engine.ray_train import Gang, run_gang  # here, in a worker: it imports torch

        tune.report({"answer": run_gang(config["task"], Gang(**gang), str(folder))})

    return trial


def answer_of(result: Any) -> Answer:
    """What the function answered, or how its process ended; neither where Tune got a SIGUSR1, its sign to stop."""
    trial = result.config["task"]["trial"]
    if result.error is None:
        answer: Answer = (result.metrics or {}).get("answer") or {"trial": trial, "state": "interrupted"}
        return answer
    times = f"{MAX_DEATHS + 1} times"
    cause = getattr(result.error, "cause", None)  # an exception has one, a death has not
    if isinstance(cause, Died):
        text = f"its process died {times}, last with: {cause}"
    elif cause is not None:
        text = f"raised {times}, last with {type(cause).__name__}: {' '.join(str(cause).split())}"
    else:
        text = f"its process died {times}, last with: {exit_detail(result.error)}"
    return {"trial": trial, "state": "failed", "error": text}


@contextmanager
def tune_folder(tasks: Sequence[Task], address: str | None) -> Iterator[Path]:
    """A folder for Tune's own files, gone at the end; a cluster's nodes share it, so there it lies in the output."""
    folder = Path(tasks[0]["out"], ".tune") if address else Path(tempfile.mkdtemp(prefix="initlab-tune-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
