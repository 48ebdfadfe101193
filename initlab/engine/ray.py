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
from functools import partial
from pathlib import Path
from typing import Any

from initlab.engine.cluster import Died, EngineError, check_fits, exit_detail, handlers_kept, ray_running
from initlab.engine.submit import MAX_DEATHS, TIMES, Resources, Work
from initlab.engine.task import Answer, State, Task, answer_all
from initlab.engine.worker import named_function

# Ray is imported after its settings, which `cluster` makes
# isort: split
import ray
from ray import tune
from ray.tune.search import Searcher

NOTHING: dict[str, float] = {"cpu": 0, "memory": 1}  # one byte: Tune refuses a trial that needs nothing at all


def submit(tasks: Sequence[Task], work: Work, resources: Resources) -> Iterator[Answer]:
    """Run every task; see `submit.Engine`. Once an answer says that a stop was requested, none is begun.

    With an address the nodes of the cluster share the folder `out` of the tasks. Several devices are processes that
    Ray Train starts (`ray_train.py`); they may lie on several nodes.

    Yields:
        An answer per task: those that ran in the order of their beginning, then those not begun, as `pending`.

    Raises:
        EngineError: the cluster cannot be reached, or no node of it has room for a task.
    """
    gpus, devices, jobs = resources.gpus, resources.devices, resources.jobs
    if gpus > 1 and gpus % 1:
        text = f"not whole (got {gpus}); allowed: a fraction up to 1, or a whole number"
        raise EngineError(f"--gpus-per-trial: {text}")
    if not tasks:
        return
    queue = TaskQueue(tasks)
    processes, threads, address = (jobs or 1) * devices, resources.threads, resources.address
    cluster = nullcontext() if ray.is_initialized() else ray_running(processes, threads=threads, address=address)
    with cluster, tune_folder(tasks, address) as folder, handlers_kept():
        places = check_fits(threads, gpus, devices)
        if devices > 1:
            # Tune can't tell how many fit: its own trial holds nothing of what the processes of a gang need.
            jobs = min(jobs or places, places)
            gang = partial(run_in_gang, work=work, resources=resources, folder=str(folder))
            trainable = tune.with_resources(reporting(work, gang), NOTHING)
        else:
            trainable = tune.with_resources(reporting(work), {"cpu": threads, "gpu": gpus})
        if jobs:
            # Without this, processes start one after the other.
            os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(jobs)
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=queue,
                num_samples=len(tasks),
                max_concurrent_trials=jobs,
                # A process leaves its CUDA cache and flags to the next trial.
                reuse_actors=devices > 1 or not gpus,
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
    yield from answers
    yield from (answer_all(task, State.PENDING) for task in queue.tasks)


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
        return {"task": self.tasks.popleft().model_dump(mode="json")}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take note of a stop."""
        # Tune hands the report over flat.
        self.stopped = self.stopped or bool((result or {}).get("stop_requested"))


def reporting(work: Work, gang: Callable[[Task], Answer] | None = None) -> Callable[[dict[str, Any]], None]:
    """What Tune calls in a worker: it runs the task there, or hands it to a gang, and reports the answer."""

    def trial(config: dict[str, Any]) -> None:
        """Run the task and report its answers to Tune."""
        answer: Answer = (gang or named_function(work.run))(Task.model_validate(config["task"]))
        tune.report({"answer": answer.model_dump_json(), "stop_requested": answer.stop_requested})

    return trial


def run_in_gang(task: Task, work: Work, resources: Resources, folder: str) -> Answer:
    """The answer of several processes that share a task."""
    # Imported in a worker: it needs torch.
    from initlab.engine.ray_train import run_gang

    return run_gang(task, work, resources, folder)


def answer_of(result: Any) -> Answer:
    """What the function answered, or how its process ended; neither where Tune got a SIGUSR1, its sign to stop."""
    task = Task.model_validate(result.config["task"])
    if result.error is None:
        answer = (result.metrics or {}).get("answer")
        return Answer.model_validate_json(answer) if answer else answer_all(task, State.INTERRUPTED)
    # An exception has a cause, the death of a process has none.
    cause = getattr(result.error, "cause", None)
    if isinstance(cause, Died):
        text = f"its process died {TIMES}, last with: {cause}"
    elif cause is not None:
        text = f"raised {TIMES}, last with {type(cause).__name__}: {' '.join(str(cause).split())}"
    else:
        text = f"its process died {TIMES}, last with: {exit_detail(result.error)}"
    return answer_all(task, State.FAILED, text, died=True)


@contextmanager
def tune_folder(tasks: Sequence[Task], address: str | None) -> Iterator[Path]:
    """A folder for Tune's own files, gone at the end; a cluster's nodes share it, so there it lies in the output."""
    folder = Path(tasks[0].out, ".tune") if address else Path(tempfile.mkdtemp(prefix="initlab-tune-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
