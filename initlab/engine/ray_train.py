"""One task in several processes that Ray Train starts, on as few nodes as have room for them, and that torch joins.

The first, the leader, runs the task's function, its followers another one; the answer is the leader's. It goes by a
file in Tune's folder, which the nodes share: Ray Train hands over nothing where one of its processes has failed, and
followers fail whenever the leader ends before them.
Imports torch: in a worker, when a trial begins there.
"""

import os
import tempfile
import time
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

# Ray has no other names for a process that died.
from ray.train.v2._internal import exceptions as deaths  # noqa: E402

from initlab.engine.cluster import Died, exit_detail  # noqa: E402
from initlab.engine.gang import COLLECTIVE_TIMEOUT_S, LateFailure, backend  # noqa: E402
from initlab.engine.submit import Resources, Work  # noqa: E402
from initlab.engine.task import Answer, Task  # noqa: E402
from initlab.engine.worker import named_function  # noqa: E402

LEADER_REPORT_S = 20.0  # that the leader has to say what went wrong, before a follower does
FOLLOWER_GRACE_S = 2.0  # that followers have to end after the leader; they end with it, or wait for it in vain
ANSWER = "answer.json"


class Parted(Exception):
    """The leader has its answer, and followers are at work still: the gang is to be ended."""


def run_gang(task: Task, work: Work, resources: Resources, folder: str) -> Answer:
    """The task's answer, from the leader of its processes.

    Args:
        folder: of this launch, on a disk that the nodes share.

    Raises:
        Died: one of the processes died; the answer of the leader, if it has one, may be that it lost the other.
        Exception: what one of them raised, where the leader has no answer.
    """
    # A name that was used before would be resumed.
    gang_folder = Path(tempfile.mkdtemp(prefix="gang-", dir=folder))
    gpus, size = resources.gpus, resources.devices
    per_process = {"CPU": float(resources.threads)} | ({"GPU": gpus} if gpus else {})
    trainer = TorchTrainer(
        take_part,
        train_loop_config={
            **{"task": task.model_dump(mode="json"), "run": work.run, "follow": work.follow, "size": size},
            "folder": str(gang_folder),
        },
        torch_config=TorchConfig(backend=backend(gpus > 0), timeout_s=int(COLLECTIVE_TIMEOUT_S)),
        scaling_config=ray.train.ScalingConfig(num_workers=size, use_gpu=gpus > 0, resources_per_worker=per_process),
        run_config=ray.train.RunConfig(
            name="train",
            storage_path=str(gang_folder),
            # Nothing is tried again here, Tune does that. Mypy takes the class for that of Ray Train's first version.
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
            if isinstance(failure, deaths.WorkerHealthCheckFailedError | deaths.WorkerHealthCheckTimeoutError):
                raise Died(f"process {rank} of {size}: {exit_detail(failure)}") from None
        if not (gang_folder / ANSWER).exists():
            raise error.worker_failures[min(error.worker_failures)] from None
    return Answer.model_validate_json((gang_folder / ANSWER).read_text())


def take_part(shared: dict[str, Any]) -> None:
    """What every process of the gang runs; torch has joined them."""
    task, folder = Task.model_validate(shared["task"]), Path(shared["folder"])
    rank = ray.train.get_context().get_world_rank()
    if rank > 0:
        with LateFailure(LEADER_REPORT_S):
            named_function(shared["follow"])(task)
        (folder / f"ended-{rank}").touch()
        return
    (folder / ANSWER).write_text(named_function(shared["run"])(task).model_dump_json())
    answered = time.monotonic()
    while len(list(folder.glob("ended-*"))) < shared["size"] - 1:
        if time.monotonic() - answered > FOLLOWER_GRACE_S:
            raise Parted
        time.sleep(0.05)
