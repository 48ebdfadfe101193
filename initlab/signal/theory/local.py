"""The local law, for models that mean field can't follow: each layer by itself, from the input that it received."""

from typing import Any

import torch
from torch import Tensor, nn

from initlab.nets.any_module import WeightLayer, on_weight_layers
from initlab.nets.undisturbed import to_model, untouched
from initlab.signal.theory.meanfield import Context
from initlab.signal.theory.no_rule import NoRule
from initlab.signal.theory.passes import Rows, forward, layer_rows
from initlab.signal.theory.rules import known
from initlab.signal.theory.trace import record


def local_law(model: nn.Module, batch: Tensor) -> Rows:
    """Each weight layer's y from the x that it received: n Var[w] E[x^2] + E[b^2] (He et al. 2015, eq. 7) and its band.

    Of a layer with several calls the first counts. Gradients are left out, and all of a layer that has no rule either.
    """
    inputs: dict[str, tuple[WeightLayer, Tensor]] = {}

    def keep_first(name: str, layer: WeightLayer, arguments: tuple[Any, ...], output: Tensor) -> None:
        """Keep a layer's input at its first call."""
        inputs.setdefault(name, (layer, arguments[0].detach()))

    with torch.inference_mode(False), untouched(model, backward=False), on_weight_layers(model, keep_first):
        model(to_model(model, batch, None)[0])
    rows: Rows = {}
    for name, (layer, x) in inputs.items():
        trace = record(layer, x, known)
        context = Context(len(x), False, {})
        try:
            signals, _ = forward(context, trace, trace.input)
        except NoRule:
            rows[name] = [{"basis": "local"}]
            continue
        (calls,) = layer_rows(context, trace, signals, [None] * len(signals)).values()
        rows[name] = [calls[0] | {"basis": "local"}]
    return rows
