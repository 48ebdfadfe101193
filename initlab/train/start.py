"""The start of a deep net from a trained shallow one, as VGG's were (see `initlab.plan.plan.shallow_of`)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

FIRST_CONVS = 4  # of the shallow net, as in VGG


@torch.no_grad()
def start_from(net: nn.Module, shallow: Mapping[str, Tensor]) -> list[str]:
    """Copy the first convolutions and all linear layers of a shallow net's state into `net`; returns their names.

    Raises:
        ValueError: a layer that `net` does not have, or has in another shape.
    """
    state = net.state_dict()
    dims = {key.removesuffix(".weight"): w.dim() for key, w in shallow.items() if key.endswith(".weight")}
    convs, linears = ([name for name, dim in dims.items() if dim == dim_of_kind] for dim_of_kind in (4, 2))
    names = [*convs[:FIRST_CONVS], *linears]
    for key in [f"{name}.{part}" for name in names for part in ("weight", "bias")]:
        shape = tuple(state[key].shape) if key in state else "none"
        if shape != tuple(shallow[key].shape):
            raise ValueError(
                f"train.shallow_depth: {key} does not fit (got {shape}); wanted {tuple(shallow[key].shape)}"
            )
        state[key].copy_(shallow[key])
    return names
