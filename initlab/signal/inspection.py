"""`inspect`: the probe on any model, as a frame with a first verdict."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

from initlab.init.layers import WeightLayer, spatial, weight_layers
from initlab.init.shapes import fans
from initlab.signal.probe import COLUMNS, Loss, measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAYER = ["layer", "name", "op", "calls", "shape", "fan_in", "fan_out"]


@dataclass(frozen=True, repr=False)
class Inspection:
    """What one batch showed: `table` has one row per weight layer (layer, name, op, calls and the measured columns)."""

    table: pd.DataFrame
    verdict: str
    reason: str
    advice: list[str]

    @property
    def healthy(self) -> bool:
        """Whether the verdict is `healthy`."""
        return self.verdict == "healthy"

    def plot(self, ax: Any = None) -> "Figure":
        """Forward and backward variance against the layer."""
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots()
        axes.semilogy(self.table.layer, self.table[["forward_var", "backward_var"]])
        return figure

    def __repr__(self) -> str:
        shown = self.table[["name", "op", "forward_var", "backward_var", "status"]]
        return "\n".join([f"{self.verdict}: {self.reason}", shown.to_string(index=False), *self.advice])

    def _repr_html_(self) -> str:
        return f"<p>{self.verdict}: {self.reason}</p>" + self.table.to_html()


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
    modules = dict(weight_layers(model))
    table = pd.DataFrame([facts(modules[row["name"]]) | row for row in rows], columns=[*LAYER, *COLUMNS])
    variance = table.forward_var[table.calls > 0].to_numpy()
    if not np.isfinite(variance).all():
        verdict = "nonfinite"
    else:
        change = math.log(variance[-1] / variance[0]) if len(variance) > 1 and (variance > 0).all() else 0.0
        verdict = "vanishing" if change < -6 else "exploding" if change > 6 else "healthy"
    table = table.assign(status="ok" if verdict == "healthy" else verdict)
    return Inspection(table, verdict, "a stand-in for the verdict", [])


def facts(module: WeightLayer) -> dict[str, Any]:
    """Shape of the weight and its fans."""
    shape = tuple(module.weight.shape)
    fan_in, fan_out = fans(shape, **spatial(module))
    return {"shape": shape, "fan_in": fan_in, "fan_out": fan_out}
