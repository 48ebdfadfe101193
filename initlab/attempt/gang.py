"""Several processes that train one trial: the leader's group, and what its followers run."""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from initlab.attempt.assemble import build_net, load_data
from initlab.engine.gang import Follower, LateFailure, started_followers
from initlab.engine.task import Task
from initlab.train.cuda import kernels
from initlab.train.group import ALONE, Group, current_group, join_group, leave_group
from initlab.train.records import Silent
from initlab.train.trial import Trial

LOSS_S = 10.0  # until an engine has noticed for certain that a process died
JOIN_AND_FOLLOW = "initlab.attempt.gang:join_and_follow"  # by name: it runs in processes of its own


def device_of(task: Task) -> torch.device:
    """Where to compute."""
    name = task.run.device or ("cuda" if torch.cuda.is_available() else "cpu")
    # In a group each process has a GPU of its own, which was set before.
    if name == "cuda" and current_group().size > 1:
        return torch.device(name, torch.cuda.current_device())
    return torch.device(name)


@contextmanager
def group_of(task: Task, device: torch.device) -> Iterator[Group]:
    """The group of processes that train the task's trial, led by this one; it is over when the block is left.

    The followers are there already where the engine started them along with this process.
    """
    size, group = task.run.devices, current_group()
    if size == 1:
        yield ALONE
    elif group.size == size:
        # If the error is that a follower died, the engine ends this process too: no failure to record.
        with LateFailure(LOSS_S):
            yield group
    else:
        with tempfile.TemporaryDirectory(prefix="initlab-group-") as folder:
            file = Path(folder) / "rendezvous"
            parts = [Follower(task=task, rank=rank, rendezvous_file=str(file)) for rank in range(1, size)]
            with started_followers(JOIN_AND_FOLLOW, parts, task.run.threads):
                try:
                    yield join_group(0, size, file, device)
                finally:
                    leave_group()


def join_and_follow(part: Follower) -> None:
    """`follow` in a process that the leader started: on a device of its own, in the group that meets at a file."""
    task, device = part.task, device_of(part.task)
    if device.type == "cuda":
        torch.cuda.set_device(part.rank)
    join_group(part.rank, task.run.devices, Path(part.rendezvous_file), device)
    follow(task)
    leave_group()


def follow(task: Task) -> None:
    """A follower's part of a trial: the same steps as the leader, on its slice of each batch, without records."""
    # Process 0 may not have written the trial's folder yet.
    spec, source = task.description_of(task.trials[0])
    device, group, run = device_of(task), current_group(), task.run
    torch.set_num_threads(run.threads)
    images = load_data(spec, device, task.access, source, lambda line: None)
    net = build_net(spec, images, device)
    trial = Trial(spec, net, images, Silent(), run.compile, group, run.channels_last)
    with kernels(device):
        trial.begin(group.share(None))
        trial.run(lambda: False, math.inf, task.skip_hopeless)
