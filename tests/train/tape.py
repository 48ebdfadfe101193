"""A CUDA graph's behaviour on a CPU: a step captured operation by operation, and done again on the same tensors.

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
        for value, argument in zip(args, func._schema.arguments, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in tree_leaves(value):
                    self.before.setdefault(id(tensor), (tensor, tensor.clone()))
        result = func(*args, **kwargs)
        self.done.append((func, args, kwargs, result))
        return result


def tape(step: Callable[[], None]) -> Callable[[], None]:
    """As `initlab.train.cuda.cuda_graph`: capture a step without taking it."""
    with Tape() as operations:
        step()
    for tensor, old in reversed(list(operations.before.values())):
        tensor.copy_(old)

    @torch.no_grad()
    def replay() -> None:
        for func, args, kwargs, result in operations.done:
            writes = any(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments)
            again = func(*args, **kwargs)
            if writes:
                continue
            for place, value in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(place, Tensor) and place.data_ptr() != value.data_ptr():
                    place.copy_(value)

    return replay
