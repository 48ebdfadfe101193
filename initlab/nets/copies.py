"""Copies of a model, also of one that keeps tensors with a graph, which `copy.deepcopy` refuses."""

import copy
from typing import TypeVar

from torch import Tensor, nn

from initlab.nets.undisturbed import map_tensors

Model = TypeVar("Model", bound=nn.Module)


def copied(model: Model) -> Model:
    """A deep copy; results that the model keeps (a cache, the weight that weight norm computed) are without graph."""
    copies: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> None:
        """A copy of its own for what was computed."""
        if tensor.grad_fn is not None:
            copies[id(tensor)] = tensor.detach().clone()

    for module in model.modules():
        map_tensors([value for name, value in vars(module).items() if name not in ("_parameters", "_modules")], note)
    return copy.deepcopy(model, {**copies})
