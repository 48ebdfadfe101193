"""Many plain ReLU nets at once by batched matrix products in float64: what the probe would measure on each."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Population:
    """Second moments of y and of its gradient, and squared norms of weight gradients: each (nets, layers)."""

    widths: tuple[int, ...]
    forward: Array
    forward_var: Array
    backward: Array
    weight_grad_square: Array

    def tables(self) -> list[pd.DataFrame]:
        """The table that `diagnose` takes, for each net."""
        same = {
            "name": [str(i) for i in range(len(self.widths))],
            "calls": 1,
            "width": self.widths,
            "outputs": [float(width) for width in self.widths],
            "weight_var": 1.0,
            "zero_fraction": 0.5,
            "decay_ratio": math.nan,
            "backward_mean": 0.0,
            "weight_grad_rms": 1.0,
        }
        return [
            pd.DataFrame(same | {"forward_mean": np.sqrt(f - v), "forward_var": v, "backward_var": b})
            for f, v, b in zip(self.forward, self.forward_var, self.backward, strict=True)
        ]


def plain_nets(
    nets: int,
    width: int,
    depth: int,
    factor: float,
    *,
    batch: int = 64,
    classes: int = 10,
    inputs: int | None = None,
    seed: int = 0,
) -> Population:
    """`depth` ReLU layers and an output layer, weights N(0, factor / fan_in), unit Gaussian inputs, cross-entropy."""
    generator = torch.Generator().manual_seed(seed)
    widths = (*[width] * depth, classes)

    def normals(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x = normals(nets, inputs or width, batch)
    weights, xs, ys = [], [], []
    for out in widths:
        weights.append(normals(nets, out, x.shape[1]) * math.sqrt(factor / x.shape[1]))
        xs.append(x)
        ys.append(torch.bmm(weights[-1], x))
        x = ys[-1].relu()
    labels = torch.arange(batch) % classes
    delta = torch.softmax(ys[-1], 1)
    delta[:, labels, torch.arange(batch)] -= 1  # of the summed cross-entropy
    backward, grads = [], []
    for layer in reversed(range(len(widths))):
        backward.insert(0, delta.square().mean((1, 2)))
        grads.insert(0, torch.bmm(delta, xs[layer].transpose(1, 2)).square().sum((1, 2)) / batch**2)
        if layer:
            delta = torch.bmm(weights[layer].transpose(1, 2), delta) * (ys[layer - 1] > 0)
    return Population(
        widths,
        stack([y.square().mean((1, 2)) for y in ys]),
        stack([y.var((1, 2), correction=0) for y in ys]),
        stack(backward),
        stack(grads),
    )


def stack(layers: list[Tensor]) -> Array:
    """(nets, layers)."""
    return torch.stack(layers, dim=1).numpy()
