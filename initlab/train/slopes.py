"""The slopes below zero that PReLU has learned, layer by layer (He et al. 2015, sec. 2.1 and table 1)."""

from typing import Any

import torch
from torch import nn

from initlab.nets.any_module import layer_name


@torch.no_grad()
def slope_rows(net: nn.Module) -> list[dict[str, Any]]:
    """One row per PReLU in the order of the net's modules: layer (from 0), name, channels and moments of the slopes.

    `channels` is 1 where a layer shares one slope; then `std`, the population's over channels, is 0. A net without
    PReLU gives no rows, one of the paper's fresh from `build_net` gives 0.25 throughout.
    """
    layers = [(layer_name(name), module) for name, module in net.named_modules() if isinstance(module, nn.PReLU)]
    rows: list[dict[str, Any]] = []
    for layer, (name, module) in enumerate(layers):
        slopes = module.weight.double()
        moments = torch.stack([slopes.mean(), slopes.std(correction=0), slopes.min(), slopes.max()]).tolist()
        of_layer = dict(zip(("mean", "std", "min", "max"), moments, strict=True))
        rows.append({"layer": layer, "name": name, "channels": module.num_parameters, **of_layer})
    return rows
