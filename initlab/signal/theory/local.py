"""The local law, for models that mean field can't follow: each layer by itself, from the input that it received."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from initlab.nets.any_module import WeightLayer, layer_name
from initlab.nets.undisturbed import first_tensor, to_model, untouched
from initlab.signal.theory.meanfield import Context
from initlab.signal.theory.passes import Rows, forward, layer_rows
from initlab.signal.theory.rules import known
from initlab.signal.theory.trace import record


def local_law(model: nn.Module, batch: Tensor) -> Rows:
    """Each weight layer's y from the x that it received: n Var[w] E[x^2] + E[b^2] (He et al. 2015, eq. 7) and its band.

    Of a layer with several calls the first counts. Gradients are left out.
    """
    rows: Rows = {}
    for name, (module, x) in layer_inputs(model, batch).items():
        trace = record(module, x, known)
        context = Context(len(x), False, {})
        signals, _ = forward(context, trace, trace.input)
        (row,) = layer_rows(context, trace, signals, [None] * len(signals)).values()
        rows[name] = [row[0] | {"basis": "local"}]
    return rows


def layer_inputs(model: nn.Module, batch: Tensor) -> dict[str, tuple[WeightLayer, Tensor]]:
    """Weight layer -> the module and what it received at its first call in a run on the batch."""
    inputs: dict[str, tuple[WeightLayer, Tensor]] = {}

    def seen(module: WeightLayer, args: tuple[Any, ...], name: str) -> None:
        inputs.setdefault(name, (module, args[0].detach()))

    handles = [
        module.register_forward_pre_hook(partial(seen, name=layer_name(name)))
        for name, module in model.named_modules()
        if isinstance(module, WeightLayer)
    ]
    try:
        with torch.inference_mode(False), untouched(model, backward=False):
            first_tensor(model(to_model(model, batch, None)[0]))
    finally:
        for handle in handles:
            handle.remove()
    return inputs
