"""A suspect: parameters that are unlike what is usual for their role, in words, and the code that makes them usual.

The code is what a user pastes, with the names `model` and `batch`; a trial runs the same text, so that what is printed
is what was tried.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Suspect:
    """Parameters that may be at fault."""

    rule: str  # what kind of fault, a word
    parameters: tuple[str, ...]  # as `model.get_parameter` takes them; () for the batch
    words: str  # what they are, and what is usual
    code: str  # one line that makes them usual
    certain: bool = False  # nobody draws such parameters on purpose, whatever the signals say


@dataclass(frozen=True)
class Entry:
    """A parameter of a model."""

    name: str  # as `model.get_parameter` takes it
    tensor: Tensor  # without its gradient

    @property
    def family(self) -> str:
        """The name with `*` for numbers, alike for the same parameter of every block: `layers.*.norm1.weight`."""
        return re.sub(r"\d+", "*", self.name)


def entries_of(model: nn.Module) -> list[Entry]:
    """The floating parameters of a model; one that has several names under the first."""
    return [Entry(name, p.detach()) for name, p in model.named_parameters() if p.is_floating_point() and p.numel()]


def listed_names(names: Sequence[str]) -> str:
    """`a.weight`, `a.weight` and `b.weight`, or 3 tensors, `a.weight` to `c.weight`."""
    if len(names) == 1:
        return f"`{names[0]}`"
    if len(names) == 2:
        return f"`{names[0]}` and `{names[1]}`"
    return f"{len(names)} tensors, `{names[0]}` to `{names[-1]}`"


def on_each(names: Sequence[str], action: str) -> str:
    """The line that does the same to the data of each parameter: `on_each(["a"], "fill_(1)")`."""
    if len(names) == 1:
        return f'model.get_parameter("{names[0]}").data.{action}'
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"for name in ({quoted}): model.get_parameter(name).data.{action}"


def with_numbers(numbers: Mapping[str, float | tuple[float, float]], action: str) -> str:
    """The line that does an action with numbers of its own to each parameter: `with_numbers({"a": 2}, "mul_")`."""
    texts = {}
    for name, number in numbers.items():
        parts = number if isinstance(number, tuple) else (number,)
        texts[name] = ", ".join(f"{part:.4g}" for part in parts)
    if len(set(texts.values())) == 1:
        return on_each([*texts], f"{action}({next(iter(texts.values()))})")
    pairs = ", ".join(f'"{name}": [{text}]' for name, text in texts.items())
    return f"for name, numbers in {{{pairs}}}.items(): model.get_parameter(name).data.{action}(*numbers)"
