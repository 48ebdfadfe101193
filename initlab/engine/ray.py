"""The Ray engine: trials as Ray Tune trials, on a local Ray of their own or on a running cluster.

Tune schedules, packs GPUs and tries a trial again whose process or node died; it decides nothing else. Whether a trial
is finished is for the store to say: Tune calls a trial that a signal ended a success.
"""

import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from initlab.engine import inline
from initlab.engine.cluster import (
    Died,
    EngineError,
    check_fits,
    check_out_shared,
    exit_detail,
    handlers_kept,
    ray_running,
)
from initlab.engine.submit import MAX_DEATHS, TIMES, Resources, Work
from initlab.engine.task import Answer, State, Task, answer_all
from initlab.engine.task_queue import TaskQueue

# Ray is imported after its settings, which `cluster` makes
# isort: split
import ray
from ray import tune
from ray.tune.search import Searcher

NOTHING: dict[str, float] = {"cpu": 0, "memory": 1}  # one byte: Tune refuses a trial that needs nothing at all


def submit(tasks: Sequence[Task], work: Work, resources: Resources) -> Generator[Answer, None, None]:
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
    queue = Suggestions(tasks, resources.max_failures)
    processes, threads, address = (jobs or 1) * devices, resources.threads, resources.address
    cluster = nullcontext() if ray.is_initialized() else ray_running(processes, threads=threads, address=address)
    with cluster, tune_folder(tasks, address) as folder, handlers_kept():
        places = check_fits(threads, gpus, devices)
        if address:
            check_out_shared(tasks[0].out)
        if devices > 1:
            # Tune can't tell how many fit: its own trial holds nothing of what the processes of a gang need.
            jobs = min(jobs or places, places)
        if jobs:
            # Without this, processes start one after the other.
            os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(jobs)
        results = tuner_over(queue, len(tasks), jobs, trainable(work, resources, folder), resources, folder).fit()
        # A trial's folder is named by its id; its config is lost where it never reported.
        ended = {Path(results[i].path).name: results[i] for i in range(len(results))}
        answers = [answer_of(task, ended.get(trial)) for trial, task in queue.begun.items()]
    yield from answers
    yield from queue.notes
    yield from queue.tasks.rest()


def trainable(work: Work, resources: Resources, folder: Path) -> Any:
    """What Tune runs for each task, and what that holds meanwhile."""
    if resources.devices > 1:
        gang = partial(run_in_gang, work=work, resources=resources, folder=str(folder))
        return tune.with_resources(reporting(gang), NOTHING)
    # Tune starts a process for each trial on a GPU, which can as well be one that is watched.
    isolate = resources.isolate or resources.gpus > 0
    here = partial(run_inline, work=work, resources=replace(resources, jobs=1, isolate=isolate, max_failures=None))
    return tune.with_resources(reporting(here), {"cpu": resources.threads, "gpu": resources.gpus})


def tuner_over(
    queue: "Suggestions", num_tasks: int, jobs: int | None, run: Any, resources: Resources, folder: Path
) -> tune.Tuner:
    """Tune as it takes tasks from the queue, at most `jobs` at once, with its own files in a folder."""
    return tune.Tuner(
        run,
        tune_config=tune.TuneConfig(
            search_alg=queue,
            num_samples=num_tasks,
            max_concurrent_trials=jobs,
            # A process leaves its CUDA cache and flags to the next trial.
            reuse_actors=resources.devices > 1 or not resources.gpus,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            storage_path=str(folder), name="tune", verbose=0, failure_config=tune.FailureConfig(max_failures=MAX_DEATHS)
        ),
    )


class Suggestions(Searcher):
    """Hands the tasks to Tune one by one, and none after a stop: a grid would start a process for each that is left."""

    def __init__(self, tasks: Sequence[Task], max_failures: int | None) -> None:
        super().__init__()
        self.tasks = TaskQueue(tasks, max_failures)
        self.begun: dict[str, Task] = {}
        self.notes: list[Answer] = []

    def suggest(self, trial_id: str) -> Any:
        """The next task as a Tune config, or that there is none."""
        if (task := self.tasks.take()) is None:
            return Searcher.FINISHED
        self.begun[trial_id] = task
        # Ray puts the working folder before the standard library.
        return {"task": task.model_dump(mode="json"), "path": sys.path}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take note of how it ended."""
        task, reported = self.begun[trial_id], (result or {}).get("answer")
        answer = Answer.model_validate_json(reported) if reported else answer_all(task, State.FAILED, "died")
        _, *notes = self.tasks.settle(task, answer)
        self.notes += notes


def reporting(run: Callable[[Task], Answer]) -> Callable[[dict[str, Any]], None]:
    """What Tune calls in a worker: it runs the task and reports the answer; only a lost process is tried again."""

    def trial(config: dict[str, Any]) -> None:
        """Run the task and report its answer to Tune."""
        sys.path[:] = config["path"]
        task = Task.model_validate(config["task"])
        try:
            answer = run(task)
        except Died:
            raise
        # It would be raised as often as it is tried.
        except Exception as error:
            answer = answer_all(task, State.FAILED, raised(error), died=True, traceback=traceback.format_exc())
        tune.report({"answer": answer.model_dump_json()})

    return trial


def raised(error: BaseException) -> str:
    """`raised ValueError: what was wrong`, in one line."""
    return f"raised {type(error).__name__}: {' '.join(str(error).split())}"


def run_inline(task: Task, work: Work, resources: Resources) -> Answer:
    """The answer of a task that the inline engine runs in this process, or in one of its own."""
    (answer,) = (answer for answer in inline.submit([task], work, resources) if answer.ends)
    return answer


def run_in_gang(task: Task, work: Work, resources: Resources, folder: str) -> Answer:
    """The answer of several processes that share a task."""
    # Imported in a worker: it needs torch.
    from initlab.engine.ray_train import run_gang

    return run_gang(task, work, resources, folder)


def answer_of(task: Task, result: Any) -> Answer:
    """What the function answered, or how its process ended; neither where Tune was stopped.

    A process that died before its first report has left nothing but the error; one that Tune does not know of, nothing.
    """
    if result is None:
        return answer_all(task, State.PENDING)
    if result.error is None:
        answer = (result.metrics or {}).get("answer")
        return Answer.model_validate_json(answer) if answer else answer_all(task, State.INTERRUPTED)
    # An exception has a cause, the death of a process has none.
    cause = getattr(result.error, "cause", None)
    if isinstance(cause, Died):
        text = f"its process died {TIMES}, last with: {cause}"
    elif cause is not None:
        text = raised(cause)
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
