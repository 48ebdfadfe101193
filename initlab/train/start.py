"""The start of a deep net from a trained shallow one, as VGG's were (see `initlab.plan.plan.shallow_of`)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

FIRST_CONVS = 4  # of the shallow net, as in VGG


@torch.no_grad()
def start_from(net: nn.Module, shallow: Mapping[str, Tensor]) -> list[str]:
    """Copy the shallow net's first four convolutions and all its linear layers into `net`, by name.

    Args:
        shallow: the state of a net of the same family: convolutions have weights of 4 dimensions, linear layers of 2.

    Returns:
        The names of the layers copied, 7 for nets with three linear layers.

    Raises:
        ValueError: a layer that `net` does not have, or has in another shape.
    """
    state = net.state_dict()
    weights = {key.removesuffix(".weight"): w for key, w in shallow.items() if key.endswith(".weight")}
    convs = [name for name, weight in weights.items() if weight.dim() == 4][:FIRST_CONVS]
    linears = [name for name, weight in weights.items() if weight.dim() == 2]
    for name in (*convs, *linears):
        for key in (f"{name}.weight", f"{name}.bias"):
            shape = tuple(state[key].shape) if key in state else "none"
            if shape != tuple(shallow[key].shape):
                raise ValueError(
                    f"train.shallow_depth: {key} does not fit (got {shape}); wanted {tuple(shallow[key].shape)}"
                )
            state[key].copy_(shallow[key])
    return [*convs, *linears]
