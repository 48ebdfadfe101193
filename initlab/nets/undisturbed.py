"""Run a model without disturbing it: in probe mode, on a batch that it takes, and as it was afterwards."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn


def first_tensor(output: Any) -> Tensor:
    """The tensor itself, or the first one of a tuple, list, mapping or dataclass."""
    if isinstance(output, Tensor):
        return output
    if is_dataclass(output):
        output = {field.name: getattr(output, field.name) for field in fields(output)}
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    for value in values:
        if isinstance(value, Tensor):
            return value
    raise ValueError(f"inspect: the model's output holds no tensor (got {type(output).__name__}); return logits first")


def to_model(model: nn.Module, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The batch on the model's device, floating images in its floating type."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    if parameter is None:
        return images, labels
    dtype = parameter.dtype if images.is_floating_point() else images.dtype
    return images.to(parameter.device, dtype), None if labels is None else labels.to(parameter.device)


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
def untouched(model: nn.Module, backward: bool) -> Iterator[None]:
    """Probe mode within the block; everything is restored afterwards.

    Dropout is off, BatchNorm takes the batch's statistics, all parameters have gradients or none.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    tracked = [norm for norm in norms if norm.track_running_stats]
    wants_grad = [(p, p.requires_grad) for p in model.parameters()]
    buffers = [
        (m._buffers, key, b, b.clone()) for m in model.modules() for key, b in m._buffers.items() if b is not None
    ]
    devices = sorted({p.device.index for p in model.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices=devices), torch.set_grad_enabled(backward), in_eval_mode(model):
        try:
            for parameter, _ in wants_grad:
                parameter.requires_grad_(backward and parameter.is_floating_point())
            # In training but not tracking: the batch's statistics, with buffers that are not updated.
            for norm in norms:
                norm.training, norm.track_running_stats = True, False
            yield
        finally:
            for norm in tracked:
                norm.track_running_stats = True
            for parameter, required in wants_grad:
                parameter.requires_grad_(required)
            with torch.no_grad():
                for home, key, buffer, before in buffers:
                    buffer.copy_(before)
                    # The model may have put another in its place.
                    home[key] = buffer
