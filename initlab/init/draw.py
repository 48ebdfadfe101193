"""Set single parameters: a weight from its standard normals, a bias, the norms and the embeddings of a model."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from initlab.init.branches import Factors
from initlab.init.chosen import EMBEDDED, Reasons
from initlab.init.layers import EMBEDDINGS, NORMS, Matrix, norm_parameters
from initlab.init.orthogonal import orthogonal
from initlab.init.schemes import BIASES, STDS, Scheme, draws, scheme_function, uniform
from initlab.init.settings import FORGETS, Setting, Settings, unchanged
from initlab.init.shapes import LayerShape, Mode
from initlab.init.stored import storage_of
from initlab.nets.any_module import layer_name
from initlab.random_streams import stream_seed


def standard_normals(shape: Sequence[int], seed: int, name: str, *part: str) -> Tensor:
    """The float32 standard normals of one layer, the same for every scheme; of its bias with the part `bias`."""
    generator = torch.Generator().manual_seed(stream_seed(seed, "init", name, *part))
    return torch.randn(tuple(shape), generator=generator)


def set_weight(matrix: Matrix, rule: str | Scheme, seed: int, factor: float, reasons: Reasons) -> Settings:
    """Set a matrix to what a scheme makes of its normals, times `factor`, unless it is left alone."""
    weight, layer = matrix.parameters[-1], matrix.layer
    if reason := reasons.get(matrix.place(weight)):
        return dict.fromkeys(map(id, matrix.parameters), unchanged(reason))
    name = rule if isinstance(rule, str) else getattr(rule, "__name__", type(rule).__name__)
    normals, scheme_std = standard_normals(layer.shape, seed, layer.name), None
    if isinstance(rule, str) and rule in STDS and matrix.follows != "recurrent":
        # What the scheme's function gives too, but with the factor in the standard deviation: one rounding.
        scheme_std = STDS[rule](layer) * factor
        matrix.write(draws(normals, layer.distribution).to(weight.dtype) * scheme_std)
        if storage_of(matrix.module, matrix.attribute) == "spectral norm":
            # It has the last word on the size.
            scheme_std = None
    else:
        function, torch_std = scheme_function(rule), matrix.torch_std
        if rule == "torch_default" and torch_std:
            function = partial(of_torch, torch_std)
        elif matrix.follows == "recurrent" and rule != "torch_default":
            name, function = "orthogonal", orthogonal
        values = function(normals.to(torch.promote_types(weight.dtype, torch.float32)), layer)
        matrix.write(checked(values, name, layer) * factor)
    signal = preserved_signal(name if isinstance(rule, str) else "", layer.mode)
    return dict.fromkeys(map(id, matrix.parameters), Setting(name, layer, scheme_std, keeps=signal))


def preserved_signal(scheme: str, mode: Mode) -> str | None:
    """The signal whose variance a scheme keeps where its gain suits: forward, backward or, of most, None."""
    if scheme in ("he", "xavier", "truncated_normal", "solved"):
        return "forward" if mode == "fan_in" else "backward"
    return "forward" if scheme in ("lecun", "lsuv") else None


def of_torch(std: float, normals: Tensor, layer: LayerShape) -> Tensor:
    """torch's uniform draw of a packed weight, of this standard deviation."""
    return uniform(normals) * std


def checked(values: Any, name: str, layer: LayerShape) -> Tensor:
    """What a scheme gave, refused unless it is a weight of the layer's shape with finite numbers."""
    if not isinstance(values, Tensor) or values.shape != layer.shape:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"{layer.name}: {name} gave no weight (got {got}); return a tensor of {layer.shape}")
    if not values.isfinite().all():
        raise ValueError(f"{layer.name}: {name} gave numbers that are not finite; allowed: finite ones")
    return values


def set_bias(matrix: Matrix, rule: str | Scheme, seed: int, reasons: Reasons) -> Settings:
    """Set a matrix's bias: to 0, an LSTM's forget gate to 1, but under a scheme with a rule for biases."""
    bias, layer = matrix.bias_parameter, matrix.layer
    if bias is None:
        return {}
    if reason := reasons.get(matrix.place(bias)):
        return {id(bias): unchanged(reason)}
    if isinstance(rule, str) and rule in BIASES and not isinstance(matrix.module, nn.MultiheadAttention):
        normals = standard_normals(bias[matrix.rows].shape, seed, layer.name, "bias").to(bias.dtype)
        std = matrix.torch_std
        bias[matrix.rows] = (uniform(normals) * std if std else BIASES[rule](normals, layer)).to(bias)
        return {id(bias): Setting(rule)}
    # torch adds a bias of the state to that of the input, so one of them is enough.
    other = matrix.state_bias
    forgets = matrix.forgets and (other is None or matrix.place(other) not in reasons)
    bias[matrix.rows] = 1.0 if forgets else 0.0
    return {id(bias): Setting(FORGETS if forgets else "0")}


def set_norms(model: nn.Module, reasons: Reasons, factors: Factors) -> Settings:
    """Give the norms of a model weight 1, times the factor of a branch that ends there, and bias 0."""
    settings: Settings = {}
    for module in (module for module in model.modules() if isinstance(module, NORMS)):
        for start, parameter in norm_parameters(module):
            if reason := reasons.get((id(parameter), 0)):
                settings[id(parameter)] = unchanged(reason)
            else:
                value = start * factors.gains.get(id(parameter), 1.0)
                parameter.fill_(value)
                settings[id(parameter)] = Setting(f"{value:.6g}")
    return settings


def set_embeddings(model: nn.Module, std: float | None, seed: int, reasons: Reasons) -> Settings:
    """Draw the embeddings of a model from N(0, std^2), their padding 0; leave them without a `std`."""
    settings: Settings = {}
    for name, module in model.named_modules():
        if std is None or not isinstance(module, EMBEDDINGS):
            continue
        weight = module.weight
        if reason := reasons.get((id(weight), EMBEDDED)):
            settings[id(weight)] = unchanged(reason)
            continue
        weight.copy_(standard_normals(weight.shape, seed, layer_name(name)).to(weight.dtype) * std)
        if module.padding_idx is not None:
            weight[module.padding_idx] = 0
        settings[id(weight)] = Setting("gaussian", scheme_std=std)
    return settings
