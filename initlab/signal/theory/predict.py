"""`predict`: expected signals of every weight layer, forward and backward, with a band for finite width.

The model runs once on a batch while its operations are recorded; mean field then goes through the recorded graph, so
that whatever the model's Python code does is followed: padding, pooling, residual sums, norms.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from initlab.init.apply import init_
from initlab.init.schemes import Scheme
from initlab.nets.any_module import layer_name, op_of, weight_layers
from initlab.nets.copies import copied
from initlab.nets.undisturbed import Batch, map_tensors, num_examples
from initlab.signal.probe import Loss, loss_values
from initlab.signal.theory.cotangent import LossGradient
from initlab.signal.theory.field import Field, NoRule, Pairs
from initlab.signal.theory.local_law import local_law
from initlab.signal.theory.meanfield import Context
from initlab.signal.theory.passes import PREDICTED, Rows, mean_field
from initlab.signal.theory.recorder import record
from initlab.signal.theory.redraw import one_pass, redraw
from initlab.signal.theory.rules import known
from initlab.signal.theory.trace import Trace, tensors_of


# Masks of -inf and batches without a scale give numbers that are not finite; the rows say so, not numpy.
@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def predict(
    model: nn.Module,
    *,
    scheme: str | Scheme | None = None,
    input_shape: Sequence[int] | None = None,
    batch: Batch | None = None,
    labels: Any = None,
    loss: Loss | None = None,
    batch_size: int = 64,
    input_moments: tuple[float, float] = (0.0, 1.0),
    dropout: bool = False,
    draws: int = 0,
    seed: int = 0,
    **init_arguments: Any,
) -> pd.DataFrame:
    """What theory says of each weight layer's signals over draws of the weights; the model is left as it was.

    `predict(build_net("plain", depth=30, input_shape=(1, 16, 16)), scheme="he", input_shape=(1, 16, 16))` starts at
    1.8368 = 2 (46/48)^2: He's factor 2 of a first layer, less the taps that the padding takes.

    Args:
        scheme: how the weights are drawn, as in `initlab.init_`, which takes `init_arguments` too; None is draws with
            the second moments that the weights have now.
        input_shape: one example's, for inputs of independent numbers with `input_moments`; or give a batch.
        batch: inputs as the model takes them, (N, ...), whose own moments count.
        labels: with a batch: the gradient of its loss; None is relative, the last layer's `backward_var` being 1.
        loss: as in `initlab.inspect`.
        batch_size: examples, where no batch says so.
        input_moments: (mean, variance) of the inputs.
        dropout: whether dropout is on.
        draws: measure this many draws of the weights instead (at least 2), on the batch or on random inputs; `.attrs`
            then has the cost: `draws`, `wall_s` and `passes`, their time in forward and backward passes.
        seed: of random inputs and of redrawn weights.

    Returns:
        One row per weight layer by first call (layers that never ran come last, with NaN): layer, name, op,
        forward_var, forward_median, forward_low, forward_high and the same of backward: expectation, median and
        pointwise 95 % band over draws of the weights, of what `initlab.inspect` measures. `correlation` is that of two
        inputs (the c-map). `basis` is `theory`; `measured` where an operation before the layer, or one through which
        its gradient comes, has no rule, so that its own moments were taken from the run; `approximate` where signals
        meet that are not independent, as in a layer that takes in what it gave itself (`.attrs["approximate_because"]`
        names the first); `local` where theory can't follow the model: each layer is predicted from the input that it
        received, gradients aren't, and `.attrs["local_because"]` names the function without a rule; `redrawn` under
        `draws`.

    Raises:
        ValueError: neither input_shape nor batch, labels without a batch or that do not fit, or a number out of range.
    """
    check_inputs(model, input_shape, batch, labels, batch_size, input_moments)
    images = batch
    if images is None:
        # Theory needs a run, not its numbers.
        shape = (batch_size if draws else 2, *(input_shape or ()))
        normals = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        images = input_moments[0] + math.sqrt(input_moments[1]) * normals
    if draws:
        draw = None if scheme is None else partial(init_, scheme=scheme, batch=images, **init_arguments)
        frame = redraw(model, images, labels, loss, draws, seed, draw)
        frame.attrs["passes"] = frame.attrs["wall_s"] / one_pass(model, images)
        return frame
    parameters: list[dict[str, Any]] = []
    if scheme is not None:
        model = copied(model)
        init_(model, scheme, seed=seed, batch=images, on_parameter=parameters.append, **init_arguments)
    trace = record(model, images, known)
    start = trace.input
    if batch is None and isinstance(images, Tensor):
        start = independent(images, input_moments, trace.axis)
    context = context_of(model, batch_size if batch is None else num_examples(model, batch), dropout, parameters)
    gradient = (
        None if labels is None else LossGradient(trace.logits, labels, loss and partial(loss_of_first, loss, trace))
    )
    try:
        rows, reason = mean_field(context, trace, start, gradient)
    except NoRule as missing:
        frame = to_frame(model, local_law(model, images), relative=labels is None)
        frame.attrs["local_because"] = str(missing)
        return frame
    frame = to_frame(model, rows, relative=labels is None)
    if reason is not None:
        frame.attrs["approximate_because"] = reason
    return frame


def context_of(model: nn.Module, examples: int, dropout: bool, drawn: Sequence[Mapping[str, Any]]) -> Context:
    """What all rules share of a model; `drawn` says how a scheme drew its parameters, if one did."""
    # By the parameter itself, since a bare layer has no name; a weight that is computed has no draw of its own.
    weights = {layer_name(name): id(parameter) for name, parameter in model.named_parameters()}
    stds = {weights[row["name"]]: row["scheme_std"] for row in drawn if row["name"] in weights}
    moments = {weight: std**2 for weight, std in stds.items() if std is not None}
    return Context(examples, dropout, moments, {number: name for name, number in weights.items()})


def loss_of_first(loss: Loss, trace: Trace, logits: Tensor, labels: Any) -> Tensor:
    """A loss of all that the model gave, as a function of its first output."""
    if isinstance(trace.outputs, Tensor):
        return loss(logits, labels)
    return loss_values(map_tensors(trace.outputs, lambda t: logits if t is trace.logits else t), labels, loss)


def check_inputs(
    model: nn.Module,
    shape: Sequence[int] | None,
    batch: Batch | None,
    labels: Any,
    batch_size: int,
    moments: Sequence[float],
) -> None:
    """Refuse what `predict` can't take, whatever the model."""
    if (shape is None) == (batch is None):
        raise ValueError(f"predict: give one of input_shape and batch (got {'neither' if batch is None else 'both'})")
    if labels is not None and batch is None:
        raise ValueError("predict: labels belong to a batch (got none); give batch= too")
    for name, tensor in (("batch", batch), ("labels", labels)):
        if tensor is not None and not (tensors_of(tensor) and num_examples(model, tensor)):
            value = "an empty one" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"predict: {name}= takes a tensor of examples (got {value}); give one example or more")
    mean, variance = moments if len(moments) == 2 else (math.nan, math.nan)
    some_input = math.isfinite(mean) and 0 <= variance < math.inf and mean**2 + variance > 0
    for name, number, is_allowed, allowed in (
        ("input_shape", shape, shape is None or min(shape, default=0) > 0, "sides from 1 on"),
        ("batch_size", batch_size, batch_size >= 1, "from 1 on"),
        ("input_moments", moments, some_input, "a mean, and a variance from 0 on, of inputs that are not all 0"),
    ):
        if not is_allowed:
            raise ValueError(f"predict: {name} is out of range (got {number}); allowed: {allowed}")


def independent(images: Tensor, moments: tuple[float, float], axis: int) -> Field:
    """The field of inputs of this shape, channels at `axis`, that are independent numbers of this mean and variance."""
    mean, variance = moments
    q, channels = mean**2 + variance, images.shape[axis]
    positions = images[0].numel() // channels
    c = Pairs.alike(mean**2 / q)
    q_map = torch.full(images[0].movedim(axis, 0).shape[1:], q, dtype=torch.float64)
    # Their squares scatter as those of normals.
    spread = replace((1 - c**2) / channels, itself=2 * (1 - c.same_place**2) / channels)
    return Field(q_map, c, mean / math.sqrt(q), positions, channels, spread)


def to_frame(model: nn.Module, rows: Rows, relative: bool) -> pd.DataFrame:
    """One row per layer, the mean over its calls; layers that never ran come last."""
    layers, columns = dict(weight_layers(model)), (*PREDICTED, "correlation")
    records = []
    for name in dict.fromkeys([*rows, *layers]):
        calls = rows.get(name, [{"basis": None}])
        means = {column: float(np.mean([call.get(column, math.nan) for call in calls])) for column in columns}
        # Parts of a packed attention are linear layers without a module.
        op = calls[0].get("op") or (op_of(layers[name]) if name in layers else "linear")
        records.append({"name": name, "op": op, **means, "basis": calls[0]["basis"]})
    frame = pd.DataFrame(records, columns=["name", "op", *columns, "basis"])
    if relative and rows:
        backward = [column for column in PREDICTED if column.startswith("backward")]
        frame[backward] /= frame.backward_var.iloc[len(rows) - 1]
    frame.insert(0, "layer", range(len(frame)))
    return frame
