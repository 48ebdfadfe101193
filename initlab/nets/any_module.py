"""The weight layers of any module: which of its parts they are, and under which names."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from initlab.nets.undisturbed import first_tensor

Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
WeightLayer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | Transposed
LayerHook = Callable[[str, WeightLayer, tuple[Any, ...], Tensor], Tensor | None]


def weight_layers(model: nn.Module) -> list[tuple[str, WeightLayer]]:
    """(name, module) of every convolution and linear layer, names without those of DDP and compile wrappers."""
    return [(layer_name(name), module) for name, module in model.named_modules() if isinstance(module, WeightLayer)]


@contextmanager
def on_weight_layers(
    model: nn.Module, hook: LayerHook, *, in_vmap: bool = False
) -> Iterator[list[tuple[str, WeightLayer]]]:
    """Call `hook(name, layer, inputs, output)` after each call of a weight layer, whose output it may replace.

    Of a layer that gives a tuple, as with its bias beside y, the first tensor is the output; a call on no example at
    all, as of an expert that gets no token, is none. Inside torch.vmap the output is that of all examples, or with
    `in_vmap` of the one that its function works on, which is also what torch.compile can follow.
    """

    def after(
        name: str, layer: WeightLayer, inputs: tuple[Any, ...], keywords: dict[str, Any], output: Any
    ) -> Tensor | tuple[Any, ...] | None:
        """Hand a call's tensor on, and put what replaces it in its place."""
        y = first_tensor(output)
        if not in_vmap and unwrapped(y) is not y:
            # A hook reads all examples of a vmap at once, and cannot replace the one that its function works on.
            hook(name, layer, inputs or tuple(keywords.values()), unwrapped(y))
            return None
        replaced = hook(name, layer, inputs or tuple(keywords.values()), y) if y.numel() else None
        if replaced is None or output is y:
            return replaced
        return tuple(replaced if part is y else part for part in output)

    layers = weight_layers(model)
    with ExitStack() as hooks:
        for name, layer in layers:
            hooks.callback(layer.register_forward_hook(partial(after, name), with_kwargs=True).remove)
        yield layers


def parameter_of(module: nn.Module, name: str) -> nn.Parameter | None:
    """A module's own parameter of this name, of a scripted module too; None where it has none, or a computed one."""
    return dict(module.named_parameters(recurse=False)).get(name)


def unwrapped(tensor: Tensor) -> Tensor:
    """The tensor itself, or inside torch.vmap that of all examples, whose numbers are the same but for their order."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def op_of(module: nn.Module) -> str:
    """A weight layer's kind in tables: `linear`, or `conv` for every convolution."""
    return "linear" if isinstance(module, nn.Linear) else "conv"


def layer_name(name: str) -> str:
    """`module._orig_mod.features.0` is `features.0`."""
    while name.startswith(("module.", "_orig_mod.")):
        name = name.split(".", 1)[1]
    return name


def first_slope(model: nn.Module) -> float:
    """Slope below zero of the model's first leaky or parametric rectifier; 0 where it has none."""
    for module in model.modules():
        if isinstance(module, nn.LeakyReLU):
            return float(module.negative_slope)
        if isinstance(module, nn.PReLU):
            return float(module.weight.detach().mean())
    return 0.0
