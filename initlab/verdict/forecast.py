"""`forecast`: the probable verdict on the training of a model, from one batch before its first step."""

import math
from typing import Any

import pandas as pd
from torch import inference_mode, nn

from initlab.errors import UserError
from initlab.nets.undisturbed import Batch, first_tensor, num_examples, run_model, to_model, untouched
from initlab.signal.probe import COLUMNS, Loss, measure, summed_loss
from initlab.signal.start import chance_of
from initlab.verdict.odds import Forecast, features_of, forecast_of


def forecast(
    model: nn.Module, batch: Batch, labels: Any, *, lr: float, weight_decay: float = 0.0, loss: Loss | None = None
) -> Forecast:
    """The odds that training `model` from here will converge, be slow, stall or diverge; the model is left as it was.

    `initlab.load(out).forecasts` has the same for the trials of a study, from their probes at step 0.

    Args:
        batch, labels, loss: as `initlab.inspect` takes them; the model's output has the classes in its last dimension.
        lr: learning rate at the start.
        weight_decay: as the optimiser takes it.

    Raises:
        ValueError: lr or weight_decay out of range, no labels, an output of one class, a loss of which it is unknown
            what guessing has, or no layer with a gradient.
    """
    check_rates(lr, weight_decay)
    if labels is None:
        raise ValueError("forecast: labels: none given; the backward signal needs them")
    rows = measure(model, batch, labels, loss=loss, weight_decay=weight_decay)
    with inference_mode(False), untouched(model, backward=False):
        images, targets = to_model(model, batch, labels)
        output = run_model(model, images)
        mean_loss = float(summed_loss(output, targets, loss)) / (
            targets.numel() if loss is None else num_examples(model, targets)
        )
        chance_loss, _ = chance_of(output, targets, loss)
    if math.isnan(chance_loss):
        shape = tuple(first_tensor(output).shape)
        raise ValueError(
            f"forecast: what guessing has is unknown (got an output of shape {shape}); allowed: at least 2 classes, or "
            "a loss above 0 at an output of zeros"
        )
    layers = pd.DataFrame(rows, columns=COLUMNS)
    return forecast_of(features_of(layers, loss=mean_loss, chance_loss=chance_loss, lr=lr, weight_decay=weight_decay))


def check_rates(lr: float, weight_decay: float) -> None:
    """Refuse a learning rate or a weight decay that is out of range."""
    if not 0 < lr < math.inf:
        raise UserError(f"forecast: lr: out of range (got {lr}); allowed: above 0")
    if not 0 <= weight_decay < math.inf:
        raise UserError(f"forecast: weight_decay: out of range (got {weight_decay}); allowed: 0 or above")
