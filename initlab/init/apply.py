"""Initialise a model in place, with random numbers common to all schemes.

Each weight is one standard-normal draw per (seed, layer name), made on the CPU, times the scheme's standard deviation,
so two Gaussian schemes at one seed differ in scale alone. Uniform weights are the same normals through their own
distribution function.
"""

import math

import torch
from torch import Tensor, nn

from initlab.init.schemes import scheme_std
from initlab.streams import stream_seed

WeightLayer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


def weight_layers(model: nn.Module) -> list[tuple[str, WeightLayer]]:
    """(name, module) of every convolution and linear layer, names without those of DDP and compile wrappers."""
    return [(layer_name(name), module) for name, module in model.named_modules() if isinstance(module, WeightLayer)]


def layer_name(name: str) -> str:
    """`module._orig_mod.features.0` is `features.0`."""
    while name.startswith(("module.", "_orig_mod.")):
        name = name.split(".", 1)[1]
    return name


def standard_normals(shape: torch.Size, seed: int, name: str) -> Tensor:
    """The float32 standard normals of one layer, the same for every scheme."""
    generator = torch.Generator().manual_seed(stream_seed(seed, "init", name))
    return torch.randn(shape, generator=generator)


def first_slope(model: nn.Module) -> float:
    """Slope below zero of the model's first leaky or parametric rectifier; 0 where it has none."""
    for module in model.modules():
        if isinstance(module, nn.LeakyReLU):
            return float(module.negative_slope)
        if isinstance(module, nn.PReLU):
            return float(module.weight.detach().mean())
    return 0.0


@torch.no_grad()
def init_(
    model: nn.Module,
    scheme: str = "he",
    *,
    mode: str = "fan_in",
    distribution: str = "normal",
    std: float = 0.01,
    seed: int = 0,
    negative_slope: float | None = None,
    linear_std: float | None = None,
    last_std: float | None = None,
    last_factor: float = 1.0,
) -> nn.Module:
    """Draw every convolution and linear weight of `model` under `scheme`, in place; biases become 0.

    Args:
        scheme: `gaussian`, `xavier` or `he` (see `initlab.init.schemes.scheme_std`).
        mode: `fan_in` keeps the forward variance, `fan_out` the backward one.
        distribution: `normal`, or `uniform` of the same standard deviation.
        std: standard deviation under `gaussian`.
        negative_slope: the rectifier's slope for He; None takes that of the model's first rectifier.
        linear_std: standard deviation of the linear layers but the last; None leaves them to the scheme.
        last_std: standard deviation of the last linear layer; None leaves it to the scheme.
        last_factor: factor on the last linear layer's standard deviation, whichever gave it.

    Returns:
        The model. Norms, embeddings and other parameters keep what they have.

    Raises:
        ValueError: unknown scheme, mode or distribution.
    """
    if distribution not in ("normal", "uniform"):
        raise ValueError(f"init: unknown distribution (got {distribution!r}); allowed: normal, uniform")
    slope = first_slope(model) if negative_slope is None else negative_slope
    layers = weight_layers(model)
    last = next((module for _, module in reversed(layers) if isinstance(module, nn.Linear)), None)
    for name, module in layers:
        weight = module.weight
        layer_std = scheme_std(scheme, weight.shape, mode=mode, negative_slope=slope, std=std)
        if module is last:
            layer_std = (layer_std if last_std is None else last_std) * last_factor
        elif isinstance(module, nn.Linear) and linear_std is not None:
            layer_std = linear_std
        normals = standard_normals(weight.shape, seed, name)
        if distribution == "uniform":
            # normals through their distribution function: uniform on (-sqrt(3), sqrt(3)), of unit variance
            normals = math.sqrt(3) * torch.erf(normals.double() / math.sqrt(2)).to(normals.dtype)
        weight.copy_(normals.to(weight.dtype) * layer_std)
        if module.bias is not None:
            module.bias.zero_()
    return model
