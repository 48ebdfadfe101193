"""The probe: one forward and backward pass that measures what goes through every weight layer.

For a layer's pre-activation y (batch x channels x positions) it takes mean and variance of y and of
dy = d(sum over examples of the loss)/dy, all in float64; see `measure`. It leaves the model as it was: weights,
buffers, mode, gradients and the global random state.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from initlab.nets.any_module import WeightLayer, on_weight_layers, op_of
from initlab.nets.undisturbed import Batch, first_tensor, num_examples, run_model, to_model, untouched
from initlab.signal.moments import NAN, Moments, mean_and_variance, mean_square, on_host

ACTIVATIONS = {
    *(F.relu, F.relu_, F.leaky_relu, F.leaky_relu_, F.prelu, F.elu, F.elu_, F.selu, F.celu, F.gelu, F.silu, F.mish),
    *(F.relu6, F.hardtanh, F.hardswish, F.hardsigmoid, F.softplus, F.softsign, F.rrelu, F.logsigmoid, F.threshold),
    *(torch.relu, torch.relu_, torch.tanh, torch.sigmoid, F.tanh, F.sigmoid),
    *(Tensor.relu, Tensor.relu_, Tensor.tanh, Tensor.tanh_, Tensor.sigmoid, Tensor.sigmoid_),
}
COLUMNS = (
    *("forward_mean", "forward_var", "backward_mean", "backward_var"),
    *("weight_var", "weight_grad_rms", "decay_ratio", "zero_fraction"),
)
Loss = Callable[[Any, Any], Tensor]


class LayerSignals:
    """What goes through one weight layer during the pass."""

    def __init__(self, name: str, op: str, weight: Callable[[], Tensor], rows: slice = slice(None)) -> None:
        """`weight` reads the weight that ran, of which the layer is these rows."""
        self.name = name
        self.op = op
        self.weight = weight
        self.rows = rows
        self.calls = 0
        self.forward = Moments()
        self.backward = Moments()
        # What takes each gradient that comes.
        self.sinks: list[Callable[[Tensor], None]] = [self.backward.add]
        self.dtype: torch.dtype | None = None  # of y
        self.zeros: Tensor | None = None
        self.activations = 0  # numbers in the outputs of its next activations
        self.activation = ""  # the first of them by its function's name

    def add_call(self, y: Tensor, of: tuple[Tensor, slice] | None = None) -> None:
        """Add a call's output, and its gradient once that arrives; `of` is the tensor of which y is these columns."""
        self.calls += 1
        self.dtype = y.dtype
        self.forward.add(y)
        tensor, columns = of or (y, slice(None))
        if tensor.requires_grad:
            tensor.register_hook(self.receive if of is None else lambda grad: self.receive(grad[..., columns]))

    def receive(self, gradient: Tensor) -> None:
        """Take a gradient in."""
        for sink in self.sinks:
            sink(gradient)

    def statistics(self, square: Tensor | None, examples: int, weight_decay: float | None) -> list[Tensor]:
        """The numbers of `COLUMNS`, still on the device; `square` is the mean square of the gradient of its weight."""
        weight = self.weight().detach()[self.rows]
        nan = NAN.to(weight.device)
        grad_rms = decay_ratio = nan
        if square is not None:
            grad_rms = square.sqrt() / examples
            if weight_decay is not None:
                decay_ratio = weight_decay * mean_square(weight).sqrt() / grad_rms
        zero_fraction = nan if self.zeros is None else self.zeros.double() / self.activations
        weight_var = mean_and_variance(weight)[1] if self.calls else nan
        return [*self.forward.result(), *self.backward.result(), weight_var, grad_rms, decay_ratio, zero_fraction]


class NextActivation(TorchFunctionMode):
    """Counts exact zeros in the output of the next activation after each weight layer, module or function alike."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[LayerSignals] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.waiting and func in ACTIVATIONS:
            zeros = (out.detach() == 0).sum()
            for signals in self.waiting:
                signals.zeros = zeros if signals.zeros is None else signals.zeros + zeros
                signals.activations += out.numel()
                signals.activation = signals.activation or func.__name__.rstrip("_")
            self.waiting = []
        return out


def measure(
    model: nn.Module,
    images: Batch,
    labels: Any = None,
    *,
    loss: Loss | None = None,
    weight_decay: float | None = None,
    gradients: dict[Tensor, Tensor] | None = None,
) -> list[dict[str, Any]]:
    """Measure forward and backward signals of every convolution and linear layer of `model` on one batch.

    Dropout is off; BatchNorm uses the batch's statistics. A layer used several times is one row, its moments pooled.

    Args:
        images: a batch as the model takes it, (N, ...), or its arguments as a mapping, tuple or list; a copy is moved
            to the model's device and floating type.
        labels: class indices (N,), or whatever `loss` takes; None leaves the backward columns NaN.
        loss: (output, labels) -> per-example losses (N,), or their mean (); None is cross-entropy, for (N, T, classes)
            and (N, T) labels summed over tokens. Several outputs come to it as the model gives them, or where it
            cannot take these, the first tensor of them.
        weight_decay: for `decay_ratio`; None leaves it NaN.
        gradients: gets the gradient of the batch-mean loss of every parameter that has one.

    Returns:
        One row per layer in order of first call (layers that never ran come last): layer, name, op, calls, `outputs`
        (numbers in y of one example and call), `activation` (the function that comes next: `relu`, or ""), `reached`
        (whether a gradient came) and the columns of `COLUMNS`, defined in docs of the study format: variances are
        population variances over batch, channels and positions; `backward_*` belong to the gradient of the summed
        loss; `weight_grad_rms` to that of the batch mean.

    Raises:
        ValueError: the model's output holds no tensor, or the loss has a wrong shape.
    """
    # With gradients though there are no labels, since a model may need its weights' own in forward.
    with torch.inference_mode(False), untouched(model, backward=True), parametrize.cached():
        images, labels = to_model(model, images, labels)
        examples = num_examples(model, images)
        layers, output = forward(model, images)
        weights = [signals.weight() for signals in layers if signals.calls]
        grads: list[Tensor | None] = [None] * len(layers)
        if labels is not None and weights:
            parameters = [] if gradients is None else [p for p in model.parameters() if p.requires_grad]
            both = loss_gradients(output, labels, loss, [*weights, *parameters])
            grads[: len(weights)] = both[: len(weights)]
            if gradients is not None:
                others = zip(parameters, both[len(weights) :], strict=True)
                gradients.update({p: grad / examples for p, grad in others if grad is not None})
        squares = [None if grad is None else mean_square(grad) for grad in grads]
        statistics = [s.statistics(g, examples, weight_decay) for s, g in zip(layers, squares, strict=True)]
        return to_rows(layers, statistics, examples)


def forward(model: nn.Module, images: Batch) -> tuple[list[LayerSignals], Any]:
    """Run the model under hooks; gives its weight layers by first call, those that never ran last, and its output.

    The hooks are gone before the backward pass, which runs checkpointed layers a second time.
    """
    layers: dict[nn.Module, LayerSignals] = {}
    activations = NextActivation()

    def measure_output(name: str, layer: WeightLayer, inputs: tuple[Any, ...], y: Tensor) -> None:
        """Add a call's output to its layer's moments, and its gradient once that arrives."""
        if layer not in layers:
            layers[layer] = LayerSignals(name, op_of(layer), partial(getattr, layer, "weight"))
        layers[layer].add_call(y)
        activations.waiting.append(layers[layer])

    with on_weight_layers(model, measure_output) as weight_layers, activations:
        output = run_model(model, images)
    first_tensor(output)
    never_ran = [
        LayerSignals(name, op_of(layer), partial(getattr, layer, "weight"))
        for name, layer in weight_layers
        if layer not in layers
    ]
    return [*layers.values(), *never_ran], output


def to_rows(layers: list[LayerSignals], statistics: list[list[Tensor]], examples: int) -> list[dict[str, Any]]:
    """Rows as plain numbers, with one transfer from the device for all of them."""
    rows = []
    for index, (signals, row) in enumerate(zip(layers, on_host(statistics), strict=True)):
        outputs, reached = signals.forward.count / (examples * max(signals.calls, 1)), signals.backward.count > 0
        which = {"layer": index, "name": signals.name, "op": signals.op, "calls": signals.calls}
        what = {"outputs": outputs, "activation": signals.activation, "reached": reached}
        rows.append(which | what | dict(zip(COLUMNS, row, strict=True)))
    return rows


def loss_gradients(output: Any, labels: Any, loss: Loss | None, tensors: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """The gradient of the summed loss with respect to each tensor; None where the loss does not depend on it."""
    return torch.autograd.grad(checked_loss(output, labels, loss), tensors, allow_unused=True)


def checked_loss(output: Any, labels: Any, loss: Loss | None) -> Tensor:
    """The summed loss, refused where it has no gradient."""
    total = summed_loss(output, labels, loss)
    if not total.requires_grad:
        raise ValueError("inspect: the loss has no gradient; let the forward run without no_grad or detach")
    return total


def summed_loss(output: Any, labels: Any, loss: Loss | None) -> Tensor:
    """Sum over the examples of the loss; a scalar from a custom `loss` is taken for their mean.

    A `loss` of several outputs takes them as the model gives them; one that cannot, their first tensor.
    """
    if loss is None:
        output = first_tensor(output)
        if not isinstance(labels, Tensor):
            got = type(labels).__name__
            raise ValueError(f"inspect: the labels are no tensor (got {got}); give torch.tensor(labels), or a loss")
        # One label per token, classes last.
        if output.dim() > 2 and output.shape[:-1] == labels.shape:
            output, labels = output.flatten(0, -2), labels.flatten()
        try:
            return F.cross_entropy(output, labels, reduction="sum")
        except torch.OutOfMemoryError:
            raise
        # Torch's own check of the labels: another before it would wait for the device.
        except (IndexError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"inspect: the labels do not fit an output of shape {tuple(output.shape)} (got {labels.dtype} of shape "
                f"{tuple(labels.shape)}: {str(error).splitlines()[0]}); allowed: int64 classes from 0 on, or give loss="
            ) from error
    values = loss_values(output, labels, loss)
    if not isinstance(values, Tensor):
        got = type(values).__name__
        raise ValueError(f"inspect: the loss gives no tensor (got {got}); return one value per example, or their mean")
    examples = len(labels) if isinstance(labels, (Tensor, list)) else len(first_tensor(labels))
    if values.dim() == 0:
        return values * examples
    if values.shape[0] != examples:
        raise ValueError(
            f"inspect: the loss has a wrong shape (got {tuple(values.shape)} for {examples} examples); "
            "return one value per example, or their mean"
        )
    return values.sum()


def loss_values(output: Any, labels: Any, loss: Loss) -> Tensor:
    """What a loss of the user's gives for all that the model gave, or for its first tensor if it takes but one."""
    try:
        return loss(output, labels)
    # What a loss of one tensor raises at a tuple, a dict or a dataclass of them.
    except (TypeError, AttributeError, LookupError):
        if isinstance(output, Tensor):
            raise
        return loss(first_tensor(output), labels)
