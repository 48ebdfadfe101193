"""Bands by brute force: the same net's weights drawn again and measured on the same batch."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import stdtrit
from torch import Tensor, nn

from initlab.init.draw import standard_normals
from initlab.init.layers import Matrix, drafts
from initlab.nets.any_module import layer_name, op_of, weight_layers
from initlab.nets.copies import copied
from initlab.nets.undisturbed import Batch, first_tensor, run_model, to_model, untouched
from initlab.signal.probe import Loss
from initlab.signal.survey import variances
from initlab.signal.theory.cotangent import num_classes
from initlab.signal.theory.field import Array
from initlab.signal.theory.passes import DIRECTIONS, QUANTILES

# Initialises a model in place, with a `seed`.
Draw = Callable[..., object]


# A draw whose last layer has no gradient cannot be told relative to it, and its row says so.
@np.errstate(divide="ignore", invalid="ignore")
def redraw(
    model: nn.Module, images: Batch, labels: Any, loss: Loss | None, draws: int, seed: int = 0, draw: Draw | None = None
) -> pd.DataFrame:
    """Measure `draws` draws of a model's weights; the frame of `initlab.predict`, with basis `redrawn`.

    It has a row for each of `initlab.signal.survey`'s layers, among them attention's and recurrent ones.

    The band is for one more draw: normal in the logarithm, with Student's t for the few draws that its mean and spread
    come from. Without labels, random ones are drawn and the backward columns are relative. Without `draw` the weights
    are normal, with the second moments that they have now.
    """
    if draws < 2:
        raise ValueError(f"predict: too few draws for a band (got {draws}); allowed: 0, or at least 2")
    relative = labels is None
    if labels is None:
        # A random class for each example (and token), of as many as the output has, or a random slope.
        with untouched(model, backward=False):
            output = first_tensor(run_model(model, to_model(model, images, None)[0]))
        generator = torch.Generator().manual_seed(seed)
        if (classes := num_classes(output.shape)) > 1:
            labels = torch.randint(0, classes, output.shape[:-1], generator=generator)
        else:
            labels, loss = torch.randn(output.shape, generator=generator), slope_loss
    model = copied(model)
    drawn = [] if draw else weights_of(model)
    # They are drawn again, so that nobody has to remember them.
    changing = [parameter for weight in drawn for parameter in weight.parameters]
    draw = draw or partial(draw_normals, {weight.name: weight.std for weight in drawn})
    tables = []
    started = time.perf_counter()
    for draw_seed in range(seed, seed + draws):
        draw(model, seed=draw_seed)
        tables.append(variances(model, images, labels, loss=loss, changing=changing))
    wall_s = time.perf_counter() - started
    ops = {name: op for table in tables for name, op, _ in table}
    last = len(ops) - 1
    ops |= {name: op_of(layer) for name, layer in weight_layers(model) if name not in ops}
    frame = pd.DataFrame({"layer": range(len(ops)), "name": list(ops), "op": list(ops.values())})
    for place, direction in enumerate(DIRECTIONS):
        # Not every draw needs every layer: an expert may get no token.
        rows = pd.DataFrame([{name: pair[place] for name, _, pair in table} for table in tables])
        values = rows.reindex(columns=list(ops)).to_numpy(dtype=float)
        if direction == "backward" and relative:
            values = values / values[:, [last]]
        frame[f"{direction}_var"] = values.mean(axis=0)
        frame = frame.assign(**{f"{direction}_{name}": band(values, share) for name, share in QUANTILES.items()})
    frame["correlation"], frame["basis"] = np.nan, "redrawn"
    frame.attrs = {"draws": draws, "wall_s": wall_s}
    return frame


def slope_loss(output: Tensor, slopes: Tensor) -> Tensor:
    """A loss for each example whose gradient is given, for an output of one number."""
    return (output * slopes).reshape(output.shape[:1])


def band(values: Array, share: float) -> Array:
    """Quantile for one more draw, from values (draws, layers); 0 where a variance was 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(values)
        spread = logs.std(axis=0, ddof=1) * np.sqrt(1 + 1 / len(values))
        # Of draws that differ by nothing but rounding, the next does too.
        spread = np.maximum(spread, 1e-6)
        result = np.exp(logs.mean(axis=0) + (0 if share == 0.5 else stdtrit(len(values) - 1, share)) * spread)
    return np.asarray(np.where((values == 0).any(axis=0), 0.0, result))


@dataclass(frozen=True)
class Weight:
    """A weight that is drawn: a matrix that schemes draw too, or a parameter behind one that is computed."""

    name: str
    of: Matrix | nn.Parameter

    @property
    def now(self) -> Tensor:
        """What it is."""
        return self.of.read() if isinstance(self.of, Matrix) else self.of.detach()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What holds it."""
        return self.of.parameters if isinstance(self.of, Matrix) else [self.of]

    @property
    def std(self) -> Tensor:
        """The root mean square of each tap."""
        return self.now.square().mean((0, 1), keepdim=True).sqrt()


def weights_of(model: nn.Module) -> list[Weight]:
    """The weights of a model, attention's and recurrent ones too; of computed ones the parameters behind them."""
    weights = []
    for path, module in model.named_modules():
        name = layer_name(path)
        try:
            weights += [Weight(matrix.layer.name, matrix) for matrix in drafts(name, module)]
        # The weight is computed in a way that cannot be inverted.
        except ValueError:
            behind = [(key, p) for key, p in module.named_parameters() if p.dim() > 1]
            weights += [Weight(f"{name}.{key}", parameter) for key, parameter in behind]
    return weights


@torch.no_grad()
def draw_normals(stds: dict[str, Tensor], model: nn.Module, seed: int) -> None:
    """Normal weights with the standard deviation of each tap of each layer, behind weight norm and pruning too."""
    for weight in weights_of(model):
        drawn = standard_normals(weight.now.shape, seed, weight.name, "redraw").to(weight.now) * stds[weight.name]
        if isinstance(weight.of, Matrix):
            weight.of.write(drawn)
        else:
            weight.of.copy_(drawn)


def one_pass(model: nn.Module, images: Batch) -> float:
    """Seconds of a plain forward and backward pass."""
    with untouched(model, backward=True):
        batch = to_model(model, images, None)[0]
        started = time.perf_counter()
        total = first_tensor(run_model(model, batch)).sum()
        torch.autograd.grad(total, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
        if total.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - started
