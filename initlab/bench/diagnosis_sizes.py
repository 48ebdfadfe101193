"""Faults that are planted in the sizes of weights, as functions that change a net (see `diagnosis_faults.py`)."""

import math
from collections.abc import Callable

from torch import nn

from initlab.bench.diagnosis_places import PLAIN_LAYERS, Names, fans, inner, matrices, names
from initlab.bench.sound_nets import SoundNet
from initlab.init.layers import EMBEDDINGS, NORMS
from initlab.inspection.suspects.suspect import Entry, entries_of


def scaled(choose: Callable[[nn.Module], list[Entry]], factor: float, net: SoundNet) -> Names | None:
    """Weights of the wrong size."""
    entries = choose(net.model)
    for entry in entries:
        entry.tensor.mul_(factor)
    return names(entries)


def wrong_fan(net: SoundNet) -> Names | None:
    """Weights whose size follows from the number of outputs instead of inputs, of layers where these are unlike."""
    wrong = []
    for entry in inner(net.model):
        fan_in, other = fans(entry.tensor)
        if not 1 / 2 < fan_in / other < 2:
            entry.tensor.mul_(math.sqrt(fan_in / other))
            wrong.append(entry)
    return names(wrong)


def torch_default(net: SoundNet) -> Names | None:
    """Linear and convolutional layers as torch draws them, where their author draws them otherwise."""
    before = {e.name: e.tensor.double().square().mean().sqrt().item() for e in matrices(net.model)}
    for module in net.model.modules():
        if isinstance(module, PLAIN_LAYERS) and "weight" in module._parameters and module.weight.any():
            module.reset_parameters()
    return names(e for e in matrices(net.model) if e.name in before and unlike(e, before[e.name]))


def unlike(entry: Entry, rms: float) -> bool:
    """Whether the entry's rms is another than this."""
    return not 1 / 1.3 < entry.tensor.double().square().mean().sqrt().item() / rms < 1.3


def redrawn(std: float, net: SoundNet) -> Names | None:
    """One standard deviation for all weights, whatever their fans."""
    entries = matrices(net.model)
    for entry in entries:
        entry.tensor.normal_(0, std)
    return names(entries)


def norm_gain(value: float, net: SoundNet) -> Names | None:
    """The gains of all norms at one value, but those that are meant to be 0."""
    named = [(n, m) for n, m in net.model.named_modules() if isinstance(m, NORMS)]
    gains = [Entry(f"{n}.weight", m.weight.detach()) for n, m in named if m.weight is not None and m.weight.any()]
    for gain in gains:
        gain.tensor.fill_(value)
    return names(gains)


def embedding(net: SoundNet) -> Names | None:
    """Embeddings from N(0, 1), where their author draws smaller ones."""
    tables = [
        Entry(f"{n}.weight", m.weight.detach()) for n, m in net.model.named_modules() if isinstance(m, EMBEDDINGS)
    ]
    wide = [table for table in tables if table.tensor.std() < 0.5]
    for table in wide:
        table.tensor.normal_()
    return names(wide)


def temperature(net: SoundNet) -> Names | None:
    """Logits 30 times as large, as under a softmax of temperature 1/30."""
    last = matrices(net.model)[-1:] if net.loss is None else []
    for entry in last:
        entry.tensor.mul_(30)
    return names(last)


def open_branches(net: SoundNet) -> Names | None:
    """Branches that their author starts closed or small are as large as any other layer."""
    zeros = [e for e in entries_of(net.model) if e.tensor.dim() > 1 and not e.tensor.any()]
    for entry in zeros:
        nn.init.kaiming_normal_(entry.tensor)
    gains = [e for e in entries_of(net.model) if e.name.endswith("gain") and e.tensor.abs().max() < 0.1]
    for entry in gains:
        entry.tensor.fill_(1)
    return names([*zeros, *gains])
