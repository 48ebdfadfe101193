"""Places in a net where a fault can be planted: its weights, one role of several, its biases, layers before a ReLU."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import nn

from initlab.init.layers import EMBEDDINGS, NORMS
from initlab.inspection.suspects.suspect import Entry, entries_of

PLAIN_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
# The parameters at fault.
Names = tuple[str, ...]


def names(entries: Iterable[Entry]) -> Names | None:
    """Their names; None of none."""
    return tuple(entry.name for entry in entries) or None


def matrices(model: nn.Module, *, lengths: bool = False) -> list[Entry]:
    """The weights of layers: parameters of two or more dimensions that are no embedding's, and not all 0.

    Under weight norm these are none, or the `lengths`, which alone have a say in the size of what runs.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, EMBEDDINGS)}
    parameters = dict(model.named_parameters())
    entries = [entry for entry in entries_of(model) if entry.tensor.dim() > 1 and entry.tensor.any()]
    entries = [entry for entry in entries if id(parameters[entry.name]) not in tables]
    kinds = {entry.name: entry.name.rpartition(".")[2] for entry in entries}
    return [
        entry
        for entry in entries
        if kinds[entry.name] != "original1"
        and (entry.tensor[0].numel() > 1 or (lengths and kinds[entry.name] == "original0"))
    ]


def sized(model: nn.Module) -> list[Entry]:
    """What the sizes of all weights are in."""
    return matrices(model, lengths=True)


def inner(model: nn.Module, *, lengths: bool = False) -> list[Entry]:
    """The weights without the last one, which makes the output."""
    return matrices(model, lengths=lengths)[:-1]


def one_inside(model: nn.Module) -> list[Entry]:
    """The weight in the middle, or its lengths."""
    return middle(inner(model, lengths=True))


def middle(entries: list[Entry]) -> list[Entry]:
    """The one in the middle."""
    return entries[len(entries) // 2 :][:1]


def families(entries: Iterable[Entry]) -> list[list[Entry]]:
    """Entries of the same name but for numbers and of the same shape, two or more of them."""
    groups: dict[tuple[str, torch.Size], list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.family, entry.tensor.shape].append(entry)
    return [group for group in groups.values() if len(group) > 1]


def role(model: nn.Module) -> list[Entry]:
    """One role of several, as all second layers of an MLP: the second of the families."""
    groups = families(inner(model, lengths=True))
    return groups[1] if len(groups) > 1 else []


def fans(weight: torch.Tensor) -> tuple[int, int]:
    """(fan_in, the fan of the other axis)."""
    size = weight[0, 0].numel()
    return weight.shape[1] * size, weight.shape[0] * size


def biases(model: nn.Module) -> list[Entry]:
    """The biases of layers, not of norms."""
    of_norms = {f"{n}.bias" for n, m in model.named_modules() if isinstance(m, NORMS)}
    return [e for e in entries_of(model) if "bias" in e.name.rpartition(".")[2] and e.name not in of_norms]


def before_activation(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[tuple[str, nn.Module]]:
    """(name, layer) of the layers that an activation of these kinds follows in an nn.Sequential."""
    layers: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        children = list(module.named_children()) if isinstance(module, nn.Sequential) else []
        for (key, child), (_, after) in pairwise(children):
            if isinstance(child, PLAIN_LAYERS) and isinstance(after, kinds) and "weight" in child._parameters:
                layers.append((f"{name}.{key}".lstrip("."), child))
    return layers
