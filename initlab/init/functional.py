"""Weights that a model applies without a layer of torch: bare parameters in `F.linear`, `x @ W` or `F.conv2d`.

What such a parameter is for, and which way round it lies, is seen in a run alone.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from initlab.init.layers import EMBEDDINGS, NORMS, Matrix
from initlab.init.shapes import LayerShape, fans
from initlab.nets.any_module import layer_name
from initlab.nets.undisturbed import Batch, run_model, to_model, untouched

# Functions whose second argument is a weight (out, in, ...), and those in which it is (in, out).
APPLIED = {"linear", *(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))}
PRODUCTS = {"matmul", "__matmul__", "mm"}
TURNED = {"t", "transpose", "T", "mT", "swapaxes"}
# What goes through a product as a signal or a table: parts of the names of such parameters.
SIGNALS = ("pos", "embed", "token", "quer", "latent", "codebook", "proto", "memory", "bias")


@dataclass(frozen=True)
class Use:
    """How a parameter was applied to a signal."""

    flipped: bool  # whether it lies as (in, out)
    transposed: bool = False  # whether it is a transposed convolution's
    groups: int = 1
    stride: tuple[int, ...] = ()
    bias: int = 0  # id of the parameter that was added


class Watch(TorchFunctionMode):
    """Notes how parameters are applied while it is on."""

    def __init__(self, parameters: set[int]) -> None:
        super().__init__()
        self.parameters = parameters
        self.uses: dict[int, Use] = {}
        # Transposed views of parameters.
        self.turned = WeakTensorKeyDictionary()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out, name = func(*args, **kwargs), getattr(func, "__name__", "")
        if name == "__get__":
            name = getattr(getattr(func, "__self__", None), "__name__", "")
        tensors = [argument for argument in args if isinstance(argument, Tensor)]
        signal, weight = [*tensors, None, None][:2]
        if name in TURNED and signal is not None and signal.dim() == 2 and self.source(signal)[0]:
            key, flipped = self.source(signal)
            self.turned[out] = key, not flipped
        elif weight is None or self.source(signal)[0]:
            # A product of two parameters is a weight itself, of which neither is one.
            return out
        elif name in APPLIED:
            self.note_layer(name, args, kwargs)
        elif name in PRODUCTS:
            self.note(weight, Use(flipped=True))
        elif name == "addmm" and len(tensors) == 3:
            self.note(tensors[2], Use(flipped=True, bias=id(tensors[0])))
        return out

    def source(self, tensor: Tensor | None) -> tuple[int, bool]:
        """The id of the parameter that a tensor is, or 0, and whether it is turned."""
        if tensor is None or id(tensor) in self.parameters:
            return id(tensor), False
        key, flipped = self.turned.get(tensor, (0, False))
        return key, flipped

    def note(self, tensor: Tensor, use: Use) -> None:
        """Note the first use of a parameter."""
        key, turned = self.source(tensor)
        if key and tensor.dim() >= 2:
            self.uses.setdefault(key, Use(use.flipped != turned, use.transposed, use.groups, use.stride, use.bias))

    def note_layer(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note a call of `F.linear` or of a convolution."""
        if len(args) < 2:
            return
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        if name == "linear":
            self.note(args[1], Use(False, bias=id(bias)))
            return
        stride = args[3] if len(args) > 3 else kwargs.get("stride", 1)
        groups = args[6] if len(args) > 6 else kwargs.get("groups", 1)
        steps = tuple(stride) if isinstance(stride, (tuple, list)) else (stride,) * (args[1].dim() - 2)
        transposed = "transpose" in name
        self.note(args[1], Use(False, transposed, groups, steps if transposed else (), id(bias)))


def bare_matrices(model: nn.Module, batch: Batch, known: list[Matrix]) -> list[Matrix]:
    """The bare parameters that a run applies as weights, which no layer that is known has; not yet numbered."""
    layered = {id(parameter) for matrix in known for parameter in matrix.parameters}
    ruled = (*NORMS, *EMBEDDINGS, nn.PReLU, nn.MultiheadAttention)
    homes = {
        id(parameter): (layer_name(name), module, attribute)
        for name, module in model.named_modules()
        for attribute, parameter in module.named_parameters(recurse=False)
        if id(parameter) not in layered and not isinstance(module, ruled)
    }
    wide = {
        id(parameter)
        for name, parameter in model.named_parameters()
        if id(parameter) in homes and parameter.dim() >= 2 and not any(part in name.lower() for part in SIGNALS)
    }
    if not wide:
        return []
    watch = Watch(wide)
    with untouched(model, backward=False), watch:
        run_model(model, to_model(model, batch, None)[0])
    matrices = []
    for key, use in watch.uses.items():
        name, module, attribute = homes[key]
        shape = tuple(getattr(module, attribute).shape)
        shape = shape[::-1] if use.flipped else shape
        sides = fans(shape, groups=use.groups, stride=use.stride, transposed=use.transposed)
        layer = LayerShape(shape, *sides, f"{name}.{attribute}".lstrip("."), groups=use.groups)
        _, other, bias = homes.get(use.bias, ("", None, None))
        bias_attribute = bias if other is module else None
        matrices.append(Matrix(module, attribute, layer, bias_attribute, flipped=use.flipped))
    return matrices
