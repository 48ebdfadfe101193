"""How a weight is stored: as a parameter, or behind weight norm, spectral norm or a pruning mask, which compute it.

torch has weight norm and spectral norm twice, as a hook before each forward pass and as a parametrization. What is
written here reaches the parameters behind it, so that the weight that runs is the one that was written.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from initlab.nets.any_module import parameter_of

# As many steps of the power method as torch takes for a weight that it has not seen.
POWER_STEPS = 15


def storage_of(module: nn.Module, attribute: str) -> str:
    """`parameter`, `weight norm`, `spectral norm` or `pruning`; `computed` for all else, which cannot be written."""
    if parameter_of(module, attribute) is not None:
        return "parameter"
    if parametrize.is_parametrized(module, attribute):
        first, *further = parametrization_of(module, attribute)
        norms = {parametrizations._WeightNorm: "weight norm", parametrizations._SpectralNorm: "spectral norm"}
        return "computed" if further else norms.get(type(first), "computed")
    hook = hook_of(module, attribute)
    if isinstance(hook, WeightNorm | SpectralNorm):
        return "weight norm" if isinstance(hook, WeightNorm) else "spectral norm"
    return "computed" if hook is None else "pruning"


def parametrization_of(module: nn.Module, attribute: str) -> Any:
    """torch's list of the steps that compute a parametrized weight, which can be called for it."""
    return module.parametrizations[attribute]  # type: ignore[index]


def hook_of(module: nn.Module, attribute: str) -> WeightNorm | SpectralNorm | BasePruningMethod | None:
    """The hook that computes this attribute before each forward pass."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm | SpectralNorm) and hook.name == attribute:
            return hook
        if isinstance(hook, BasePruningMethod) and hook._tensor_name == attribute:
            return hook
    return None


def parameters_of(module: nn.Module, attribute: str) -> list[nn.Parameter]:
    """The parameters that hold a weight, the one of its shape last."""
    if parametrize.is_parametrized(module, attribute):
        return list(parametrization_of(module, attribute).parameters())
    names = [attribute, f"{attribute}_g", f"{attribute}_v", f"{attribute}_orig"]
    return [parameter for name in names if (parameter := parameter_of(module, name)) is not None]


def running(module: nn.Module, attribute: str) -> Tensor:
    """The weight that runs, without its gradient; behind spectral norm what is normalised, whose scale has no effect.

    Nothing of the module is changed: spectral norm itself would go on with its power method.
    """
    kind, hook = storage_of(module, attribute), hook_of(module, attribute)
    weight: Tensor = parameters_of(module, attribute)[-1]
    if kind == "weight norm":
        weight = hook.compute_weight(module) if isinstance(hook, WeightNorm) else getattr(module, attribute)
    elif kind == "pruning":
        weight = weight * getattr(module, f"{attribute}_mask")
    return weight.detach()


@torch.no_grad()
def store(module: nn.Module, attribute: str, value: Tensor) -> None:
    """Write a weight, so that it is what runs; under spectral norm, divided by its largest singular value."""
    kind, hook = storage_of(module, attribute), hook_of(module, attribute)
    if parametrize.is_parametrized(module, attribute):
        step = parametrization_of(module, attribute)[0]
        # In place, where assigning to the attribute would give the parameters another storage.
        parts = step.right_inverse(value) if kind == "weight norm" else [value]
        for parameter, part in zip(parameters_of(module, attribute), parts, strict=True):
            parameter.copy_(part)
        if kind == "spectral norm":
            step._power_method(step._reshape_weight_to_matrix(value), POWER_STEPS)
        return
    parameters_of(module, attribute)[-1].copy_(value)
    if isinstance(hook, WeightNorm):
        getattr(module, f"{attribute}_g").copy_(torch.norm_except_dim(value, 2, hook.dim))
        setattr(module, attribute, hook.compute_weight(module))
    elif isinstance(hook, SpectralNorm):
        for _ in range(POWER_STEPS):
            setattr(module, attribute, hook.compute_weight(module, do_power_iteration=True))
    elif hook is not None:
        setattr(module, attribute, hook.apply_mask(module))
