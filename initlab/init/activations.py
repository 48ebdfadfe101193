"""What a user may call an activation, checked: a name, a module with its present parameters, or a function.

`resolve` makes it into its Gaussian expectations: `Rectifier` for ReLU, leaky ReLU, PReLU and the identity,
`Elementwise` for all else. What isn't a deterministic function of each number by itself is refused in words.
"""

import copy
import difflib
import math
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initlab.init.expectations import Elementwise, Rectifier, TensorFunction

Activation = str | nn.Module | TensorFunction

# Slopes below zero, torch's defaults.
SLOPES = {"relu": 0.0, "leaky_relu": 0.01, "prelu": 0.25, "linear": 1.0}
IN_TORCH = (
    "celu elu gelu hardshrink hardsigmoid hardswish hardtanh logsigmoid mish relu6 selu silu softplus softshrink "
    "softsign tanhshrink"
)
FUNCTIONS: dict[str, TensorFunction] = {
    **{name: getattr(F, name) for name in IN_TORCH.split()},
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
NAMES = tuple(sorted([*SLOPES, *FUNCTIONS]))


def resolve(activation: Activation) -> Rectifier | Elementwise:
    """The expectations of an activation by its name, of a module with its present parameters, or of a callable.

    A module is copied, so it is never changed; a channel-wise PReLU is pooled over its channels.

    Raises:
        ValueError: unknown name, or not a deterministic elementwise function of a tensor.
    """
    if isinstance(activation, str):
        return by_name(activation)
    if isinstance(activation, type) or not callable(activation):
        what = f"the class {activation.__name__}" if isinstance(activation, type) else repr(activation)
        raise ValueError(f"activation: not one (got {what}); pass a name, a module such as nn.GELU(), or a function")
    if isinstance(activation, nn.Module):
        name = " ".join(str(activation).split())
    else:
        name = str(getattr(activation, "__name__", type(activation).__name__))
    slopes = rectifier_slopes(activation)
    if slopes is not None:
        if not all(map(math.isfinite, slopes)):
            raise ValueError(f"activation: {name} has a slope that is not finite (got {slopes}); fix its weight first")
        return Rectifier(name, slopes)
    function: TensorFunction = activation
    # Tensors made in inference mode could not be differentiated later.
    with torch.inference_mode(False):
        if isinstance(activation, nn.Module):
            # Forward alone: hooks on the module itself are not part of the function and may record what goes through.
            function = copy.deepcopy(activation).to("cpu", torch.float64).forward
        check(name, function)
    return Elementwise(name, function)


@lru_cache
def by_name(name: str) -> Rectifier | Elementwise:
    """The expectations of a named activation, cached with its kinks."""
    if name in SLOPES:
        return Rectifier(name, (SLOPES[name],))
    if name in FUNCTIONS:
        return Elementwise(name, FUNCTIONS[name])
    near = difflib.get_close_matches(name.lower(), NAMES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"activation: unknown name (got {name!r}{hint}); "
        f"allowed: {', '.join(NAMES)}, a module, or an elementwise function"
    )


def rectifier_slopes(activation: Any) -> tuple[float, ...] | None:
    """The slopes below zero of torch's rectifiers; None for anything else, their subclasses included."""
    kind = type(activation)
    if kind is nn.PReLU:
        return tuple(activation.weight.detach().double().flatten().tolist())
    if kind is nn.LeakyReLU:
        return (float(activation.negative_slope),)
    return {nn.ReLU: (0.0,), nn.Identity: (1.0,)}.get(kind)


def check(name: str, function: TensorFunction) -> None:
    """Refuse what is not a deterministic function of each number alone, by a few calls on an (8, 16) tensor."""
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(8, 16, generator=generator, dtype=torch.float64)
    keep = torch.rand(8, 16, generator=generator) < 0.5
    # Much greater, so that a maximum moves too.
    other = torch.where(keep, x, 10 * torch.randn(8, 16, generator=generator, dtype=torch.float64))
    place, allowed = f"activation: {name}", "an activation maps each number to one by itself"
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            outputs = [function(points.clone()) for points in (x, x, other, x.flip(0, 1))]
        # The user's code may raise anything.
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{place} fails on a tensor of shape (8, 16) (got {reason}); {allowed}") from error
    for y in outputs:
        if not isinstance(y, Tensor):
            raise ValueError(f"{place} gives no tensor (got {type(y).__name__}); {allowed}")
        if y.shape != x.shape:
            raise ValueError(f"{place} changes the shape (got {tuple(y.shape)} from (8, 16)); {allowed}")
    first, again, changed, flipped = (y.double().nan_to_num() for y in outputs)
    if not torch.equal(first, again):
        raise ValueError(f"{place} is random (got two results from one input); call .eval() on it if it is a module")
    # Not exactly, since vector instructions and the rest of a row may round differently.
    close = partial(torch.allclose, rtol=1e-6, atol=1e-9)
    if not close(first[keep], changed[keep]) or not close(flipped.flip(0, 1), first):
        reason = "got an output that depends on other positions, or on its own"
        raise ValueError(f"{place} is not elementwise ({reason}); {allowed}")
