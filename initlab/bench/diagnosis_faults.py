"""Faults of an initialisation or its data, planted one at a time in a sound net, with the parameters that are at fault.

Each is a function that changes a net in place and returns the names of the parameters that it made wrong; () where the
fault is no parameter's, and None where the net has nothing that it could be planted in.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from initlab.bench.diagnosis_places import (
    Names,
    before_activation,
    biases,
    families,
    inner,
    middle,
    names,
    one_inside,
    role,
    sized,
)
from initlab.bench.diagnosis_sizes import (
    embedding,
    norm_gain,
    open_branches,
    redrawn,
    scaled,
    temperature,
    torch_default,
    wrong_fan,
)
from initlab.bench.sound_nets import SoundNet
from initlab.init.layers import NORMS

ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.ELU, nn.SELU, nn.PReLU, nn.ReLU6, nn.Hardswish)


@dataclass(frozen=True)
class Planted:
    """A net with a fault."""

    net: SoundNet
    parameters: Names  # as `model.get_parameter` takes them; () for a fault of the data or of the structure


def without_norms(net: SoundNet) -> Names | None:
    """No norm layer left."""
    places = [(m, key) for m in net.model.modules() for key, child in m.named_children() if isinstance(child, NORMS)]
    for module, key in places:
        setattr(module, key, nn.Identity())
    return () if places else None


def large_biases(net: SoundNet) -> Names | None:
    """All biases from N(0, 3^2)."""
    entries = biases(net.model)
    for entry in entries:
        entry.tensor.normal_(0, 3)
    return names(entries)


def copies(net: SoundNet) -> Names | None:
    """All layers of a kind hold the draw of the first."""
    repeats = []
    for first, *others in families(inner(net.model)):
        for entry in others:
            entry.tensor.copy_(first.tensor)
        repeats += others
    return names(repeats)


def one_number(value: float, net: SoundNet) -> Names | None:
    """One number of one weight is this."""
    entries = middle(inner(net.model))
    for entry in entries:
        entry.tensor.flatten()[entry.tensor.numel() // 2] = value
    return names(entries)


def unwritten(net: SoundNet) -> Names | None:
    """Half of a weight is memory that nothing was written to."""
    entries = middle(inner(net.model))
    for entry in entries:
        entry.tensor[: len(entry.tensor) // 2] = 1e-40
    return names(entries)


def constant(net: SoundNet) -> Names | None:
    """All numbers of a weight are the same, so that its units learn the same."""
    entries = middle(inner(net.model))
    for entry in entries:
        entry.tensor.fill_(entry.tensor.std().item())
    return names(entries)


def zero_gate(net: SoundNet) -> Names | None:
    """A layer of zeros in front of a ReLU, which lets no gradient through."""
    for name, layer in before_activation(net.model, (nn.ReLU,))[1:2]:
        for parameter in layer.parameters(recurse=False):
            parameter.detach().zero_()
        return (f"{name}.weight",)
    return None


def dead_biases(net: SoundNet) -> Names | None:
    """Biases of -30 in front of a ReLU, which then gives only zeros."""
    layers = [(n, m) for n, m in before_activation(net.model, (nn.ReLU,)) if m.bias is not None]
    for name, layer in layers[len(layers) // 2 :][:1]:
        layer.get_parameter("bias").detach().fill_(-30)
        return (f"{name}.bias",)
    return None


def forget_bias(net: SoundNet) -> Names | None:
    """The gate that keeps the state is shut: a bias of -5."""
    wrong = []
    for name, module in net.model.named_modules():
        if isinstance(module, nn.LSTM | nn.GRU):
            size = module.hidden_size
            for key in ("bias_ih_l0", "bias_hh_l0"):
                module.get_parameter(key).detach()[size : 2 * size] = -2.5
                wrong.append(f"{name}.{key}".lstrip("."))
    return tuple(wrong) or None


def sigmoids(net: SoundNet) -> Names | None:
    """Sigmoids in place of rectifiers, without other weights."""
    places = [
        (m, key) for m in net.model.modules() for key, child in m.named_children() if isinstance(child, ACTIVATIONS)
    ]
    for module, key in places:
        setattr(module, key, nn.Sigmoid())
    return () if places else None


def inputs(scale: float, shift: float, net: SoundNet) -> Names | None:
    """Inputs of another size, or far from 0."""
    if not net.batch.is_floating_point():
        return None
    net.batch.mul_(scale).add_(shift)
    return ()


def labels_off(net: SoundNet) -> Names | None:
    """Classes counted from 1."""
    if net.loss is not None:
        return None
    net.labels.add_(1)
    return ()


def half(net: SoundNet) -> Names | None:
    """The whole model and its batch in float16."""
    net.model.half()
    return ()


FAULTS: dict[str, Callable[[SoundNet], Names | None]] = {
    "gain x0.1 in one layer": partial(scaled, one_inside, 0.1),
    "gain x10 in one layer": partial(scaled, one_inside, 10.0),
    "gain x0.1 in all layers": partial(scaled, sized, 0.1),
    "gain x10 in all layers": partial(scaled, sized, 10.0),
    "gain x0.1 in one role": partial(scaled, role, 0.1),
    "gain x10 in one role": partial(scaled, role, 10.0),
    "fan of the wrong axis": wrong_fan,
    "torch's default left in": torch_default,
    "std 0.01 for all fans": partial(redrawn, 0.01),
    "no norms": without_norms,
    "norm gain 0.02": partial(norm_gain, 0.02),
    "embedding N(0, 1)": embedding,
    "biases N(0, 9)": large_biases,
    "biases -30 in one layer": dead_biases,
    "copies of a layer": copies,
    "one constant layer": constant,
    "NaN in one weight": partial(one_number, math.nan),
    "1e30 in one weight": partial(one_number, 1e30),
    "half a weight unwritten": unwritten,
    "zero layer under ReLU": zero_gate,
    "forget bias -5": forget_bias,
    "softmax temperature": temperature,
    "residual branches open": open_branches,
    "sigmoids": sigmoids,
    "inputs x255": partial(inputs, 255.0, 0.0),
    "inputs + 10": partial(inputs, 1.0, 10.0),
    "labels off by one": labels_off,
    "float16": half,
}


def plant(fault: str, net: SoundNet) -> Planted | None:
    """The net with one of `FAULTS`, of a draw of its own; None where the net has nothing to plant it in."""
    # In some nets the batch is what is to be given back, and must not change with it.
    net = replace(net, batch=net.batch.clone(), labels=net.labels.clone())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        parameters = FAULTS[fault](net)
    if parameters is None:
        return None
    if fault == "float16" and net.batch.is_floating_point():
        net = replace(net, batch=net.batch.half())
    return Planted(net, parameters)
