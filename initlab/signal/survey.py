"""Everything of a model that has weights, on one batch: layers measured as the probe does, each parameter.

The probe (`initlab.signal.probe.measure`) has a row for each convolution and linear module. Here, so has every matrix
or filter that the model applies in another way: query, key and value of `nn.MultiheadAttention`, gates of recurrent
layers, bare parameters in `F.linear`, `matmul`, `einsum` and their like (`initlab.init.uses`). Other parameters are
listed with what they do, and what was not seen with the reason.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from initlab.init.layers import EMBEDDINGS, RECURRENT
from initlab.nets.any_module import layer_name
from initlab.nets.autograd_graph import in_order, is_leaf
from initlab.nets.undisturbed import Batch, autocast_of, map_tensors, num_examples, tensors_in, to_model, untouched
from initlab.signal.moments import NAN, mean_and_variance, on_host
from initlab.signal.precision import COLUMNS as ROUNDING, HALVES, Rounded, scaled_twice
from initlab.signal.probe import LayerSignals, Loss, checked_loss, to_rows
from initlab.signal.recording import Recording
from initlab.signal.weight_gradients import Weight, WeightGradients

MOMENTS = ("forward_mean", "forward_var", "backward_mean", "backward_var")
# Columns of `parameters`.
PARAMETER = (
    *("name", "role", "layer", "op", "calls", "shape", "numel", "value_mean", "value_var", "weight_grad_rms"),
    *MOMENTS,
)
# Reasons why a parameter that was not seen has no part in what was measured.
IDLE = ("no example of this batch came to it", "it takes no part in this pass")
# Modules whose parameters of two dimensions and more are matrices.
MATRICES = (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention, *RECURRENT)
STEP = ("name", "step", *MOMENTS)


@dataclass(frozen=True)
class Survey:
    """What one batch shows of all of a model's parameters.

    `layers` has the probe's rows, and of each: part (`q`, `k`, `v`, or a gate, else ""), shape (of the weight), fan_in,
    fan_out and width (channels or features of y). The two weights of a gate share their y, its pre-activation. Of the
    gradient at y, of the batch-mean loss: grad_zero_fraction, the share that is exactly 0; underflow, in a model that
    runs in half precision, the share of those not 0 under a scaled loss that are 0 as it runs (else NaN);
    underflow_fp16 and underflow_bf16, the share of those not 0 that such a number would round to 0.

    `parameters` has a row for each parameter: name; role (of `uses.ROLES`; "" if none was seen); layer (the name of the
    row whose weight or bias it is, else ""); op (the function that it enters); calls; shape; numel; value_mean and
    value_var; weight_grad_rms (of the batch-mean loss); and where it is no layer's, the moments of what that function
    gives.

    `steps` has a row for each step of each recurrent layer: name, step (in the order in which they run), and the
    moments of all its gates' pre-activations and of their gradients.

    `unjudged` names each parameter that was not seen, with the reason; `judged_share` is the share of all numbers in
    parameters that were seen, 1 for a model without any. `trunk` is as `initlab.signal.trunk.Trunk.table` has it.
    """

    layers: list[dict[str, Any]]
    parameters: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    unjudged: list[tuple[str, str]]
    judged_share: float
    trunk: pd.DataFrame = field(default_factory=pd.DataFrame, compare=False)


def survey(
    model: nn.Module,
    batch: Batch,
    labels: Any = None,
    *,
    loss: Loss | None = None,
    weight_decay: float | None = None,
    autocast: torch.dtype | None = None,
) -> Survey:
    """Measure all that has weights on one batch.

    Arguments and errors are those of `initlab.signal.probe.measure`; without labels or `loss`, a model that gives its
    own loss has its gradients measured.

    Args:
        autocast: run the model and the loss under `torch.autocast` with this type.
    """
    with torch.inference_mode(False), untouched(model, backward=True), parametrize.cached():
        batch, labels = to_model(model, batch, labels)
        examples = num_examples(model, batch)
        recording = Recording(model)
        with autocast_of(model, autocast):
            output = recording.run(batch)
            end = end_of(output, labels, loss, examples)
        layers = list(recording.layers.values())
        parameters: list[Weight] = [([parameter], slice(None)) for parameter in recording.parameters.values()]
        weights = WeightGradients([*(weight_of(layer, recording) for layer in layers), *parameters])
        squares: list[Tensor | None] = [None] * len(weights.weights)
        rounding = [[NAN] * len(ROUNDING)] * len(layers)
        if end is not None and weights.tensors:
            squares, rounding = backward(recording, end, weights, examples)
        of_layers, of_parameters = squares[: len(layers)], squares[len(layers) :]
        statistics = [s.statistics(g, examples, weight_decay) for s, g in zip(layers, of_layers, strict=True)]
        rows = [
            recording.facts[row["name"]] | row | dict(zip(ROUNDING, shares, strict=True))
            for row, shares in zip(to_rows(layers, statistics, examples), on_host(rounding), strict=True)
        ]
        unjudged = unseen(recording, output)
        sizes = {name: parameter.numel() for name, parameter in recording.parameters.items()}
        share = 1 - sum(sizes[name] for name, _ in unjudged) / max(sum(sizes.values()), 1)
        about = parameter_rows(recording, of_parameters, examples)
        return Survey(rows, about, step_rows(recording), unjudged, share, recording.trunk.table())


def variances(
    model: nn.Module, batch: Batch, labels: Any = None, *, loss: Loss | None = None, changing: Collection[Tensor] = ()
) -> list[tuple[str, str, list[float]]]:
    """(name, op, [forward_var, backward_var]) of each of `survey`'s layers that ran, NaN without labels.

    Cheaper than `survey`, as no matrix gets a gradient; `changing` is as in `untouched`.
    """
    with torch.inference_mode(False), untouched(model, backward=True, changing=changing), parametrize.cached():
        modules = list(model.modules())
        looked_up = {id(p) for module in modules if isinstance(module, EMBEDDINGS) for p in module.parameters()}
        for module in modules:
            for parameter in module.parameters(recurse=False) if isinstance(module, MATRICES) else ():
                parameter.requires_grad_(parameter.dim() < 2 or id(parameter) in looked_up)
        batch, labels = to_model(model, batch, labels)
        # What no parameter stands before needs the gradient of the batch; a copy, since the model may work in place.
        inputs = [t.requires_grad_() for t in tensors_in(batch) if t.is_floating_point() or t.is_complex()]
        fed = map_tensors(batch, lambda tensor: tensor.clone() if tensor.requires_grad else tensor)
        recording = Recording(model)
        end = end_of(recording.run(fed), labels, loss, num_examples(model, fed))
        leaves = [*inputs, *(p for p in model.parameters() if p.requires_grad)]
        if end is not None:
            torch.autograd.grad(end, leaves, allow_unused=True)
        layers = [signals for signals in recording.layers.values() if signals.calls]
        moments = on_host([[s.forward.result()[1], s.backward.result()[1]] for s in layers])
        return [(signals.name, signals.op, pair) for signals, pair in zip(layers, moments, strict=True)]


def end_of(output: Any, labels: Any, loss: Loss | None, examples: int) -> Tensor | None:
    """The summed loss to differentiate: the user's, or without labels the model's own, if it gives one."""
    if labels is not None:
        return checked_loss(output, labels, loss)
    if isinstance(output, Mapping) or hasattr(output, "loss"):
        losses = output.get("loss") if isinstance(output, Mapping) else output.loss
        numbers = list(output.values()) if isinstance(output, Mapping) else []
        # A dict of losses, as detectors give it in training, is their sum.
        losses = [losses] if isinstance(losses, Tensor) else numbers
        if losses and all(isinstance(t, Tensor) and not t.dim() and t.requires_grad for t in losses):
            return torch.stack(losses).sum() * examples
    return None


def backward(
    recording: Recording, end: Tensor, weights: WeightGradients, examples: int
) -> tuple[list[Tensor | None], list[list[Tensor]]]:
    """The mean square of each weight's gradient, and each layer's share of gradients that rounding takes."""
    layers, half = list(recording.layers.values()), any(s.dtype in HALVES for s in recording.layers.values())

    def counted(factor: float, kept: bool = False) -> dict[int, Rounded]:
        """Fresh counts by the list of sinks, which the two weights of a gate share; moments go on only if `kept`."""
        counts = {id(signals.sinks): Rounded() for signals in layers}
        for signals in recording.signals():
            signals.sinks[:] = [signals.backward.add] if kept else []
        for signals in {id(signals.sinks): signals for signals in layers}.values():
            signals.sinks.append(partial(counts[id(signals.sinks)].add, scale=factor))
        return counts

    def run(factor: float) -> tuple[Tensor | None, ...]:
        """A backward pass of the batch-mean loss times a factor."""
        seed = torch.full_like(end, factor / examples)
        return torch.autograd.grad(end, weights.tensors, seed, allow_unused=True, retain_graph=True)

    counts = counted(examples, kept=True)
    with weights.noted():
        gradients = torch.autograd.grad(end, weights.tensors, allow_unused=True, retain_graph=half)
        shares = {key: count.shares() for key, count in counts.items()}
        if half:
            plain, scaled = scaled_twice(run, counted)
            shares = {key: scaled[key].shares(plain[key]) if scaled else plain[key].shares() for key in plain}
    return weights.mean_squares(gradients), [shares[id(signals.sinks)] for signals in layers]


def weight_of(layer: LayerSignals, recording: Recording) -> Weight:
    """The tensors that were a layer's weight in its calls, none of a layer that never ran, and its rows."""
    entered = list(recording.entered.get(layer.name, {}).values())
    return entered or ([layer.weight()] if layer.calls else []), layer.rows


def unseen(recording: Recording, output: Any) -> list[tuple[str, str]]:
    """The parameters that no call showed, each with the reason."""
    reached = reached_by(output)
    scripted = [
        layer_name(f"{name}.") for name, m in recording.model.named_modules() if isinstance(m, torch.jit.ScriptModule)
    ]
    entries = []
    for name, parameter in recording.parameters.items():
        if name in recording.entries:
            continue
        if any(name.startswith(path.lstrip(".")) for path in scripted):
            reason = "torch.jit hides what its functions do"
        elif name in recording.empty:
            reason = IDLE[0]
        elif id(parameter) in reached and name not in recording.resting:
            reason = "it enters a function that cannot be looked into"
        else:
            reason = IDLE[1]
        entries.append((name, reason))
    return entries


def reached_by(output: Any) -> set[int]:
    """The ids of the parameters in the graph behind an output."""
    nodes = in_order(tensor.grad_fn for tensor in tensors_in(output))
    return {id(node.variable) for node in nodes if is_leaf(node)}


def parameter_rows(recording: Recording, squares: Sequence[Tensor | None], examples: int) -> list[dict[str, Any]]:
    """A row per parameter, its numbers brought from the device at once; `squares` are those of its gradient."""
    rows, numbers = [], []
    for (name, parameter), square in zip(recording.parameters.items(), squares, strict=True):
        entry = recording.entries.get(name)
        signals = entry.signals if entry else None
        layer = recording.layers.get(entry.layer) if entry else None
        which = (
            {"role": entry.role, "layer": entry.layer, "op": entry.op} if entry else {"role": "", "layer": "", "op": ""}
        )
        source = signals or layer
        size = {"calls": source.calls if source else 0, "shape": tuple(parameter.shape), "numel": parameter.numel()}
        rows.append({"name": name} | which | size)
        rms = NAN if square is None else square.sqrt() / examples
        moments = [*signals.forward.result(), *signals.backward.result()] if signals else [NAN] * len(MOMENTS)
        numbers.append([*mean_and_variance(parameter), rms, *moments])
    columns = PARAMETER[len(PARAMETER) - 3 - len(MOMENTS) :]
    return [row | dict(zip(columns, values, strict=True)) for row, values in zip(rows, on_host(numbers), strict=True)]


def step_rows(recording: Recording) -> list[dict[str, Any]]:
    """A row for each step of each recurrent layer."""
    steps = [(name, number, step) for name, steps in recording.steps.items() for number, step in enumerate(steps)]
    numbers = on_host([[*step.forward.result(), *step.backward.result()] for _, _, step in steps])
    return [
        dict(zip(STEP, (name, number, *values), strict=True))
        for (name, number, _), values in zip(steps, numbers, strict=True)
    ]
