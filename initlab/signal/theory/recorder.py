"""The recorder: a model run once, its operations noted, whatever its Python code does.

Operations outside `known` are measured on the spot: the second moment of what they give, and the factor by which they
carry a random gradient back.
"""

import math
from collections.abc import Callable
from dataclasses import replace
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
from initlab.signal.theory.kernels import of_sequences, of_words
from initlab.signal.theory.scores import MATMULS, Scores, matrix_product
from initlab.signal.theory.trace import LIVE, RECURRENT, WEIGHTED, Operation, Trace, given, swap, tensors_of
from initlab.signal.theory.written_norms import Piece, next_piece, whole_norm

# Functions with one dimension of positions, and channels before it.
ONE_DIMENSION = (F.conv1d, F.conv_transpose1d, F.avg_pool1d, F.max_pool1d, F.adaptive_avg_pool1d, F.batch_norm)
QKV = ("query", "key", "value")
# Functions that leave their tensor as it is, most often to give a shape or a flag.
READERS = ("__get__", "size", "dim", "numel", "stride", "__len__", "item")
# (function, how many of its inputs depend on the model's, whether the first argument does) -> whether a rule holds
Known = Callable[[Any, int, bool], bool]


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
            return self.multihead(func, args, kwargs)
        if func in WEIGHTED and (constant := args[0] if args else kwargs["input"]) not in self.origin:
            # As positional encodings do; the same for all examples, unless it has as many as there are.
            batched = constant.dim() > 1 and len(constant) == self.examples
            self.give(constant, field_of(constant if batched else constant[None], fixed=not batched))
        # A mask that the input gives counts as it is.
        seen = dict(zip(QKV, args, strict=False)) | kwargs if func is F.scaled_dot_product_attention else {}
        live = [t for t in tensors_of([seen.get(name) for name in QKV] if seen else (args, kwargs)) if t in self.origin]
        leads = bool(live) and (args[0] if args else kwargs.get("input")) is live[0]
        if leads and func in SAME:
            return self.same(func(*args, **kwargs), live[0])
        part = self.part(func, args, kwargs, live)
        if isinstance(part, Operation):
            out = func(*args, **kwargs)
            self.origin[out] = len(self.operations)
            self.operations.append(replace(part, shape=tuple(out.shape), dtype=out.dtype))
            return out
        operation = self.call(func, args, kwargs, live)
        # Where examples are not the first dimension theory would take them for positions.
        turned = bool(seen) and bool(live) and live[0].shape[-2] == self.examples != len(live[0])
        unknown = bool(live) and (turned or not self.has_rule(operation, leads))
        # Before the call, which may work in place.
        changing = unknown and getattr(func, "__name__", "") not in READERS
        copies = [t.detach().clone() for t in live] if changing else []
        out = func(*args, **kwargs)
        if unknown and not changing:
            copies = [t.detach().clone() for t in live]
        whole = operation.chain is not None or any(not t.is_floating_point() for t in live)
        outputs = [t for t in tensors_of(out) if whole or t.is_floating_point()] if live else []
        for place, tensor in enumerate(outputs):
            noted = replace(operation, place=place, shape=tuple(tensor.shape), dtype=tensor.dtype)
            if unknown:
                noted.before, noted.after = field_of(copies[0]), field_of(tensor)
                if func is F.embedding and tensor.dim() == 3 and noted.after.level > 0:
                    noted.after = of_words(tensor, noted.after)
                noted.pulls = pulls(func, args, kwargs, live, copies, place, whole)
            if part is not None:
                self.parts[len(self.operations) + place] = part
            self.operations.append(noted)
        for number, tensor in enumerate(outputs, start=len(self.operations) - len(outputs)):
            self.origin[tensor] = number
        return out

    def call(self, func: Any, args: Any, kwargs: Any, live: list[Tensor]) -> Operation:
        """A call as an operation, before its result is known."""
        call_args, call_kwargs = swap((args, kwargs), lambda t: LIVE if any(t is one for one in live) else t)
        inputs, in_shapes = [self.origin[t] for t in live], [tuple(t.shape) for t in live]
        operation = Operation(func, call_args, call_kwargs, inputs, in_shapes, ())
        operation.root, operation.chain = self.chain(func, args, kwargs, live)
        before = self.measured_root(operation)
        if before is not None and is_bent(operation):
            operation.of_rule = before.function in (given, *MEANS, *SUMS_OVER, F.embedding)
        if func is F.linear and live:
            operation.layer = self.owners.get(operation.argument(1, "weight"))
        if func in RECURRENT and len(live) == 1 and live[0].dim() == 3:
            operation.kernel = of_sequences(live[0] if args[-1] else live[0].transpose(0, 1))
        return operation

    def measured_root(self, operation: Operation) -> Operation | None:
        """The operation that a pointwise call is a function of, where that was measured."""
        root = self.operations[operation.root] if operation.root >= 0 else None
        return root if root is not None and root.after is not None else None

    def has_rule(self, operation: Operation, leads: bool) -> bool:
        """Whether a rule holds for a call; not where it may have a pole, or of what was measured and is no normal."""
        if operation.chain is None:
            return self.known(operation.function, len(operation.inputs), leads)
        before = self.measured_root(operation)
        unsure = operation.function in POLES or (before is not None and before.function is not given)
        return not (unsure and is_bent(operation))

    def multihead(self, func: Any, args: Any, kwargs: Any) -> Any:
        """torch's own attention, followed inside; its queries, keys and values are layers of their own."""
        begin = len(self.operations)
        with self, opened():
            out = func(*args, **kwargs)
        name = self.owners.get(args[11], "").removesuffix("out_proj")
        attentions = [op for op in self.operations[begin:] if op.function is F.scaled_dot_product_attention]
        for role, number in zip("qkv", attentions[0].inputs if name and attentions else (), strict=False):
            packed = f"in_proj_weight.{role}" if args[5] is not None else f"{role}_proj_weight"
            self.operations[self.projection(number)].layer = name + packed
        return out

    def projection(self, number: int) -> int:
        """The operation that first has a query, key or value by itself: a layer's, or the pick of its part of one."""
        operation = self.operations[number]
        if operation.function is F.linear or math.prod(operation.shape) < math.prod(operation.in_shapes[0]):
            return number
        return self.projection(operation.inputs[0])

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


def is_bent(operation: Operation) -> bool:
    """Whether a pointwise call is more than a factor and a constant of its root."""
    return operation.chain is not None and (operation.chain.bends or len(operation.chain.parts) > 1)


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
