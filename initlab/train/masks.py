"""Dropout masks drawn outside a step, for steps that are compiled, captured or taken for several trials at once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from initlab.nets.layers import StreamDropout
from initlab.nets.undisturbed import in_eval_mode


def dropouts_of(net: nn.Module) -> list[StreamDropout]:
    """The dropout layers in order."""
    return [module for module in net.modules() if isinstance(module, StreamDropout)]


@torch.no_grad()
def dropout_shapes(net: nn.Module, images: Tensor) -> list[tuple[int, ...]]:
    """The shape of each dropout layer's input in a training step on `images`."""
    shapes: list[tuple[int, ...]] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: shapes.append((len(images), *inputs[0].shape[1:])))
        for module in dropouts_of(net)
    ]
    if hooks:
        with in_eval_mode(net):
            net(images[:1])
    for hook in hooks:
        hook.remove()
    return shapes


def drawn_masks(net: nn.Module, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """The masks, on the CPU, of the step that `set_dropout_step` named: one per layer."""
    return [m.drawn(shape, torch.device("cpu")) for m, shape in zip(dropouts_of(net), shapes, strict=True)]


@contextmanager
def with_masks(net: nn.Module, masks: Sequence[Tensor]) -> Iterator[None]:
    """Inside, each dropout layer takes its mask from `masks`; outside it draws its own."""
    dropouts = dropouts_of(net)
    for module, mask in zip(dropouts, masks, strict=True):
        module.mask = mask
    try:
        yield
    finally:
        for module in dropouts:
            module.mask = None
