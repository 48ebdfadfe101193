"""What a forecast is made of: some numbers of one probe at step 0, and the kind of net they were measured in. No torch.

One definition serves `initlab.forecast` and the trials of a study (`Results.forecasts`).
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from initlab.nets.catalog import CATALOG
from initlab.signal.drift import slope
from initlab.study.sections import Net
from initlab.study.training import Train

Array = NDArray[np.float64]
MEANINGS = {
    "forward_change": "ln of the forward variance's typical factor per layer, times the layers after the first",
    "backward_change": "the same of the backward variance, towards the input",
    "update": "ln of how far the loss moves a layer in one step, as a share of its weights' rms; the median layer's",
    "last_update": "the same of the last layer",
    "decay": "ln of 1 + how far weight decay moves a layer, as a multiple of the loss; the median layer's",
    "loss": "ln of the loss at the start over ln K",
    "depth": "ln of the number of weight layers",
}
FEATURES = tuple(MEANINGS)
# Stands for infinity, and its inverse for 0, so that every logarithm is finite.
HUGE = 1e300
# Of Muon's updates of matrices, in lr: the root of their mean square (Liu et al. 2025, eq. 4).
MUON = 0.2


class Step(NamedTuple):
    """How far one step moves each layer: by the loss, in shares of its weights' rms, and by decay, as a multiple."""

    update: Array
    decay: Array


def step_of(train: Train, weight: Array, gradient: Array) -> Step:
    """The step of a built-in optimiser on layers whose weights and loss gradients have these rms, from its own theory.

    SGD's is the lasting one, after momentum has added up: lr g / (1 - momentum). Adam's first step divides a gradient
    by itself: lr G / (G + eps), in which G is the loss's and the decay's together, at right angles; AdamW's G is the
    loss's alone. Lion takes the sign, Muon an orthogonal matrix of rms 0.2. Decay is weight_decay w / g where it is
    part of the gradient (sgd, adam), else lr weight_decay w over the step.

    SGD without momentum at lr 0.1 on a weight of rms 0.5 and a gradient of 0.01 moves it by 0.002 of itself.
    """
    lr, pull = train.lr, train.weight_decay * weight
    match train.optimizer:
        case "sgd":
            step = lr * gradient / (1 - train.momentum)
        case "adam":
            step = lr * gradient / (np.hypot(gradient, pull) + train.eps)
        case "adamw":
            step = lr * gradient / (gradient + train.eps)
        case _:
            step = np.full_like(weight, lr * (MUON if train.optimizer == "muon" else 1.0))
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        decay = pull / gradient if train.optimizer in ("sgd", "adam") else lr * pull / step
    return Step(step / weight, np.nan_to_num(decay, nan=0.0))


def features_of(layers: pd.DataFrame, *, loss: float, chance_loss: float, train: Train) -> Array:
    """The numbers of `FEATURES`, meanings in `MEANINGS`, from a probe at step 0.

    Args:
        layers: one row per weight layer, in order, with forward_var, backward_var, weight_var and weight_grad_rms;
            those that never ran (NaN) are left out.
        loss: mean loss at the start.
        chance_loss: what guessing has, ln K for K classes.
        train: the optimiser, a built-in one, with its rate and decay.

    Two layers whose variances go from 2 to 1 and weights of rms 0.1 with gradients of 1e-3 give, under SGD without
    momentum at lr 0.01, forward_change -0.69 and update ln(0.01 * 1e-3 / 0.1) = -9.21. Of a single layer nothing
    changes over depth: both changes are 0.

    Raises:
        ValueError: no layer with a gradient.
    """
    table = layers[["forward_var", "backward_var", "weight_var", "weight_grad_rms"]].to_numpy(float)
    table = table[~np.isnan(table[:, 2])]
    if math.isfinite(loss):
        table = table[~np.isnan(table[:, 3])]
    if not len(table):
        raise ValueError("forecast: no weight layer has a gradient; give labels, and a model whose loss reaches one")
    # A net that overflows at once has NaN.
    forward, backward, weight_var, gradient = finite(table).T
    step = step_of(train, np.sqrt(weight_var), gradient)
    after = len(table) - 1
    changes = (after * slope(np.log(forward)), -after * slope(np.log(backward))) if after else (0.0, 0.0)
    updates, decay = np.log(finite(step.update)), float(np.median(np.log1p(finite(step.decay))))
    start = math.log((max(loss, 1 / HUGE) if math.isfinite(loss) else HUGE) / chance_loss)
    return np.array([*changes, float(np.median(updates)), updates[-1], decay, start, math.log(len(table))])


def finite(values: Array) -> Array:
    """Positive numbers of which every logarithm is finite; what is no number counts as overflown."""
    return np.clip(np.nan_to_num(values, nan=HUGE), 1 / HUGE, HUGE)


def family(body: str, norm: str = "", *, skips: bool = False) -> str:
    """The name of a family of nets, as the fit and the tables list them: `convolutions, BatchNorm`.

    Attention always has skips around it, and BatchNorm makes them hardly matter.
    """
    return ", ".join(
        filter(None, [body, norm, "skips" * (skips and not norm and body in ("linear layers", "convolutions"))])
    )


def family_of_net(net: Net) -> str:
    """The family of a net of the catalog; "" of code."""
    match net.name:
        case "lstm":
            return family("recurrent")
        case "transformer":
            return family("attention", "" if net.norm == "none" else "LayerNorm")
        case "mlp":
            return family("linear layers")
        case name if name in CATALOG:
            return family("convolutions", "BatchNorm" * (net.norm == "batch"), skips=net.skip == "identity")
    return ""
