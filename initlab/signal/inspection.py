"""`inspect`: the probe on any model, as a frame."""

from dataclasses import dataclass

import pandas as pd
from torch import Tensor, nn

from initlab.signal.probe import COLUMNS, Loss, measure


@dataclass(frozen=True)
class Inspection:
    """What one batch showed: `table` has one row per weight layer (layer, name, op, calls and the measured columns)."""

    table: pd.DataFrame


def inspect(
    model: nn.Module,
    batch: Tensor,
    labels: Tensor | None = None,
    *,
    loss: Loss | None = None,
    weight_decay: float | None = None,
) -> Inspection:
    """Measure the signals of any `nn.Module` at its first training step; the model is left as it was.

    Arguments and errors are those of `initlab.signal.probe.measure`.

    `inspect(net, images, labels).table.forward_var` of a wide He net on unit-variance inputs is about 2 in every
    layer (He et al. 2015, eq. 10: the first layer has no rectifier before it).
    """
    rows = measure(model, batch, labels, loss=loss, weight_decay=weight_decay)
    return Inspection(pd.DataFrame(rows, columns=["layer", "name", "op", "calls", *COLUMNS]))
