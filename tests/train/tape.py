"""A CUDA graph's behaviour on a CPU: a step recorded operation by operation, and done again on the same tensors.

As a graph does, it knows addresses and numbers, and nothing of the Python that chose them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """Every operation that runs inside, with its arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, Any, dict[str, Any], Any]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}  # what is changed in place, and a copy of what it was

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        for given, argument in zip(args, func._schema.arguments, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in tree_leaves(given):
                    self.before.setdefault(id(tensor), (tensor, tensor.clone()))
        found = func(*args, **kwargs)
        self.done.append((func, args, kwargs, found))
        return found


def tape(step: Callable[[], None]) -> Callable[[], None]:
    """As `initlab.train.cuda.cuda_graph`: record a step without taking it."""
    with Tape() as seen:
        step()
    for tensor, old in reversed(list(seen.before.values())):
        tensor.copy_(old)

    @torch.no_grad()
    def replay() -> None:
        for func, args, kwargs, recorded in seen.done:
            writes = any(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments)
            again = func(*args, **kwargs)
            if writes:
                continue
            for place, value in zip(tree_leaves(recorded), tree_leaves(again), strict=True):
                if isinstance(place, Tensor) and place.data_ptr() != value.data_ptr():
                    place.copy_(value)

    return replay
