"""The Ray engine: trials as Ray Tune trials, on a local Ray of their own or on a running cluster.

Tune schedules, packs GPUs and tries a trial again whose process or node died; it decides nothing else. Whether a trial
is finished is for the store to say: Tune calls a trial that a signal ended a success.
Measured on two busy cores: `import ray` 1 s, start 4 s, shutdown 1.5 s, 0.04 s a trial once workers have started.
"""

import logging
import math
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

SETTINGS = {  # read by Ray when it is imported
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else workers under `uv run` are started anew through uv
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same as inline
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a box and a path even when told to be quiet
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",  # else a preempted trial is tried again without end
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # five files a trial that the store has already
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is the launch's: see engine/stopping.py
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's own state is never resumed from
}
for name, value in SETTINGS.items():
    os.environ.setdefault(name, value)

import ray  # noqa: E402 - after its settings
from ray import tune  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

from initlab.engine.worker import named_function  # noqa: E402
from initlab.errors import UserError  # noqa: E402

Task = dict[str, Any]  # plain data with at least `trial`; `out` too with an address
Answer = dict[str, Any]  # `trial`, `state`, and `error` where a process died
MAX_DEATHS = 2  # times that a trial may take its process down before it is given up
STOPPED = ("pending", "interrupted")  # the states that a trial answers with when a stop was asked for
CONNECT_S = 5.0
ADDRESSES = "HOST:PORT of a running cluster's head, or auto on one of its nodes"
NOTHING: dict[str, float] = {"cpu": 0, "memory": 1}  # one byte: Tune refuses a trial that needs nothing at all
OBJECT_STORE = 100 * 2**20  # bytes; nothing large goes through it, and the default takes 30 % of the memory


class EngineError(UserError):
    """A request that Ray cannot fulfil, in one line."""


def run_ray(
    tasks: Sequence[Task], function: str, jobs: int | None, *, threads: int = 1, gpus_per_trial: float = 0.0,
    address: str | None = None, devices: int = 1, follow: str = "",
) -> list[Answer]:  # fmt: skip
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
                search_alg=queue, num_samples=len(tasks), max_concurrent_trials=jobs,
                # a process leaves its CUDA cache and flags to the next trial
                reuse_actors=devices > 1 or not gpus_per_trial,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                storage_path=str(folder), name="tune", verbose=0,
                failure_config=tune.FailureConfig(max_failures=MAX_DEATHS),
            ),
        )  # fmt: skip
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


class Died(Exception):
    """A process of a gang died; which, and how."""


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


def exit_detail(error: Exception) -> str:
    """How a process ended, out of Ray's words for it."""
    end = str(error).strip().splitlines()[-1].rpartition("Worker exit detail: ")[2]
    return end.partition(" Some common causes")[0]


@contextmanager
def ray_running(jobs: int, *, threads: int = 1, address: str | None = None) -> Iterator[float]:
    """Ray for the length of the block, started here for `jobs` processes at once, or joined at `address`.

    Yields:
        Seconds that it took to start or join.

    Raises:
        EngineError: it cannot be started or reached.
    """
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    # OMP_NUM_THREADS: OpenMP reads it once, before a trial could set its threads
    options: dict[str, Any] = {"runtime_env": {"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads)}}}
    folder = None
    if address:
        check_reachable(address)
    else:
        # in /tmp: a path of Ray's sockets may have 107 bytes
        folder = tempfile.mkdtemp(prefix="initlab-", dir=os.environ.get("RAY_TMPDIR", "/tmp"))
        options |= {"num_cpus": jobs * threads, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
        options |= {"_temp_dir": folder}
    started = time.perf_counter()
    try:
        start(address or "local", options)  # None would join a cluster where RAY_ADDRESS names one
        yield time.perf_counter() - started
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def start(address: str, options: dict[str, Any]) -> None:
    """`ray.init`, quietly, with its errors in one line."""
    # prints "(raylet) A worker died ..." between our lines; the answers say it
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    try:
        with handlers_kept(), stderr_dropped():
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        why = " ".join(str(error).split())[:300]
        if "AuthToken" in str(error.__cause__):
            why = "it asks for a token; set RAY_AUTH_MODE=token and provide what `ray get-auth-token` prints there"
        if address == "local":
            raise EngineError(f"--engine: Ray does not start ({why}); use --engine inline") from error
        raise EngineError(f"--address: cannot join (got {address!r}: {why}); allowed: {ADDRESSES}") from error


@contextmanager
def stderr_dropped() -> Iterator[None]:
    """No stderr for the block, whose C++ half writes there past Python; what goes wrong is raised too."""
    before = os.dup(2)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def check_reachable(address: str) -> None:
    """Refuse an address that nothing answers at; Ray would try for minutes, then end the process."""
    if address == "auto":  # Ray looks for it on this machine, and says at once
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise EngineError(f"--address: not an address of a Ray cluster (got {address!r}); allowed: {ADDRESSES}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise EngineError(f"--address: nothing answers (got {address!r}: {error}); allowed: {ADDRESSES}") from None


def check_fits(threads: int, gpus: float, devices: int = 1) -> int:
    """Refuse what the cluster never has room for; Tune would leave it pending without end.

    Returns:
        How many tasks of `devices` processes it has room for at once, where each process takes whole GPUs or none.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    rooms = [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]
    places = [int(min(cpu // threads, gpu // gpus if gpus else math.inf)) for cpu, gpu in rooms]
    got = f"{threads} CPUs and {gpus:g} GPUs"
    if not any(places):
        where, advice = "run.threads", ""
        if all(gpu < gpus for _, gpu in rooms):
            where, advice = "--gpus-per-trial", "; or use --device cpu"
        allowed = " or ".join(sorted({f"{cpu:g} CPUs and {gpu:g} GPUs" for cpu, gpu in rooms})) or "nothing, no node"
        text = f"no node of the cluster has room for a trial (got {got}); allowed: up to {allowed}{advice}"
        raise EngineError(f"{where}: {text}")
    if sum(places) < devices:
        text = f"the cluster has no room for a trial (got {devices} processes of {got} each)"
        raise EngineError(f"--devices: {text}; allowed: up to {sum(places)}")
    return sum(places) // devices


@contextmanager
def tune_folder(tasks: Sequence[Task], address: str | None) -> Iterator[Path]:
    """A folder for Tune's own files, gone at the end; a cluster's nodes share it, so there it lies in the output."""
    folder = Path(tasks[0]["out"], ".tune") if address else Path(tempfile.mkdtemp(prefix="initlab-tune-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put back the signal handlers that Ray (SIGTERM) and Tune (SIGUSR1) install for good."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
