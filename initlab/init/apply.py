"""Initialise a model in place, with random numbers common to all schemes.

Each weight starts from one standard-normal draw per (seed, layer name), made on the CPU; a scheme is a function of
those normals, so two Gaussian schemes at one seed differ in scale alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from initlab.init.layers import EMBEDDINGS, NORMS, layer_shapes
from initlab.init.lsuv import unit_variance_
from initlab.init.schemes import BIASES, STDS, Scheme, draws, scheme_function
from initlab.init.shapes import Distribution, LayerShape, Mode
from initlab.nets.any_module import WeightLayer, first_slope, layer_name
from initlab.nets.undisturbed import Batch
from initlab.random_streams import stream_seed

# The id of a parameter -> what it was set to, its layer, and the standard deviation of its scheme where that is one.
Rules = dict[int, tuple[str, LayerShape | None, float | None]]


def standard_normals(shape: torch.Size, seed: int, name: str, *part: str) -> Tensor:
    """The float32 standard normals of one layer, the same for every scheme; of its bias with the part `bias`."""
    generator = torch.Generator().manual_seed(stream_seed(seed, "init", name, *part))
    return torch.randn(shape, generator=generator)


@torch.no_grad()
def init_(
    model: nn.Module,
    scheme: str | Scheme = "he",
    *,
    mode: Mode = LayerShape.mode,
    distribution: Distribution = LayerShape.distribution,
    std: float = LayerShape.std,
    seed: int = 0,
    negative_slope: float | None = None,
    linear_std: float | None = None,
    last_std: float | None = None,
    last_factor: float = 1.0,
    batch: Batch | None = None,
    on_parameter: Callable[[dict[str, Any]], None] | None = None,
    tell: Callable[[dict[str, Any]], None] | None = None,
) -> nn.Module:
    """Draw every convolution and linear weight of `model` under `scheme`, in place; biases become 0.

    Norms get weight 1 and bias 0. Embeddings, slopes and all other parameters keep what they have, and so does a weight
    that an embedding shares; a weight that layers share is drawn for the last of them.

    Args:
        scheme: a name of `initlab.init.schemes.SCHEMES`, or a function of yours: (normals, layer) -> weight.
        mode: `fan_in` keeps the forward variance, `fan_out` the backward one (xavier, he, truncated_normal).
        distribution: `normal`, or `uniform` of the same standard deviation (gaussian, xavier, he, lecun).
        std: standard deviation under `gaussian`.
        negative_slope: the rectifier's slope in the gain; None takes that of the model's first rectifier.
        linear_std: standard deviation of the linear layers but the last, as `gaussian`; None leaves them to the scheme.
        last_std: standard deviation of the last linear layer, as `gaussian`; None leaves it to the scheme.
        last_factor: factor on the last linear layer's weights, whichever gave them.
        batch: inputs as the model takes them, (N, ...), or its arguments as a mapping, tuple or list; for `lsuv`.
        on_parameter: called with a row for each parameter of what it was set to: name, rule (the scheme, `0`, `1` or
            `kept`), shape, fan_in, fan_out (None but for weights), scheme_std (None but where the scheme is one), mean,
            std. `on_parameter=print`, or a list's `append`.
        tell: the old name of `on_parameter`.

    Returns:
        The model.

    Raises:
        ValueError: unknown scheme, mode or distribution; `lsuv` without a batch; a weight that cannot be set
            (parametrized, lazy); a function of yours that gives a wrong shape or numbers that are not finite.
    """
    scheme_function(scheme)
    if scheme == "lsuv" and batch is None:
        raise ValueError("init: lsuv scales layers on a batch (got none); give batch=images")
    if on_parameter and tell:
        raise ValueError("init: on_parameter is given twice (got its old name tell too); give on_parameter alone")
    slope = first_slope(model) if negative_slope is None else negative_slope
    rules: Rules = {}
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, EMBEDDINGS)}
    lsuv_stds: dict[nn.Module, float] = {}
    for module, shape in layer_shapes(model):
        fixed_std = last_std if shape.is_last else linear_std if shape.is_linear else None
        layer_std, rule = (std, scheme) if fixed_std is None else (fixed_std, "gaussian")
        layer = replace(shape, mode=mode, distribution=distribution, std=layer_std, negative_slope=slope)
        rules |= set_bias(module, layer, rule, seed)
        if id(module.weight) not in embedded:
            factor = last_factor if layer.is_last else 1.0
            rules |= set_weight(module, layer, rule, seed, factor)
            if rule == "lsuv":
                lsuv_stds[module] = factor
    rules |= reset_norms(model)
    if batch is not None and lsuv_stds:
        unit_variance_(model, batch, lsuv_stds)
    report = on_parameter or tell
    if report is not None:
        for row in parameter_rows(model, rules):
            report(row)
    return model


def set_weight(module: WeightLayer, layer: LayerShape, rule: str | Scheme, seed: int, factor: float) -> Rules:
    """Set a layer's weight to what a scheme makes of its normals, times `factor`."""
    weight, name = module.weight, rule if isinstance(rule, str) else getattr(rule, "__name__", type(rule).__name__)
    normals = standard_normals(weight.shape, seed, layer.name)
    if isinstance(rule, str) and rule in STDS:
        # What the scheme's function gives too, but with the factor in the standard deviation: one rounding.
        scheme_std = STDS[rule](layer) * factor
        weight.copy_(draws(normals, layer.distribution).to(weight.dtype) * scheme_std)
        return {id(weight): (name, layer, scheme_std)}
    drawn = scheme_function(rule)(normals.to(torch.promote_types(weight.dtype, torch.float32)), layer)
    if not isinstance(drawn, Tensor) or drawn.shape != normals.shape:
        got = tuple(drawn.shape) if isinstance(drawn, Tensor) else type(drawn).__name__
        raise ValueError(f"{layer.name}: {name} gave no weight (got {got}); return a tensor of {layer.shape}")
    if not drawn.isfinite().all():
        raise ValueError(f"{layer.name}: {name} gave numbers that are not finite; allowed: finite ones")
    weight.copy_(drawn * factor)
    return {id(weight): (name, layer, None)}


def set_bias(module: WeightLayer, layer: LayerShape, rule: str | Scheme, seed: int) -> Rules:
    """Set a layer's bias: to 0, but under a scheme with a rule for biases."""
    if module.bias is None:
        return {}
    if isinstance(rule, str) and rule in BIASES:
        normals = standard_normals(module.bias.shape, seed, layer.name, "bias")
        module.bias.copy_(BIASES[rule](normals.to(module.bias.dtype), layer))
        return {id(module.bias): (rule, None, None)}
    module.bias.zero_()
    return {id(module.bias): ("0", None, None)}


def reset_norms(model: nn.Module) -> Rules:
    """Give the norms of a model weight 1 and bias 0."""
    rules: Rules = {}
    for module in model.modules():
        if isinstance(module, NORMS):
            for name, value in (("weight", 1.0), ("bias", 0.0)):
                # RMSNorm has no bias, and a norm without `affine` neither.
                parameter = getattr(module, name, None)
                if isinstance(parameter, nn.Parameter):
                    parameter.fill_(value)
                    rules[id(parameter)] = (f"{value:g}", None, None)
    return rules


def parameter_rows(model: nn.Module, rules: Rules) -> Iterator[dict[str, Any]]:
    """A row per parameter: what it was set to, and the moments that it has now."""
    for name, parameter in model.named_parameters():
        rule, layer, scheme_std = rules.get(id(parameter), ("kept", None, None))
        values = parameter.detach().double()
        yield {
            **{"name": layer_name(name), "rule": rule, "shape": tuple(parameter.shape)},
            **{"fan_in": layer and layer.fan_in, "fan_out": layer and layer.fan_out, "scheme_std": scheme_std},
            **{"mean": values.mean().item(), "std": values.std(correction=0).item()},
        }
