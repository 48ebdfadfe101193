"""Where mean field can't follow a model: each layer by itself, from the input that it received."""

from typing import Any

import torch
from torch import Tensor, nn

from initlab.nets.any_module import WeightLayer, on_weight_layers
from initlab.nets.undisturbed import Batch, run_model, to_model, untouched
from initlab.signal.theory.field import NoRule
from initlab.signal.theory.meanfield import Context
from initlab.signal.theory.passes import Rows, forward, layer_rows
from initlab.signal.theory.recorder import record
from initlab.signal.theory.rules import known


def local_law(model: nn.Module, batch: Batch) -> Rows:
    """Each weight layer's y from the x that it received: n Var[w] E[x^2] + E[b^2] (He et al. 2015, eq. 7) and its band.

    Of a layer with several calls the first counts. Gradients are left out, and all of a layer that has no rule either.
    """
    inputs: dict[str, tuple[WeightLayer, Tensor]] = {}

    def keep_first(name: str, layer: WeightLayer, arguments: tuple[Any, ...], output: Tensor) -> None:
        """Keep a layer's input at its first call."""
        inputs.setdefault(name, (layer, arguments[0].detach()))

    with torch.inference_mode(False), untouched(model, backward=False), on_weight_layers(model, keep_first):
        run_model(model, to_model(model, batch, None)[0])
    rows: Rows = {name: [{"basis": "local"}] for name in inputs}
    for name, (layer, x) in inputs.items():
        trace, context = record(layer, x, known), Context(len(x), False, {})
        try:
            passed = forward(context, trace, trace.input)
        except NoRule:
            continue
        (calls,) = layer_rows(context, trace, passed, [None] * len(passed)).values()
        rows[name] = [calls[0] | rows[name][0]]
    return rows
