"""What hangs on a model, remembered so that a run of it can be undone.

A module may write anywhere: buffers that it makes at its first call, lists and counters of Python, parameters set from
the first batch, hooks that a library installs when first used, a cache that keeps a tensor with its graph. So the
model's modules, their containers and plain objects are walked once, and everything is put back in place: each thing is
the same object afterwards, with what it held before.
"""

from collections import deque
from collections.abc import Callable, Collection
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

# Plain objects inside plain objects that are followed: a cache, and the entries of its list.
DEEPEST = 2
# What a module may hold for others' sake, and no forward pass writes to.
FOREIGN = (*(type, ModuleType, FunctionType, BuiltinFunctionType, MethodType), Dataset, DataLoader, Optimizer)
# The copies that snapshots hold now, by the id of the tensor.
COPIES: WeakValueDictionary[int, Tensor] = WeakValueDictionary()


class Snapshot:
    """The state of a model and of all that hangs on it; `restore` puts it back.

    Tensors are copied, which takes as much memory as the model has, once for snapshots inside each other. Not followed:
    what only a function's closure or a global name holds, objects without a `__dict__`, data sets and optimisers.
    """

    def __init__(self, model: nn.Module, changing: Collection[Tensor] = ()) -> None:
        """Remember the model, but for the numbers in tensors that are `changing` on purpose."""
        self.changing = {id(tensor) for tensor in changing}
        self.visited: dict[int, Any] = {}
        self.undo: list[Callable[[], object]] = []
        self.empty: list[Any] = []  # containers, as most of a module's are
        # A scripted module has its parameters where Python's attributes don't show them.
        for value in (model, *model.modules(), *model.parameters(), *model.buffers()):
            self.visit(value, 0)

    def restore(self) -> None:
        """Put everything back as it was."""
        with torch.no_grad():
            for undo in self.undo:
                undo()
        for container in self.empty:
            if container:
                container.clear()

    def visit(self, value: Any, depth: int) -> None:
        """Remember one thing and what it holds; `depth` counts the plain objects around it."""
        if id(value) in self.visited or isinstance(value, (str, int, float, bool, type(None), FOREIGN)):
            return
        self.visited[id(value)] = value
        match value:
            case Tensor():
                self.remember_numbers(value)
            case torch.Generator():
                self.undo.append(partial(value.set_state, value.get_state()))
            case np.ndarray():
                self.undo.append(partial(np.copyto, value, value.copy()))
            case dict() | list() | deque() | set() if not value:
                self.empty.append(value)
            case dict():
                self.remember_entries(value, depth)
            case list() | deque() | set():
                self.remember_items(value, depth)
            case tuple():
                for item in value:
                    self.visit(item, depth)
            case nn.Module():
                self.remember_entries(value.__dict__, depth)
            case _ if hasattr(value, "__dict__") and depth < DEEPEST:
                self.remember_entries(value.__dict__, depth + 1)

    def remember_numbers(self, tensor: Tensor) -> None:
        """Remember a tensor's storage and the numbers in it."""
        if is_lazy(tensor) or tensor.layout is not torch.strided or tensor.is_meta or tensor.is_inference():
            return
        storage, numbers = tensor.detach(), None if id(tensor) in self.changing else numbers_of(tensor)

        def restore() -> None:
            """Give the tensor its storage and numbers back, without a new version, which a graph would refuse."""
            if tensor.data_ptr() != storage.data_ptr() or tensor.shape != storage.shape:
                tensor.data = storage
            if numbers is not None:
                tensor.data.copy_(numbers)

        self.undo.append(restore)

    def remember_entries(self, entries: dict[Any, Any], depth: int) -> None:
        """Remember a dict, the attributes of an object among them."""
        before = dict(entries)

        def restore() -> None:
            """Write the entries again where one is another or gone."""
            if len(entries) != len(before) or any(
                a is not b or entries[a] is not before[b] for a, b in zip(entries, before, strict=True)
            ):
                entries.clear()
                entries.update(before)

        self.undo.append(restore)
        for value in before.values():
            self.visit(value, depth)

    def remember_items(self, items: Any, depth: int) -> None:
        """Remember a list, deque or set."""
        before = tuple(items)

        def restore() -> None:
            """Fill it again where an item is another or gone."""
            if len(items) != len(before) or any(a is not b for a, b in zip(items, before, strict=True)):
                items.clear()
                (items.update if isinstance(items, set) else items.extend)(before)

        self.undo.append(restore)
        for value in before:
            self.visit(value, depth)


def numbers_of(tensor: Tensor) -> Tensor:
    """A copy of a tensor's numbers; that of a snapshot around this one, while they are the same."""
    numbers, copy = tensor.detach(), COPIES.get(id(tensor))
    alike = copy is not None and (copy.shape, copy.dtype, copy.device) == (numbers.shape, numbers.dtype, numbers.device)
    if copy is None or not alike or not torch.equal(copy, numbers):
        copy = COPIES[id(tensor)] = numbers.clone()
    return copy
