"""What a model does with a batch, as a list of operations: recorded while it runs, whatever its Python code does.

Each call of a torch function on something that depends on the input becomes an `Operation`. Activations of the model
are not kept. Operations outside `known` are measured on the spot: the second moment of what they give, and the factor
by which they carry a random gradient back.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from initlab.nets.any_module import WeightLayer, on_weight_layers
from initlab.nets.undisturbed import Batch, first_tensor, run_model, to_model, untouched
from initlab.signal.theory.field import Field, field_of

# Stands in a recorded call for a tensor that depends on the model's input.
LIVE = object()
# Functions that leave their tensor as it is, most often to give a shape or a flag.
READERS = ("__get__", "size", "dim", "numel", "stride", "__len__", "item")
# (function, how many of its inputs depend on the model's, whether the first argument does) -> whether a rule holds
Known = Callable[[Any, int, bool], bool]


@dataclass
class Operation:
    """One call: `args` and `kwargs` with `LIVE` for each tensor that depends on the input."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[int]  # the operations that gave those tensors; -1 is the model's input
    in_shapes: list[tuple[int, ...]]
    shape: tuple[int, ...]
    layer: str | None = None  # name of the weight layer whose output this is
    # Of an operation that is not known: its first input and its output as measured, and the mean square of the
    # gradient at each input over that at the output.
    before: Field | None = None
    after: Field | None = None
    pulls: list[float] = field(default_factory=list)

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument of the call, given by its place or its name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)


@dataclass(frozen=True)
class Trace:
    """A model's run on one batch."""

    operations: list[Operation]
    output: int  # the operation that gave the model's (first) output tensor; -1 where none did
    input: Field
    logits: Tensor


class Recorder(TorchFunctionMode):
    """Records the operations while it is on."""

    def __init__(self, known: Known, batch: Batch) -> None:
        super().__init__()
        self.known = known
        self.operations: list[Operation] = []
        self.origin = WeakTensorKeyDictionary()
        for tensor in tensors_of(batch):
            self.origin[tensor] = -1

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        live = [t for t in tensors_of((args, kwargs)) if t in self.origin]
        inputs, in_shapes = [self.origin[t] for t in live], [tuple(t.shape) for t in live]
        leads = bool(live) and (args[0] if args else kwargs.get("input")) is live[0]
        unknown = bool(live) and not self.known(func, len(live), leads)
        # Before the call, which may work in place.
        changing = unknown and getattr(func, "__name__", "") not in READERS
        copies = [t.detach().clone() for t in live] if changing else []
        out = func(*args, **kwargs)
        outputs = [t for t in tensors_of(out) if t.is_floating_point()] if live else []
        call_args, call_kwargs = swap((args, kwargs), lambda t: LIVE if t in self.origin else t)
        for place, tensor in enumerate(outputs):
            operation = Operation(func, call_args, call_kwargs, inputs, in_shapes, tuple(tensor.shape))
            if unknown:
                copies = copies or [t.detach().clone() for t in live]
                operation.before, operation.after = field_of(copies[0]), field_of(tensor)
                operation.pulls = pulls(func, args, kwargs, live, copies, place)
            self.operations.append(operation)
        for number, tensor in enumerate(outputs, start=len(self.operations) - len(outputs)):
            self.origin[tensor] = number
        return out

    def name(self, name: str, layer: WeightLayer, inputs: tuple[Any, ...], output: Any) -> None:
        """A hook that notes that the operation behind this tensor is the output of a weight layer."""
        if isinstance(output, Tensor) and output in self.origin:
            self.operations[self.origin[output]].layer = name


def record(model: nn.Module, batch: Batch, known: Known) -> Trace:
    """Run the model on a batch and record what it does; it is left as it was (see `untouched`)."""
    with torch.inference_mode(False), untouched(model, backward=False):
        batch, _ = to_model(model, batch, None)
        recorder = Recorder(known, batch)
        with on_weight_layers(model, recorder.name), recorder:
            logits = first_tensor(run_model(model, batch))
    output = recorder.origin.get(logits, -1)
    return Trace(recorder.operations, output, field_of(first_tensor(batch)), logits)


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    tensors: list[Tensor] = []
    swap(value, tensors.append)
    return tensors


def swap(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """A nested value with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (tuple, list)):
        return tuple(swap(v, change) for v in value)
    if isinstance(value, dict):
        return {key: swap(v, change) for key, v in value.items()}
    return value


def pulls(func: Any, args: Any, kwargs: Any, live: list[Tensor], copies: list[Tensor], place: int) -> list[float]:
    """Mean square of the gradient at each input of a call, for a random one of mean square 1 at its output."""
    leaves = [copy.requires_grad_(copy.is_floating_point()) for copy in copies]

    def as_leaf(tensor: Tensor) -> Tensor:
        """The leaf of an argument, as a clone, since the function may work in place."""
        return next((leaf.clone() for source, leaf in zip(live, leaves, strict=True) if source is tensor), tensor)

    differentiable = [leaf for leaf in leaves if leaf.requires_grad]
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        try:
            outputs = tensors_of(func(*swap(args, as_leaf), **swap(kwargs, as_leaf)))
            out = [t for t in outputs if t.is_floating_point()][place]
            if not out.requires_grad:
                return [0.0] * len(leaves)
            grads = torch.autograd.grad(out, differentiable, torch.randn_like(out), allow_unused=True)
        # Torch's error where a function has no derivative: nothing is known of the gradient before it, hence NaN.
        except RuntimeError:
            return [float("nan")] * len(leaves)
    by_leaf = {id(leaf): grad for leaf, grad in zip(differentiable, grads, strict=True)}
    return [0.0 if (g := by_leaf.get(id(leaf))) is None else float(g.double().square().mean()) for leaf in leaves]
