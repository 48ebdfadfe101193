"""What a model does with a batch, as a list of operations: recorded while it runs, whatever its Python code does.

Each call of a torch function on something that depends on the input becomes an `Operation`. Activations of the model
are not kept. Operations outside `known` are measured on the spot: the second moment of what they give, and the factor
by which they carry a random gradient back.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from initlab.init.uses import opened
from initlab.nets.any_module import WeightLayer, layer_name, on_weight_layers
from initlab.nets.undisturbed import Batch, first_tensor, run_model, to_model, untouched
from initlab.signal.theory.chains import MEANS, POINTWISE, POLES, ROOT, SAME, SUMS_OVER, Chain, Root, chain
from initlab.signal.theory.field import Field, channel_axis, field_of
from initlab.signal.theory.kernels import of_sequences
from initlab.signal.theory.scores import MATMULS, Scores, matrix_product
from initlab.signal.theory.written_norms import Piece, next_piece, whole_norm

# Stands in a recorded call for a tensor that depends on the model's input.
LIVE = object()
WEIGHTED = (F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
RECURRENT = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
# Functions with one dimension of positions, and channels before it.
ONE_DIMENSION = (F.conv1d, F.conv_transpose1d, F.avg_pool1d, F.max_pool1d, F.adaptive_avg_pool1d, F.batch_norm)
QKV = ("query", "key", "value")
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
    dtype: torch.dtype = torch.float32  # of what it gives
    layer: str | None = None  # name of the weight layer whose output this is
    place: int = 0  # among the tensors that the call gave
    kernel: Tensor | None = None  # of what goes into a recurrent call: see `kernels.of_sequences`
    # Of an operation that is not known: its first input and its output as measured, and the mean square of the
    # gradient at each input over that at the output.
    before: Field | None = None
    after: Field | None = None
    pulls: list[float] = field(default_factory=list)
    # Of a pointwise call: the function that it is of the operation `root`.
    chain: Chain | None = None
    root: int = -1
    of_rule: bool = True  # whether a rule may stand behind the root; what was measured is no normal

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument of the call, given by its place or its name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    @property
    def phi(self) -> Chain | None:
        """The function that has to be integrated, where the call is more than a factor or constant; see `sources`."""
        if self.chain is None or not (self.chain.bends or len(self.chain.parts) > 1):
            return None
        return self.chain if self.rooted else self.chain.alone

    @property
    def rooted(self) -> bool:
        """Whether a pointwise call is followed from its root: its own inputs are no normals, or not independent."""
        return self.chain is not None and (
            len(self.chain.parts) > 1 or (self.chain.bends and self.chain.parts[0].curved)
        )

    @property
    def sources(self) -> list[int]:
        """The operations whose signals its rule takes and that its gradient goes to."""
        return [self.root] if self.rooted and self.of_rule else self.inputs


@dataclass(frozen=True)
class Trace:
    """A model's run on one batch."""

    operations: list[Operation]
    output: int  # the operation that gave the model's (first) output tensor; -1 where none did
    input: Field
    logits: Tensor
    outputs: Any  # all that the model gave, the logits among it
    axis: int  # the input's dimension of channels, counted from the end


class Recorder(TorchFunctionMode):
    """Records the operations while it is on."""

    def __init__(self, known: Known, batch: Batch) -> None:
        super().__init__()
        self.known = known
        self.operations: list[Operation] = []
        # Weights of layers that are applied without a call of their module, as an attention's last one.
        self.owners: dict[Any, str] = {}
        # Of operations that are part of an attention or norm that is written out.
        self.parts: dict[int, Scores | Piece] = {}
        self.origin = WeakTensorKeyDictionary()
        first, *others = tensors_of(batch)
        self.examples = len(first) if first.dim() else 1
        self.origin[first] = -1
        for tensor in others:
            self.give(tensor, field_of(tensor))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # It has examples in its second dimension; others would be taken for positions.
        if func is F.multi_head_attention_forward and (args[0] if args else kwargs["query"]).shape[1:-1] == (
            self.examples,
        ):
            with self, opened():
                return func(*args, **kwargs)
        if func in WEIGHTED and (constant := args[0] if args else kwargs["input"]) not in self.origin:
            # As positional encodings do; the same for all examples, unless it has as many as there are.
            batched = constant.dim() > 1 and len(constant) == self.examples
            self.give(constant, field_of(constant if batched else constant[None], fixed=not batched))
        # A mask that the input gives counts as it is.
        seen = dict(zip(QKV, args, strict=False)) | kwargs if func is F.scaled_dot_product_attention else {}
        live = [t for t in tensors_of([seen.get(name) for name in QKV] if seen else (args, kwargs)) if t in self.origin]
        inputs, in_shapes = [self.origin[t] for t in live], [tuple(t.shape) for t in live]
        leads = bool(live) and (args[0] if args else kwargs.get("input")) is live[0]
        if leads and func in SAME:
            return self.same(func(*args, **kwargs), live[0])
        part = self.part(func, args, kwargs, live)
        if isinstance(part, Operation):
            out = func(*args, **kwargs)
            self.origin[out] = len(self.operations)
            self.operations.append(replace(part, shape=tuple(out.shape), dtype=out.dtype))
            return out
        root, of_root = self.chain(func, args, kwargs, live)
        rule = of_root is not None or self.known(func, len(live), leads)
        # Where examples are not the first dimension theory would take them for positions.
        rule = rule and not (seen and live and live[0].shape[-2] == self.examples != len(live[0]))
        measured = self.operations[root] if root >= 0 and self.operations[root].after is not None else None
        bent = of_root is not None and (of_root.bends or len(of_root.parts) > 1)
        unsure = bent and (func in POLES or (measured is not None and measured.function is not given))
        of_rule = measured is None or not bent or measured.function in (given, *MEANS, *SUMS_OVER, F.embedding)
        unknown = bool(live) and (not rule or unsure)
        # Before the call, which may work in place.
        changing = unknown and getattr(func, "__name__", "") not in READERS
        copies = [t.detach().clone() for t in live] if changing else []
        out = func(*args, **kwargs)
        whole = of_root is not None or any(not t.is_floating_point() for t in live)
        outputs = [t for t in tensors_of(out) if whole or t.is_floating_point()] if live else []
        call_args, call_kwargs = swap((args, kwargs), lambda t: LIVE if any(t is one for one in live) else t)
        for place, tensor in enumerate(outputs):
            operation = Operation(func, call_args, call_kwargs, inputs, in_shapes, tuple(tensor.shape), tensor.dtype)
            operation.chain, operation.root, operation.of_rule = of_root, root, of_rule
            if func is F.linear:
                operation.layer = self.owners.get(call_args[1] if len(call_args) > 1 else call_kwargs["weight"])
            if unknown:
                copies = copies or [t.detach().clone() for t in live]
                operation.before, operation.after = field_of(copies[0]), field_of(tensor)
                operation.pulls = pulls(func, args, kwargs, live, copies, place, whole)
            if func in RECURRENT and len(live) == 1 and live[0].dim() == 3:
                operation.place, operation.kernel = (
                    place,
                    of_sequences(live[0] if args[-1] else live[0].transpose(0, 1)),
                )
            self.operations.append(operation)
        for number, tensor in enumerate(outputs, start=len(self.operations) - len(outputs)):
            self.origin[tensor] = number
            if part is not None:
                self.parts[number] = part
        return out

    def part(self, func: Any, args: Any, kwargs: Any, live: list[Tensor]) -> Scores | Piece | Operation | None:
        """What a call adds to an attention or norm that is written out, or the whole that it ends."""
        if not live:
            return None
        numbers = [(self.origin[t], t) for t in live]
        if (norm := whole_norm(func, args, numbers, self.parts)) is not None:
            function, number, eps = norm
            sides = max((tuple(t.shape) for t in live), key=math.prod)
            return Operation(function, (LIVE, sides[-1:]), {"eps": eps}, [number], [sides], ())
        before = self.parts.get(self.origin[live[0]])
        product = matrix_product(func, args, kwargs) if func in MATMULS and len(live) == 2 else None
        if product is None:
            if isinstance(before, Scores):
                return before.after(func, args, kwargs, live[0])
            return next_piece(func, args, kwargs, numbers, self.parts)
        (query, _), (key, _) = numbers
        if not isinstance(before, Scores):
            scores = Scores(query, key, (product.rows, product.summed, product.columns))
            return scores.plus(args[0]) if func is torch.baddbmm else scores if product.in_place else None
        if not before.are_weights:
            return None
        rows, dims, keys = before.shape
        options = {"attn_mask": before.mask, "dropout_p": before.dropout, "scale": before.scale}
        shapes: list[tuple[int, ...]] = [(rows, dims), (keys, dims), (product.summed, product.columns)]
        return Operation(
            F.scaled_dot_product_attention, (LIVE,) * 3, options, [before.query, before.key, key], shapes, ()
        )

    def same(self, out: Tensor, source: Tensor) -> Tensor:
        """The result of a cast or copy, known as what it is made of while it holds the same numbers."""
        if out.is_floating_point() or not source.is_floating_point():
            self.origin[out] = self.origin[source]
        return out

    def give(self, tensor: Tensor, measured: Field) -> None:
        """A constant that goes into a weight layer, or a further input, is an operation without inputs."""
        operation = Operation(given, (), {}, [], [], tuple(tensor.shape), tensor.dtype)
        operation.after = measured
        self.origin[tensor] = len(self.operations)
        self.operations.append(operation)

    def chain(self, func: Any, args: Any, kwargs: Any, live: list[Tensor]) -> tuple[int, Chain | None]:
        """(root, function of it) of a pointwise call on tensors of one root and shape."""
        numbers = (torch.bool, *(t.dtype for t in live if t.is_floating_point()))
        if func not in POINTWISE or not live or any(t.shape != live[0].shape or t.dtype not in numbers for t in live):
            return -1, None
        root, *others = dict.fromkeys(self.of_root(t)[0] for t in live)
        if others:
            return -1, None
        return root, chain(func, args, kwargs, lambda t: self.of_root(t)[1] if t in self.origin else None)

    def of_root(self, tensor: Tensor) -> tuple[int, Chain | Root]:
        """(the operation of which this tensor is a pointwise function, that function)."""
        number = self.origin[tensor]
        operation = self.operations[number] if number >= 0 else None
        if operation is None or operation.chain is None:
            return number, ROOT
        return operation.root, operation.chain

    def name(self, name: str, layer: WeightLayer, inputs: tuple[Any, ...], output: Any) -> None:
        """A hook that notes that the operation behind this tensor is the output of a weight layer."""
        if isinstance(output, Tensor) and output in self.origin:
            self.operations[self.origin[output]].layer = name


def record(model: nn.Module, batch: Batch, known: Known) -> Trace:
    """Run the model on a batch and record what it does; it is left as it was (see `untouched`)."""
    with torch.inference_mode(False), untouched(model, backward=False):
        batch, _ = to_model(model, batch, None)
        recorder = Recorder(known, batch)
        attentions = [(layer_name(n), m) for n, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)]
        recorder.owners = {m.out_proj.weight: f"{name}.out_proj".lstrip(".") for name, m in attentions}
        with on_weight_layers(model, recorder.name), recorder:
            outputs = run_model(model, batch)
    logits = first_tensor(outputs)
    output = recorder.origin.get(logits, -1)
    first = tensors_of(batch)[0]
    fed = [op.function for op in recorder.operations if op.inputs == [-1]]
    axis = -2 if first.dim() == 3 and any(function in ONE_DIMENSION for function in fed) else channel_axis(first.shape)
    return Trace(recorder.operations, output, field_of(first, axis), logits, outputs, axis)


def given(*_: Any) -> Tensor:
    """Stands for what a constant, or a further input, is made by."""
    raise AssertionError


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
    if isinstance(value, Mapping):
        return {key: swap(v, change) for key, v in value.items()}
    return value


def pulls(
    func: Any, args: Any, kwargs: Any, live: list[Tensor], copies: list[Tensor], place: int, whole: bool
) -> list[float]:
    """Mean square of the gradient at each input of a call, for a random one of mean square 1 at its output."""
    leaves = [copy.requires_grad_(copy.is_floating_point()) for copy in copies]

    def as_leaf(tensor: Tensor) -> Tensor:
        """The leaf of an argument, as a clone, since the function may work in place."""
        return next((leaf.clone() for source, leaf in zip(live, leaves, strict=True) if source is tensor), tensor)

    differentiable = [leaf for leaf in leaves if leaf.requires_grad]
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        try:
            outputs = tensors_of(func(*swap(args, as_leaf), **swap(kwargs, as_leaf)))
            # The floating ones alone, unless there are whole numbers among the inputs.
            out = [t for t in outputs if whole or t.is_floating_point()][place]
            if not out.requires_grad:
                return [0.0] * len(leaves)
            random = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out)
            grads = torch.autograd.grad(out, differentiable, random, allow_unused=True)
        # Torch's error where a function has no derivative: nothing is known of the gradient before it, hence NaN.
        except RuntimeError:
            return [float("nan")] * len(leaves)
    by_leaf = {id(leaf): grad for leaf, grad in zip(differentiable, grads, strict=True)}
    return [0.0 if (g := by_leaf.get(id(leaf))) is None else float(g.double().square().mean()) for leaf in leaves]
