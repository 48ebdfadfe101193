"""The processes that train one trial together: each takes its slice of every batch, and all make the same update.

Gradients are averaged by torch's DistributedDataParallel, which over equal slices is the gradient of the whole batch.
What one process decides or measures (a stop, a checkpoint's time, the validation error) the leader, rank 0, tells the
others, so that all do the same. Small messages go over gloo on the CPU, gradients on a GPU over NCCL.
"""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from initlab.engine.gang import COLLECTIVE_TIMEOUT_S, backend

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """This process's rank among those of its trial; in a group of one, every method returns its argument."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes, validates and measures."""
        return self.rank == 0

    def part(self, batch_size: int) -> slice:
        """This process's rows of a batch; `batch_size` is a multiple of the group's size."""
        each = batch_size // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def wrap(self, net: nn.Module) -> nn.Module:
        """The net with its gradients averaged over the group, and the leader's parameters in every process."""
        if self.size == 1:
            return net
        device = next(net.parameters()).device
        return DistributedDataParallel(net, device_ids=[device] if device.type == "cuda" else None)

    def total(self, sums: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size == 1:
            return sums
        summed = sums.to("cpu", copy=True)
        dist.all_reduce(summed)
        return summed.to(sums.device)

    def agree(self, decision: bool) -> bool:
        """The leader's decision."""
        if self.size == 1:
            return decision
        message = torch.tensor([decision])
        dist.broadcast(message, 0)
        return bool(message.item())

    def share(self, value: T) -> T:
        """The leader's value, in every process."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, 0, device=torch.device("cpu"))
        return values[0]


ALONE = Group()


def current_group() -> Group:
    """The group of processes that this one belongs to, `ALONE` where an engine has put it into none."""
    return Group(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else ALONE


def join_group(rank: int, size: int, rendezvous_file: Path, device: torch.device) -> Group:
    """Wait until all processes have joined through the same file; this one belongs to the group until `leave_group`."""
    timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_S)
    dist.init_process_group(backend(device.type == "cuda"), f"file://{rendezvous_file}", timeout, size, rank)
    return Group(rank, size)


def leave_group() -> None:
    """End this process's part in its group, if it is in one."""
    if dist.is_initialized():
        dist.destroy_process_group()
