"""The gains and shifts of norms, torch's own and those of norm classes that a user wrote.

A module of a user's is a norm if it gives the same for an input and for its double. Of its parameters one that adds is
a shift, of which 0 is usual; one that multiplies is a gain, of which 1 is usual, or 0 if it multiplies by 1 + gain.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from initlab.init.layers import NORMS
from initlab.inspection.suspects.suspect import Entry, Suspect, listed_names, with_numbers
from initlab.nets.undisturbed import Batch, run_model

# From here on a gain or shift is not what any usual rule gives: N(1, 0.02) of DCGAN is 0.016 off.
FAR = 0.3


@dataclass(frozen=True)
class NormParameter:
    """A gain or a shift of a norm."""

    entry: Entry
    usual: float
    is_gain: bool

    @property
    def distance(self) -> float:
        """Mean distance from what is usual; NaN where it is not finite."""
        return (self.entry.tensor.double() - self.usual).abs().mean().item()


def norm_parameters(model: nn.Module, inputs: dict[str, Tensor]) -> list[NormParameter]:
    """The gains and shifts of a model's norms, with the inputs that modules had in a pass, by name."""
    parameters = []
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, NORMS):
            usual = {"weight": (1.0, True), "bias": (0.0, False)}
        elif name in inputs and may_be_norm(module):
            usual = usual_of_norm(module, inputs[name])
        else:
            continue
        for key, parameter in module.named_parameters(recurse=False):
            if key in usual:
                value, is_gain = usual[key]
                parameters.append(NormParameter(Entry(prefix + key, parameter.detach()), value, is_gain))
    return parameters


@torch.no_grad()
def usual_of_norm(module: nn.Module, x: Tensor) -> dict[str, tuple[float, bool]]:
    """What is usual of each parameter of a user's norm, and whether it is a gain; {} for what is no norm."""
    try:
        y = module(x)
        is_norm = isinstance(y, Tensor) and y.shape == x.shape and close(module(2 * x), y) and not close(module(-x), y)
    # A module of the user's may refuse any input that its model would not give it.
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AssertionError):
        return {}
    if not is_norm:
        return {}
    usual = {}
    for key, parameter in module.named_parameters(recurse=False):
        if close(with_value(module, parameter, parameter + 1, x) - y, torch.ones_like(y)):
            usual[key] = (0.0, False)
        else:
            # Without its gain a norm says nothing of its input.
            silent = close(with_value(module, parameter, 0.0, -x), with_value(module, parameter, 0.0, x))
            usual[key] = (1.0 if silent else 0.0, True)
    return usual


def with_value(module: nn.Module, parameter: nn.Parameter, value: Tensor | float, x: Tensor) -> Tensor:
    """The module's output with another value of a parameter, which it has back afterwards."""
    before = parameter.detach().clone()
    parameter.copy_(torch.as_tensor(value, dtype=parameter.dtype, device=parameter.device).expand_as(parameter))
    y: Tensor = module(x)
    parameter.copy_(before)
    return y


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two outputs are the same to a hundredth of their size."""
    size = b.double().square().mean().sqrt().item()
    return bool((a.double() - b.double()).abs().max().item() <= 0.01 * size)


def odd_norms(parameters: Sequence[NormParameter]) -> Iterator[Suspect]:
    """Gains far from 1 and shifts far from 0, of all norms together."""
    for is_gain, word in ((True, "gamma"), (False, "beta")):
        far = [p for p in parameters if p.is_gain == is_gain and p.distance > FAR]
        if not far:
            continue
        names = [p.entry.name for p in far]
        values = torch.cat([p.entry.tensor.double().flatten() for p in far])
        rms, usual = values.square().mean().sqrt().item(), far[0].usual
        words = f"{word} of {len(far)} norms ({listed_names(names)}) has an rms of {rms:.3g}, where {usual:g} is usual"
        certain = is_gain and not (values == 0).any() and usual == 1 and not 0.1 < rms < 10
        code = with_numbers({p.entry.name: p.usual for p in far}, "fill_")
        # Zeros in all norms are no zero-init residual, which leaves the first norm of a branch open.
        silent = is_gain and not values.any() and len(far) == sum(p.is_gain for p in parameters)
        rule = "norms_of_zero" if silent else "norm_gain" if is_gain else "norm_shift"
        yield Suspect(rule, tuple(names), words, code, certain=certain)


def may_be_norm(module: nn.Module) -> bool:
    """Whether a module is of a user's class and has nothing but parameters; a scripted one takes no hooks."""
    if isinstance(module, torch.jit.ScriptModule) or type(module).__module__.startswith("torch."):
        return False
    return next(module.children(), None) is None and next(module.parameters(recurse=False), None) is not None


def module_inputs(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The first tensor that each module which may be a norm takes in on a batch, by name."""
    inputs: dict[str, Tensor] = {}
    hooks = []
    for name, module in model.named_modules():
        if may_be_norm(module):

            def note(_: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
                """Keep the first input of a module."""
                if args and isinstance(args[0], Tensor) and args[0].is_floating_point():
                    inputs.setdefault(name, args[0].detach())

            hooks.append(module.register_forward_pre_hook(note))
    try:
        run_model(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return inputs
