"""Where a model's parameters enter its computation, whichever way its code is written.

A torch function mode sees every call. What is made of parameters alone (a cast, a transpose, a chunk, a weight that is
normalised first) stands for these parameters; where it meets what depends on the input, or is a weight by its place in
the call, that call is a use of them, with a role:

- `weight`: a matrix or a filter (`linear`, convolutions, `matmul`, `addmm`, `einsum`, ...); `bias` is added in there;
- `gain` multiplies and `shift` adds, number by number: a norm's, LayerScale, a gate, a position's embedding;
- `embedding`: rows are looked up; `slope`: PReLU's; `joined`: any other use, as a class token put before the others.

Not seen are functions of `torch.jit` and of compiled libraries.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from initlab.init.shapes import fans
from initlab.nets.any_module import layer_name, unwrapped
from initlab.nets.undisturbed import tensors_in

ROLES = ("weight", "bias", "gain", "shift", "embedding", "slope", "joined")
CONVOLUTIONS = {
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "conv_tbc"),
    *("convolution", "_convolution", "conv_transpose2d_input"),
}


def placed(weight: int, role: str, other: str) -> dict[int | str, str]:
    """Roles by place and name: the weight's, and after it the bias's."""
    return {weight: role, "weight": role, weight + 1: other, "bias": other}


# What else comes is the input.
PLACED: dict[str, dict[int | str, str]] = {
    **{function: placed(1, "weight", "bias") for function in [*CONVOLUTIONS, "linear"]},
    "bilinear": placed(2, "weight", "bias"),
    **{name: placed(2, "gain", "shift") for name in ("layer_norm", "native_layer_norm", "group_norm", "rms_norm")},
    **{name: placed(1, "gain", "shift") for name in ("native_batch_norm", "native_group_norm")},
    **{name: placed(3, "gain", "shift") for name in ("batch_norm", "instance_norm")},
    "prelu": {1: "slope", "weight": "slope"},
}
# These apply a layer, to parameters too, as to a perceiver's latents; a norm of parameters alone standardises a weight.
APPLIED = {*CONVOLUTIONS, "linear", "bilinear", "prelu", "embedding", "embedding_bag"}
PRODUCTS = {"matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "dot", "inner", "vdot", "einsum", "tensordot"}
ADDED_PRODUCTS = {"addmm", "baddbmm", "addbmm", "addmv"}
LOOKUPS = {"embedding", "embedding_bag", "index_select", "gather", "take", "take_along_dim"}
GAINS = {"mul", "multiply", "div", "divide", "true_divide", "__mul__", "__rmul__", "__truediv__", "addcmul", "addcdiv"}
SHIFTS = {"add", "sub", "subtract", "rsub", "__add__", "__radd__", "__sub__", "__rsub__"}
# A second tensor says which shape or type the first is to take, or nothing of the first is left but its shape.
LIKE = {"to", "type_as", "expand_as", "view_as", "reshape_as"}
SHAPES = {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones"}
WITHOUT_SIGNAL = {"grad", "backward", "requires_grad_", "register_hook", "retain_grad", "size", "dim", "__set__"}


@dataclass(frozen=True)
class Use:
    """Parameters that enter one call."""

    sources: tuple[str, ...]  # names of the parameters that the tensor is made of
    tensor: Tensor  # as it enters
    role: str
    place: int | str


@dataclass(frozen=True)
class Call:
    """One call with parameters among its arguments."""

    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    uses: tuple[Use, ...]
    y: Tensor | None  # the first floating tensor that it gives

    @property
    def stride(self) -> Any:
        """Of a convolution."""
        return self.args[3] if len(self.args) > 3 else self.kwargs.get("stride", 1)

    @property
    def groups(self) -> int:
        """Of a convolution, transposed or not; 1 of other calls."""
        return int(self.args[6] if len(self.args) > 6 else self.kwargs.get("groups", 1))


class Uses(TorchFunctionMode):
    """Calls `note` for each call in which parameters of the model meet the signal of `batch`."""

    def __init__(self, model: nn.Module, batch: Any, note: Callable[[Call], None]) -> None:
        super().__init__()
        self.model = model
        self.note = note
        # The parameters that a tensor is made of; none for one that depends on the input.
        self.sources = WeakTensorKeyDictionary()
        for name, parameter in model.named_parameters():
            self.sources[parameter] = (layer_name(name),)
        for tensor in tensors_in(batch):
            self.sources[tensor] = ()
        # Fused calls that others run in another way, whose parameters they note themselves.
        self.written_out: dict[str, Callable[..., Any]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        function = function_name(func)
        if function == "multi_head_attention_forward":
            with self, opened():
                return func(*args, **kwargs)
        if function in self.written_out:
            out = self.written_out[function](*args, **kwargs)
            for tensor in tensors_in(out):
                self.sources[tensor] = ()
            return out
        out = func(*args, **kwargs)
        if function not in WITHOUT_SIGNAL:
            self.follow(function, args, kwargs, out)
        return out

    def adopt(self, parameter: nn.Parameter) -> None:
        """Know a parameter that the model has made in this pass."""
        for name, other in self.model.named_parameters():
            if other is parameter:
                self.sources[parameter] = (layer_name(name),)

    def is_live(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on the input, as far as one can tell; constants and parameters do not."""
        sources = self.sources.get(tensor)
        if sources is None and unwrapped(tensor) is not tensor:
            return True
        # What comes out of a function that is not seen has a graph all the same.
        return not sources if sources is not None else tensor.grad_fn is not None

    def follow(self, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Note a call's uses, and what its results are made of."""
        places: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        entered = [(place, tensor) for place, value in places for tensor in tensors_in(value)]
        if not entered:
            return
        for _, tensor in entered:
            if isinstance(tensor, nn.Parameter) and tensor not in self.sources:
                self.adopt(tensor)
        made = [(place, tensor, self.sources[tensor]) for place, tensor in entered if self.sources.get(tensor)]
        live = any(self.is_live(tensor) for _, tensor in entered)
        results = [] if function in SHAPES else list(tensors_in(out))
        if function == "__setitem__" or (function.endswith("_") and not function.endswith("__")):
            results = [args[0], *results] if args and isinstance(args[0], Tensor) else results
        uses = [
            Use(sources, tensor, role, place)
            for place, tensor, sources in made
            if function not in LIKE and (role := role_of(function, place, live))
        ]
        names = tuple(dict.fromkeys(name for _, _, sources in made for name in sources))
        if (live and function not in LIKE) or (uses and function in APPLIED):
            names = ()
        elif not names:
            return
        for tensor in results:
            self.sources[tensor] = names
        if uses:
            y = next((tensor for tensor in results if tensor.is_floating_point() or tensor.is_complex()), None)
            self.note(Call(function, args, kwargs, tuple(uses), y))


def role_of(function: str, place: int | str, live: bool) -> str:
    """The role of a parameter at a place of a call; "" where the call only prepares it."""
    if not live and function not in APPLIED:
        return ""
    if function in PLACED:
        return PLACED[function].get(place, "joined")
    if function in ("embedding", "embedding_bag"):
        return "embedding"
    if function in PRODUCTS:
        return "weight"
    if function in ADDED_PRODUCTS:
        return "bias" if place in (0, "input") else "weight"
    if function in LOOKUPS or function == "__getitem__":
        return "embedding"
    # In place or not.
    plain = function if function.endswith("__") else function.rstrip("_")
    return "gain" if plain in GAINS else "shift" if plain in SHIFTS else "joined"


def function_name(func: Any) -> str:
    """`linear` of `torch.nn.functional.linear` and of `torch.ops.aten.linear.default`."""
    return str(getattr(func, "__name__", func)).split(".")[0]


@contextmanager
def opened() -> Iterator[None]:
    """Under a mode, `F.multi_head_attention_forward` runs its body instead of handing itself on as a whole."""
    asks = vars(F)["has_torch_function"]
    vars(F)["has_torch_function"] = lambda tensors: False
    try:
        yield
    finally:
        vars(F)["has_torch_function"] = asks


def fans_in(call: Call, use: Use) -> tuple[float, float, int]:
    """(fan_in, fan_out, width) of a weight in a call, width being the channels or features of what it gives."""
    shape, function = tuple(use.tensor.shape), call.function
    if function in CONVOLUTIONS:
        stride, groups = call.stride, call.groups
        strides = tuple(stride) if isinstance(stride, (tuple, list)) else (stride,) * (len(shape) - 2)
        transposed = "transpose" in function
        width = shape[1] * groups if transposed else shape[0]
        return *fans(shape, groups=groups, stride=strides, transposed=transposed), width
    if function == "linear":
        return shape[-1], shape[0], shape[0]
    if function == "bilinear":
        return shape[1] * shape[2], shape[0], shape[0]
    if function == "einsum":
        return einsum_fans(call, use)
    if len(shape) == 1:
        return shape[0], 1, 1
    # A matrix after the signal is (in, out), one before it (out, in).
    after = {0: False, 1: True, 2: True, "mat2": True, "other": True, "batch2": True}.get(use.place, False)
    if function in ADDED_PRODUCTS:
        after = use.place in (2, "mat2", "batch2")
    if function == "__rmatmul__":
        after = not after
    fan_in, fan_out = (shape[-2], shape[-1]) if after else (shape[-1], shape[-2])
    return fan_in, fan_out, fan_out


def einsum_fans(call: Call, use: Use) -> tuple[float, float, int]:
    """Of an einsum: fan_in over the weight's letters that are summed, fan_out over those that only it brings."""
    equation, *operands = call.args
    operands = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], (tuple, list)) else operands
    if not isinstance(equation, str) or not isinstance(use.tensor, Tensor):
        return math.nan, math.nan, use.tensor.shape[-1]
    inputs, _, output = equation.replace(" ", "").replace(".", "").partition("->")
    terms = inputs.split(",")
    place = next(i for i, operand in enumerate(operands) if operand is use.tensor)
    letters, others = terms[place], "".join(term for i, term in enumerate(terms) if i != place)
    sides = dict(zip(letters, use.tensor.shape, strict=False))
    fan_in = math.prod(side for letter, side in sides.items() if letter in others and letter not in output)
    fan_out = math.prod(side for letter, side in sides.items() if letter not in others)
    return fan_in, fan_out, fan_out
