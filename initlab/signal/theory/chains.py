"""Chains: pointwise calls on one recorded tensor, composed into the one function of it that they are.

`x * torch.sigmoid(1.702 * x)` is three calls and one activation. Rules for the single calls would take the factors for
independent, so the function is integrated as a whole, and the gradient goes back through it in one step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def variants(names: str) -> set[Any]:
    """The functions of these names in torch and its namespaces, methods and versions that work in place among them."""
    homes: tuple[Any, ...] = (torch, Tensor, F, torch.special)
    spelt = [s for name in names.split() for s in (name, f"{name}_", f"__{name}__", f"__r{name}__", f"__i{name}__")]
    return {getattr(home, name) for home in homes for name in spelt if hasattr(home, name)}


SUMS, DIFFERENCES = variants("add"), variants("sub subtract rsub")
PRODUCTS, QUOTIENTS = variants("mul multiply"), variants("div divide true_divide truediv")
# What hands on the same numbers in the same places, perhaps in another type.
SAME = variants("float double half bfloat16 to type type_as clone contiguous requires_grad alias positive")
COMPARISONS = variants("lt le gt ge eq ne less less_equal greater greater_equal")
AFFINE = SUMS | DIFFERENCES | PRODUCTS | QUOTIENTS | variants("neg negative")
# Averages and sums over dimensions, which have a rule for positions alone.
MEANS, SUMS_OVER = variants("mean"), variants("sum")
# These may have a pole where the signal lies.
POLES = QUOTIENTS | variants("reciprocal rsqrt log log2 log10 log1p pow float_power xlogy")
OTHERS = variants(
    "abs absolute exp expm1 exp2 sqrt square sin cos tan sinh cosh asinh atan arctan erf erfc sigmoid expit tanh relu "
    "sign sgn floor ceil round trunc frac clamp clip clamp_min clamp_max sinc maximum minimum fmax fmin where "
    "masked_fill hardtanh softplus gelu silu mish elu selu celu relu6 hardswish hardsigmoid hardshrink softshrink "
    "tanhshrink softsign logsigmoid leaky_relu threshold rrelu logaddexp hypot atan2 lerp addcmul addcdiv nan_to_num"
)
POINTWISE = AFFINE | COMPARISONS | POLES | OTHERS
# Longer ones are not followed: their size may double with each call.
LONGEST = 100


class Root:
    """Stands in a chain for the tensor of which it is a function."""

    size, curved = 1, False


ROOT = Root()


@dataclass(frozen=True)
class Number:
    """A constant that came as a tensor of one number."""

    value: float


@dataclass(frozen=True)
class Chain:
    """A pointwise call whose arguments are constants, `ROOT` and further chains."""

    function: Any
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    bends: bool  # whether the call by itself is more than a factor and a constant
    curved: bool  # whether any call of the chain is
    size: int

    def __call__(self, x: Tensor) -> Tensor:
        """The function of the whole tensor."""
        args = [at(value, x) for value in self.args]
        result = self.function(*args, **{key: at(value, x) for key, value in self.kwargs})
        assert isinstance(result, Tensor)
        return result

    @property
    def __name__(self) -> str:
        return str(self.function.__name__).strip("_")

    @property
    def parts(self) -> "list[Chain | Root]":
        """What depends on the tensor."""
        return [value for value in (*self.args, *dict(self.kwargs).values()) if isinstance(value, Chain | Root)]

    @property
    def alone(self) -> "Chain":
        """The last call as a function of what it is called on, where that is one tensor."""
        args = tuple(ROOT if isinstance(value, Chain) else value for value in self.args)
        kwargs = tuple((key, ROOT if isinstance(value, Chain) else value) for key, value in self.kwargs)
        return Chain(self.function, args, kwargs, self.bends, self.bends, 2)


def at(value: Any, x: Tensor) -> Any:
    """An argument of a chain at x; a clone of x itself, since a function may work in place."""
    if isinstance(value, Root):
        return x.clone()
    if isinstance(value, Number):
        return torch.tensor(value.value, dtype=x.dtype)
    return value(x) if isinstance(value, Chain) else value


def chain(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], operand: Callable[[Tensor], Chain | Root | None]
) -> Chain | None:
    """A pointwise call as a chain; None where one of its constants is a tensor of several numbers.

    `operand` gives the function that an argument is of the root, or None for a constant.
    """

    def part(value: Any) -> Any:
        """An argument as something that can be compared."""
        if not isinstance(value, Tensor):
            return value
        live = operand(value)
        if live is None and value.numel() != 1:
            raise TypeError("a constant of several numbers")
        return Number(value.item()) if live is None else live

    try:
        places = tuple(part(value) for value in args)
        options = tuple((key, part(value)) for key, value in sorted(kwargs.items()) if key not in ("inplace", "out"))
        hash((places, options))
    # A constant of several numbers, or something that has no hash.
    except TypeError:
        return None
    parts = [p for p in (*places, *(value for _, value in options)) if isinstance(p, Chain | Root)]
    bends = (
        function not in AFFINE
        or any(key not in ("input", "other", "alpha") for key, _ in options)
        or (function in PRODUCTS and len(parts) > 1)
        or (function in QUOTIENTS and not is_numerator(function, places))
    )
    curved = bends or any(p.curved for p in parts)
    size = 1 + sum(p.size for p in parts)
    return Chain(function, places, options, bends, curved, size) if size <= LONGEST else None


def is_numerator(function: Any, places: tuple[Any, ...]) -> bool:
    """Whether a quotient has a constant below."""
    below = places[0] if function.__name__.startswith("__r") else places[-1]
    return len(places) > 1 and not isinstance(below, Chain | Root)
