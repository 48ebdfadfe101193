"""Everything of a model that has weights, on one batch: layers measured as the probe does, each parameter.

The probe (`initlab.signal.probe.measure`) has a row for each convolution and linear module. Here, so has every matrix
or filter that the model applies in another way: query, key and value of `nn.MultiheadAttention`, gates of recurrent
layers, bare parameters in `F.linear`, `matmul`, `einsum` and their like (`initlab.signal.uses`). Other parameters are
listed with what they do, and what was not seen with the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from initlab.nets.any_module import layer_name
from initlab.nets.undisturbed import Batch, num_examples, to_model, untouched
from initlab.signal.moments import NAN, in_float64
from initlab.signal.probe import LayerSignals, Loss, check_not_lazy, loss_gradients, to_rows
from initlab.signal.recording import Recording
from initlab.signal.uses import tensors_in

MOMENTS = ("forward_mean", "forward_var", "backward_mean", "backward_var")
# Columns of `parameters`.
PARAMETER = (
    *("name", "role", "layer", "op", "calls", "shape", "numel", "value_mean", "value_var", "weight_grad_rms"),
    *MOMENTS,
)
STEP = ("name", "step", *MOMENTS)


@dataclass(frozen=True)
class Survey:
    """What one batch shows of all of a model's parameters.

    `layers` has the probe's rows, and of each: part (`q`, `k`, `v`, or a gate, else ""), shape (of the weight), fan_in,
    fan_out and width (channels or features of y). The two weights of a gate share their y, its pre-activation.

    `parameters` has a row for each parameter: name; role (of `uses.ROLES`; "" if none was seen); layer (the name of the
    row whose weight or bias it is, else ""); op (the function that it enters); calls; shape; numel; value_mean and
    value_var; weight_grad_rms (of the batch-mean loss); and where it is no layer's, the moments of what that function
    gives.

    `steps` has a row for each step of each recurrent layer: name, step (in the order in which they run), and the
    moments of all its gates' pre-activations and of their gradients.

    `unjudged` names each parameter that was not seen, with the reason; `judged_share` is the share of all numbers in
    parameters that were seen, 1 for a model without any.
    """

    layers: list[dict[str, Any]]
    parameters: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    unjudged: list[tuple[str, str]]
    judged_share: float


def survey(
    model: nn.Module, batch: Batch, labels: Any = None, *, loss: Loss | None = None, weight_decay: float | None = None
) -> Survey:
    """Measure all that has weights on one batch; arguments and errors are those of `initlab.signal.probe.measure`."""
    check_not_lazy(model)
    with torch.inference_mode(False), untouched(model, backward=True), parametrize.cached():
        batch, labels = to_model(model, batch, labels)
        examples = num_examples(model, batch)
        recording = Recording(model, batch)
        output = recording.run(batch)
        layers = list(recording.layers.values())
        weights = [weights_of(layer, recording) for layer in layers]
        tensors = {id(t): t for t in sum(weights, list(recording.parameters.values())) if t.requires_grad}
        grads: dict[int, Tensor | None] = {}
        if labels is not None and tensors:
            grads = dict(zip(tensors, loss_gradients(output, labels, loss, list(tensors.values())), strict=True))
        sums = [total([grads.get(id(tensor)) for tensor in entered]) for entered in weights]
        statistics = [s.statistics(g, examples, weight_decay) for s, g in zip(layers, sums, strict=True)]
        rows = [recording.facts[row["name"]] | row for row in to_rows(layers, statistics, examples)]
        unjudged = unseen(recording, output)
        sizes = {name: parameter.numel() for name, parameter in recording.parameters.items()}
        share = 1 - sum(sizes[name] for name, _ in unjudged) / max(sum(sizes.values()), 1)
        return Survey(rows, parameter_rows(recording, grads, examples), step_rows(recording), unjudged, share)


def weights_of(layer: LayerSignals, recording: Recording) -> list[Tensor]:
    """The tensors that were a layer's weight in its calls; none of a layer that never ran."""
    entered = list(recording.entered.get(layer.name, {}).values())
    return entered or ([layer.weight()] if layer.calls else [])


def total(gradients: Sequence[Tensor | None]) -> Tensor | None:
    """The sum of the gradients that came."""
    came = [gradient for gradient in gradients if gradient is not None]
    return sum(came[1:], came[0]) if came else None


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
            reason = "no example of this batch came to it"
        elif id(parameter) in reached:
            reason = "it enters a function that cannot be looked into"
        else:
            reason = "it takes no part in this pass"
        entries.append((name, reason))
    return entries


def reached_by(output: Any) -> set[int]:
    """The ids of the parameters in the graph behind an output."""
    pending, visited, leaves = [t.grad_fn for t in tensors_in(output)], set[Any](), set[int]()
    while pending:
        node = pending.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        pending += [source for source, _ in node.next_functions]
    return leaves


def parameter_rows(recording: Recording, grads: dict[int, Tensor | None], examples: int) -> list[dict[str, Any]]:
    """A row per parameter, its numbers brought from the device at once."""
    rows, numbers = [], []
    for name, parameter in recording.parameters.items():
        entry, values, grad = recording.entries.get(name), in_float64(parameter), grads.get(id(parameter))
        signals = entry.signals if entry else None
        layer = recording.layers.get(entry.layer) if entry else None
        which = (
            {"role": entry.role, "layer": entry.layer, "op": entry.op} if entry else {"role": "", "layer": "", "op": ""}
        )
        source = signals or layer
        size = {"calls": source.calls if source else 0, "shape": tuple(parameter.shape), "numel": parameter.numel()}
        rows.append({"name": name} | which | size)
        rms = NAN if grad is None else (in_float64(grad) / examples).abs().square().mean().sqrt()
        moments = [*signals.forward.result(), *signals.backward.result()] if signals else [NAN] * len(MOMENTS)
        spread = values.var(correction=0) if parameter.numel() else NAN
        numbers.append([values.mean().abs() if values.is_complex() else values.mean(), spread, rms, *moments])
    columns = PARAMETER[len(PARAMETER) - 3 - len(MOMENTS) :]
    return [row | dict(zip(columns, values, strict=True)) for row, values in zip(rows, on_host(numbers), strict=True)]


def step_rows(recording: Recording) -> list[dict[str, Any]]:
    """A row for each step of each recurrent layer."""
    steps = [(name, number, step) for name, steps in recording.steps.items() for number, step in enumerate(steps)]
    numbers = on_host([[*forward.result(), *backward.result()] for _, _, (forward, backward) in steps])
    return [
        dict(zip(STEP, (name, number, *values), strict=True))
        for (name, number, _), values in zip(steps, numbers, strict=True)
    ]


def on_host(rows: list[list[Tensor]]) -> list[list[float]]:
    """Numbers of rows of one length, brought from the device at once."""
    if not rows:
        return []
    device = next((value.device for row in rows for value in row if value.device.type != "cpu"), None)
    numbers: list[list[float]] = torch.stack(
        [torch.stack([v.to(device, torch.float64) for v in row]) for row in rows]
    ).tolist()
    return numbers
