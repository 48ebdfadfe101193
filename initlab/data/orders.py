"""Which examples of a set are taken, and in which order: drawn from (seed, epoch) or from a name, never saved."""

from collections.abc import Iterator

import torch
from torch import Tensor

from initlab.errors import UserError
from initlab.random_streams import stream_seed
from initlab.to_device import to_device

# All rows of a batch, all examples of a set.
WHOLE = slice(None)
CPU = torch.device("cpu")


def fixed_subset(name: str, size: int | None, examples: int) -> slice | list[int]:
    """Indices of a fixed random subset of `size` among so many examples; `name` is the field that asks for it."""
    if size is None:
        return WHOLE
    if size > examples:
        raise UserError(f"data.{name}: more than there are (got {size}); at most {examples}")
    return list(fixed_permutation(examples, name)[:size].tolist())


def fixed_permutation(size: int, name: str) -> Tensor:
    """A random permutation that depends on its size and name alone."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(stream_seed(0, "permutation", name)))


def epoch_order(examples: int, seed: int, epoch: int) -> Tensor:
    """The order of the training set in one epoch, the same for all schemes."""
    return torch.randperm(examples, generator=torch.Generator().manual_seed(stream_seed(seed, "order", epoch)))


def step_indices(
    examples: int, batch_size: int, seed: int, first: int, last: int, device: torch.device = CPU
) -> Iterator[Tensor]:
    """Indices (batch_size,) of the training images of each step from `first` to before `last`."""
    order, per_epoch = torch.empty(0), examples // batch_size
    for step in range(first, last):
        epoch, position = divmod(step, per_epoch)
        if position == 0 or step == first:
            order = to_device(epoch_order(examples, seed, epoch), device)
        yield order[position * batch_size : (position + 1) * batch_size]
