"""The probe: one forward and backward pass that measures what goes through every weight layer.

For a layer's pre-activation y (batch x channels x positions) it takes mean and variance of y and of
dy = d(sum over examples of the loss)/dy, all in float64; see `measure`. It leaves the model as it was: weights,
buffers, mode, gradients and the global random state.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from initlab.nets.any_module import WeightLayer, layer_name
from initlab.nets.undisturbed import first_tensor, to_model, untouched
from initlab.signal.moments import Moments

ACTIVATIONS = {
    F.relu, F.relu_, F.leaky_relu, F.leaky_relu_, F.prelu, F.elu, F.elu_, F.selu, F.celu, F.gelu, F.silu, F.mish,
    F.relu6, F.hardtanh, F.hardswish, F.hardsigmoid, F.softplus, F.softsign, F.rrelu, F.logsigmoid, F.threshold,
    torch.relu, torch.relu_, torch.tanh, torch.sigmoid, Tensor.relu, Tensor.relu_, Tensor.tanh, Tensor.tanh_,
    Tensor.sigmoid, Tensor.sigmoid_, F.tanh, F.sigmoid,
}  # fmt: skip
COLUMNS = (
    "forward_mean",
    "forward_var",
    "backward_mean",
    "backward_var",
    "weight_var",
    "weight_grad_rms",
    "decay_ratio",
    "zero_fraction",
)
Loss = Callable[[Tensor, Tensor], Tensor]


class Trace:
    """What one weight layer showed during the pass."""

    def __init__(self, name: str, module: WeightLayer) -> None:
        self.name = name
        self.module = module
        self.calls = 0
        self.forward = Moments()
        self.backward = Moments()
        self.zeros: Tensor | None = None
        self.activations = 0  # numbers in the outputs of its next activations
        self.activation = ""  # the first of them by its function's name


class NextActivation(TorchFunctionMode):
    """Counts exact zeros in the output of the next activation after each weight layer, module or function alike."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Trace] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.waiting and func in ACTIVATIONS:
            zeros = (out.detach() == 0).sum()
            for trace in self.waiting:
                trace.zeros = zeros if trace.zeros is None else trace.zeros + zeros
                trace.activations += out.numel()
                trace.activation = trace.activation or func.__name__.rstrip("_")
            self.waiting = []
        return out


def measure(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    loss: Loss | None = None,
    weight_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Measure forward and backward signals of every convolution and linear layer of `model` on one batch.

    Dropout is off; BatchNorm uses the batch's statistics. A layer used several times is one row, its moments pooled.

    Args:
        images: a batch as the model takes it, (N, ...); moved to the model's device and floating type.
        labels: class indices (N,), or whatever `loss` takes; None leaves the backward columns NaN.
        loss: (output, labels) -> per-example losses (N,), or their mean (); None is cross-entropy, for (N, T, classes)
            and (N, T) labels summed over tokens.
        weight_decay: for `decay_ratio`; None leaves it NaN.

    Returns:
        One row per layer in order of first call (layers that never ran come last): layer, name, op, calls, `outputs`
        (numbers in y of one example and call), `activation` (the function that comes next: `relu`, or ""), `reached`
        (whether a gradient came) and the columns of `COLUMNS`, defined in docs of the study format: variances are
        population variances over batch, channels and positions; `backward_*` belong to the gradient of the summed
        loss; `weight_grad_rms` to that of the batch mean.

    Raises:
        ValueError: the model's output holds no tensor, or the loss has a wrong shape.
    """
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(f"inspect: {name} is not there yet (lazy); run the model on a batch first")
    with torch.inference_mode(False), untouched(model, backward=labels is not None), parametrize.cached():
        images, labels = to_model(model, images, labels)
        order, never_ran, output = forward(model, images)
        weights = [trace.module.weight for trace in order]
        grads: tuple[Tensor | None, ...] = (None,) * len(weights)
        if labels is not None and weights:
            total = summed_loss(output, labels, loss)
            if not total.requires_grad:
                raise ValueError("inspect: the loss has no gradient; let the forward run without no_grad or detach")
            grads = torch.autograd.grad(total, weights, allow_unused=True)
        statistics = [layer_statistics(t, g, len(images), weight_decay) for t, g in zip(order, grads, strict=True)]
        statistics += [layer_statistics(trace, None, len(images), None) for trace in never_ran]
        return to_rows([*order, *never_ran], statistics, len(images))


def forward(model: nn.Module, images: Tensor) -> tuple[list[Trace], list[Trace], Tensor]:
    """Run the model under hooks; returns its weight layers by first call, those that never ran, and its output.

    The hooks are gone before the backward pass, which runs checkpointed layers a second time.
    """
    traces: dict[nn.Module, Trace] = {}
    order: list[Trace] = []
    activations = NextActivation()

    def seen(module: nn.Module, _: Any, y: Tensor) -> None:
        trace = traces[module]
        if trace.calls == 0:
            order.append(trace)
        trace.calls += 1
        trace.forward.add(y)
        if y.requires_grad:
            y.register_hook(trace.backward.add)
        activations.waiting.append(trace)

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, WeightLayer):
                traces[module] = Trace(layer_name(name), module)
                hooks.callback(module.register_forward_hook(seen).remove)
        with activations:
            output = first_tensor(model(images))
    return order, [trace for trace in traces.values() if trace.calls == 0], output


def layer_statistics(trace: Trace, grad: Tensor | None, examples: int, weight_decay: float | None) -> list[Tensor]:
    """The numbers of `COLUMNS` for one layer, still on the device."""
    weight = trace.module.weight.detach().double()
    nan = torch.full((), float("nan"), dtype=torch.float64, device=weight.device)
    grad_rms = decay_ratio = nan
    if grad is not None:
        mean_grad = grad.double() / examples
        grad_rms = mean_grad.square().mean().sqrt()
        if weight_decay is not None:
            decay_ratio = weight_decay * weight.norm() / mean_grad.norm()
    zero_fraction = nan if trace.zeros is None else trace.zeros.double() / trace.activations
    weight_var = weight.var(correction=0) if trace.calls else nan
    return [*trace.forward.result(), *trace.backward.result(), weight_var, grad_rms, decay_ratio, zero_fraction]


def to_rows(traces: list[Trace], statistics: list[list[Tensor]], examples: int) -> list[dict[str, Any]]:
    """Rows as plain numbers, with one transfer from the device for all of them."""
    if not traces:
        return []
    device = traces[0].module.weight.device
    numbers = torch.stack([torch.stack([v.to(device, torch.float64) for v in row]) for row in statistics]).tolist()
    return [
        {
            "layer": index,
            "name": trace.name,
            "op": "linear" if isinstance(trace.module, nn.Linear) else "conv",
            "calls": trace.calls,
            "outputs": trace.forward.count / (examples * max(trace.calls, 1)),
            "activation": trace.activation,
            "reached": trace.backward.count > 0,
            **dict(zip(COLUMNS, row, strict=True)),
        }
        for index, (trace, row) in enumerate(zip(traces, numbers, strict=True))
    ]


def summed_loss(output: Tensor, labels: Tensor, loss: Loss | None) -> Tensor:
    """Sum over the examples of the loss; a scalar from a custom `loss` is taken for their mean."""
    if loss is None:
        if output.dim() > 2 and output.shape[:-1] == labels.shape:  # one label per token, classes last
            output, labels = output.flatten(0, -2), labels.flatten()
        return F.cross_entropy(output, labels, reduction="sum")
    values = loss(output, labels)
    if values.dim() == 0:
        return values * len(labels)
    if values.shape[0] != len(labels):
        raise ValueError(
            f"inspect: the loss has a wrong shape (got {tuple(values.shape)} for {len(labels)} examples); "
            "return one value per example, or their mean"
        )
    return values.sum()
