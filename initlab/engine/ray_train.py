"""One task in several processes that Ray Train starts, on as few nodes as have room for them, and that torch joins.

The first runs the task's function, the others a function that follows it; the answer is the first one's. It goes by a
file in Tune's folder, which the nodes share: Ray Train hands over nothing where one of its processes has failed, and
those that follow fail whenever the first one ends before them.
Imports torch: in a worker, when a trial begins there.
"""

import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SETTINGS = {  # read by Ray Train when it starts a group, and handed on to its processes
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how late an end is noticed; 2 by default
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "604800",  # others may use the cluster: wait for room, as Tune does
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process more per trial; a preempted one is a dead one
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
for name, value in SETTINGS.items():
    os.environ.setdefault(name, value)

import ray.train  # noqa: E402 - after its settings
from ray.train.torch import TorchConfig, TorchTrainer  # noqa: E402
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError  # noqa: E402 - Ray has no other name for a process that died

from initlab.engine.deaths import Died, exit_detail  # noqa: E402
from initlab.engine.gang import SILENCE_S, backend  # noqa: E402
from initlab.engine.worker import named_function  # noqa: E402

WORD_S = 20.0  # that the first has to say what went wrong, before one of the others does
PARTING_S = 2.0  # that the others have to end after the first; they end with it, or wait for it in vain
ANSWER = "answer.json"


@dataclass(frozen=True)
class Gang:
    """How one task is shared by several processes: plain data."""

    function: str  # `pkg.module:name`, of task to answer
    follow: str  # of task to nothing, in the other processes
    size: int
    threads: int  # CPUs per process
    gpus: float  # per process


class Parted(Exception):
    """The first process has its answer, and others are at work still: the group is to be ended."""


def run_gang(task: dict[str, Any], gang: Gang, folder: str) -> dict[str, Any]:
    """The task's answer, from the first of its processes.

    Args:
        folder: of this launch, on a disk that the nodes share.

    Raises:
        Died: one of the processes died; the answer of the first, if it has one, may be that it lost the other.
        Exception: what one of them raised, where the first has no answer.
    """
    own = Path(tempfile.mkdtemp(prefix="gang-", dir=folder))  # a name that was used before would be resumed
    resources = {"CPU": float(gang.threads)} | ({"GPU": gang.gpus} if gang.gpus else {})
    trainer = TorchTrainer(
        work,
        train_loop_config={"task": task, "gang": asdict(gang), "folder": str(own)},
        torch_config=TorchConfig(backend=backend(gang.gpus > 0), timeout_s=int(SILENCE_S)),
        scaling_config=ray.train.ScalingConfig(
            num_workers=gang.size, use_gpu=gang.gpus > 0, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name="train",
            storage_path=str(own),
            # nothing is tried again here, Tune does that; mypy takes the class for that of Ray Train's first version
            failure_config=ray.train.FailureConfig(  # type: ignore[call-arg]
                max_failures=0, controller_failure_limit=0, max_preemption_failures=0
            ),
        ),
    )
    try:
        trainer.fit()
    except ray.train.ControllerError as error:
        raise Died(f"its processes do not start: {exit_detail(error.controller_failure)}") from None
    except ray.train.WorkerGroupError as error:
        for rank, failure in sorted(error.worker_failures.items()):
            if isinstance(failure, WorkerHealthCheckFailedError | WorkerHealthCheckTimeoutError):
                raise Died(f"process {rank} of {gang.size}: {exit_detail(failure)}") from None
        if not (own / ANSWER).exists():
            raise error.worker_failures[min(error.worker_failures)] from None
    answer: dict[str, Any] = json.loads((own / ANSWER).read_text())
    return answer


def work(shared: dict[str, Any]) -> None:
    """What every process of the group runs; torch has joined them."""
    task, gang, folder = shared["task"], Gang(**shared["gang"]), Path(shared["folder"])
    rank = ray.train.get_context().get_world_rank()
    if rank > 0:
        try:
            named_function(gang.follow)(task)
        except Exception:
            time.sleep(WORD_S)
            raise
        (folder / f"ended-{rank}").touch()
        return
    answer = named_function(gang.function)(task)
    (folder / ANSWER).write_text(json.dumps(answer))
    begun = time.monotonic()
    while len(list(folder.glob("ended-*"))) < gang.size - 1:
        if time.monotonic() - begun > PARTING_S:
            raise Parted
        time.sleep(0.05)
