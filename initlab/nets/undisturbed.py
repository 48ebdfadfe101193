"""Run a model without disturbing it: in probe mode, on a batch that it takes, and as it was afterwards."""

import inspect
import random
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import checkpoint

from initlab.nets.snapshot import Snapshot

# Inputs as a model takes them: one tensor, or its arguments by name or in order.
Batch = Tensor | Mapping[str, Any] | Sequence[Any]


def first_tensor(output: Any) -> Tensor:
    """The tensor itself, or the first one in a tuple, list, mapping or dataclass that is not a single number.

    Models that return their loss first, as those of Hugging Face do, have their logits after it.
    """
    tensors = list(tensors_in(output))
    if not tensors:
        raise ValueError(
            f"inspect: the model's output holds no tensor (got {type(output).__name__}); return logits first"
        )
    return next((tensor for tensor in tensors if tensor.dim()), tensors[0])


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists, mappings and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif is_dataclass(value) and not isinstance(value, type):
        yield from tensors_in([getattr(value, each.name) for each in fields(value)])


def run_model(model: nn.Module, batch: Batch) -> Any:
    """The model's output for a batch: a mapping gives arguments by name, a tuple or list in order."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if holds_arguments(model, batch) else model(batch)


def holds_arguments(model: nn.Module, batch: Batch) -> bool:
    """Whether a batch is the arguments of `forward` in order, and not one argument that is a list, as of pictures."""
    if not isinstance(batch, (tuple, list)) or isinstance(batch, tuple):
        return isinstance(batch, tuple)
    signature = inspect.signature(model.forward)
    first = next(iter(signature.parameters.values()), None)
    if first is None or "list" in str(first.annotation).lower():
        return False
    try:
        signature.bind(*batch)
    except TypeError:
        return False
    return True


def num_examples(model: nn.Module, batch: Any) -> int:
    """N of a batch: the length of its first tensor, or of a list that is one argument; 0 where it has none."""
    if next(tensors_in(batch), None) is None:
        return 0
    if isinstance(batch, list) and not holds_arguments(model, batch):
        return len(batch)
    values = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (tuple, list)) else (batch,)
    # A list among the arguments has an entry for each example, as of pictures of several sizes.
    sized = (value for value in values if isinstance(value, list) or (isinstance(value, Tensor) and value.dim()))
    return next((len(value) for value in sized), 0)


def to_model(model: nn.Module, images: Any, labels: Any) -> tuple[Any, Any]:
    """A copy of the batch on the model's device, floating images in its floating type."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    device = None if parameter is None else parameter.device

    def move(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A copy on the device, in this type if it is a floating one."""
        return tensor.detach().to(device, dtype if tensor.is_floating_point() else None, copy=True)

    return map_tensors(images, partial(move, dtype=None if parameter is None else parameter.dtype)), map_tensors(
        labels, move
    )


def map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Nested tuples, lists, mappings and dataclasses with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (tuple, list)):
        items = [map_tensors(item, change) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if is_dataclass(value) and not isinstance(value, Mapping | type):
        return replace(value, **{each.name: map_tensors(getattr(value, each.name), change) for each in fields(value)})
    return {key: map_tensors(v, change) for key, v in value.items()} if isinstance(value, Mapping) else value


def autocast_of(model: nn.Module, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """`torch.autocast` with this type on the model's device; nothing where it is None."""
    device = next((parameter.device.type for parameter in model.parameters()), "cpu")
    return torch.autocast(device, dtype=dtype) if dtype else nullcontext()


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; each module's own mode again after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def streams_kept(devices: Iterable[torch.device]) -> Iterator[None]:
    """The global random streams of torch (on the CPU and these devices), numpy and Python are as before afterwards."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices={device for device in devices if device.type == "cuda"}):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextmanager
def untouched(model: nn.Module, backward: bool, changing: Collection[Tensor] = ()) -> Iterator[None]:
    """Probe mode within the block; everything is restored afterwards, but the numbers in tensors that are `changing`.

    Dropout is off, BatchNorm takes the batch's statistics, all parameters have gradients or none. What a compiler or
    a checkpoint would do runs plainly. See `initlab.nets.snapshot.Snapshot` for what is restored.
    """
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ValueError(f"inspect: {name} is not there yet (lazy); run the model on a batch first")
    modules, parameters = list(model.modules()), list(model.parameters())
    # Set by hand, since a model's own `eval` may refuse, or do more than that.
    modes = [(module, module.training) for module in modules]
    norms = [module for module in modules if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    tracked = [norm for norm in norms if norm.track_running_stats]
    gradients = [(p, p.requires_grad, p.grad) for p in parameters]
    snapshot = Snapshot(model, changing)
    # Gradients stay on, since some models compute their output from gradients of their own.
    with streams_kept(p.device for p in parameters), torch.enable_grad(), plainly():
        try:
            for module in modules:
                module.training = False
            for parameter in parameters:
                parameter.requires_grad_(backward and (parameter.is_floating_point() or parameter.is_complex()))
            # In training but not tracking: the batch's statistics, with buffers that are not updated.
            for norm in norms:
                norm.training, norm.track_running_stats = True, False
            yield
        finally:
            for norm in tracked:
                norm.track_running_stats = True
            for module, training in modes:
                module.training = training
            snapshot.restore()
            for parameter, required, gradient in gradients:
                parameter.requires_grad_(required)
                if parameter.grad is not gradient:
                    parameter.grad = gradient


@contextmanager
def plainly() -> Iterator[None]:
    """Run what is compiled or fused as it is written, and what is checkpointed once.

    Hooks in a compiled model have it compiled anew, and attention's fast path calls no module; a reentrant checkpoint
    runs without a graph, and refuses gradients of single tensors.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    stance = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    apply = vars(checkpoint.CheckpointFunction).get("apply")
    with stance:
        torch.backends.mha.set_fastpath_enabled(False)
        checkpoint.CheckpointFunction.apply = staticmethod(lambda function, preserve, *args: function(*args))
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            if apply is None:
                del checkpoint.CheckpointFunction.apply
            else:
                checkpoint.CheckpointFunction.apply = apply
