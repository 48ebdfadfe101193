"""`forecast`: the probable verdict on the training of a model, from one batch before its first step."""

import math
from typing import Any

import pandas as pd
from torch import nn

from initlab.errors import UserError
from initlab.nets.undisturbed import Batch
from initlab.signal.probe import COLUMNS, Loss, measure
from initlab.signal.start import Start, start_of
from initlab.study.training import OPTIMIZERS, Train
from initlab.verdict.features import family, features_of
from initlab.verdict.odds import Forecast, forecast_of


def forecast(
    model: nn.Module,
    batch: Batch,
    labels: Any,
    *,
    lr: float,
    weight_decay: float = 0.0,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    eps: float = 1e-8,
    loss: Loss | None = None,
) -> Forecast:
    """The odds that training `model` from here will converge, be slow, stall or diverge; the model is left as it was.

    `initlab.load(out).forecasts` has the same for the trials of a study, from their probes at step 0.

    Args:
        batch, labels, loss: as `initlab.inspect` takes them; the model's output has the classes in its last dimension.
        lr: learning rate at the start.
        weight_decay: as the optimiser takes it: of the gradient under sgd and adam, else lr times it of the weight.
        optimizer: `sgd`, `adam` or `adamw`; under `lion` and `muon` there are odds, but the verdict is `cannot tell`.
        momentum: of sgd.
        eps: of adam and adamw, beside the root of the second moment.

    Raises:
        ValueError: a setting out of range, no labels, an output of one class, a loss of which it is unknown what
            guessing has, or no layer with a gradient.
    """
    train = train_of("forecast", lr, weight_decay, optimizer, momentum, eps)
    if labels is None:
        raise ValueError("forecast: labels: none given; the backward signal needs them")
    layers = pd.DataFrame(measure(model, batch, labels, loss=loss), columns=COLUMNS)
    start = start_of(model, batch, labels, loss)
    if math.isnan(start.chance):
        raise ValueError(
            "forecast: what guessing has is unknown; allowed: two classes, or a loss above 0 at an output of zeros"
        )
    return forecast_at(model, layers, start, train)


def forecast_at(model: nn.Module, layers: pd.DataFrame, start: Start, train: Train) -> Forecast:
    """The forecast for a model whose layers and first loss have been measured.

    Raises:
        ValueError: no layer with a gradient.
    """
    features = features_of(layers, loss=start.loss, chance_loss=start.chance, train=train)
    return forecast_of(features, family_of(model, skips=start.wiring.skips), train)


def train_of(
    place: str, lr: float, weight_decay: float = 0.0, optimizer: str = "sgd", momentum: float = 0.9, eps: float = 1e-8
) -> Train:
    """How the model is to be trained, checked.

    Raises:
        UserError: an unknown optimiser, or a number out of range; `place` begins the message.
    """
    check_optimizer(place, optimizer)
    for name, value, allowed, fits in (
        ("lr", lr, "above 0", 0 < lr < math.inf),
        ("weight_decay", weight_decay, "0 or above", 0 <= weight_decay < math.inf),
        ("momentum", momentum, "from 0 to below 1", 0 <= momentum < 1),
        ("eps", eps, "above 0", 0 < eps < math.inf),
    ):
        if not fits:
            raise UserError(f"{place}: {name}: out of range (got {value}); allowed: {allowed}")
    return Train(optimizer=optimizer, lr=lr, weight_decay=weight_decay, momentum=momentum, eps=eps)


def check_optimizer(place: str, optimizer: str) -> None:
    """Refuse an optimiser that is no built-in one."""
    if optimizer not in OPTIMIZERS:
        raise UserError(f"{place}: optimizer: unknown (got {optimizer!r}); allowed: {', '.join(OPTIMIZERS)}")


def family_of(model: nn.Module, *, skips: bool) -> str:
    """The family of a model by the classes of its modules, named as `initlab.verdict.features.family` names them.

    Attention is known by `attention` in a class's name, a norm that is no BatchNorm by `Norm` in it.

    Args:
        skips: whether a signal is joined with what was made of it, which no module need say.
    """
    modules = list(model.modules())
    names = {type(module).__name__.lower() for module in modules}
    norm = "LayerNorm" * any("norm" in name for name in names)
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules):
        norm = "BatchNorm"
    if any(isinstance(module, nn.RNNBase | nn.RNNCellBase) for module in modules):
        return family("recurrent", norm)
    if any("attention" in name for name in names):
        return family("attention", norm)
    convolves = any(isinstance(module, nn.modules.conv._ConvNd) for module in modules)
    return family("convolutions" if convolves else "linear layers", norm, skips=skips)
