"""A finding of lint, and how it names its layers."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from initlab.inspection.lint.sites import Site


@dataclass(frozen=True)
class Finding:
    """One fault of an initialisation.

    `severity` is `fault` where it changes signals or learning, `note` where a norm, or the few layers that it
    concerns, leave little of it, or where it can't be told.
    """

    rule: str
    severity: Literal["fault", "note"]
    layers: tuple[str, ...]
    text: str  # one sentence with its figures
    fix: str = ""  # the call that fixes it, with the model under the name `model`; "" until `lint` draws the net anew

    def __str__(self) -> str:
        """The text in lines of at most 100 columns, then the fix on one, to be copied."""
        text = textwrap.fill(f"{self.severity} {self.rule}: {self.text}", 100, subsequent_indent="    ")
        return f"{text}\n    {self.fix}"


def called(sites: Sequence[Site]) -> str:
    """`conv1`, or 27 layers, `conv1` to `conv27`."""
    if len(sites) == 1:
        return f"`{sites[0].name}`"
    return f"{len(sites)} layers, `{sites[0].name}` to `{sites[-1].name}`"


def scaled(factors: Mapping[str, float]) -> str:
    """The call that multiplies the weights of layers, by name, each by its factor."""
    distinct = {f"{factor:.6g}" for factor in factors.values()}
    if len(factors) == 1:
        ((name, factor),) = factors.items()
        return f'model.get_submodule("{name}").weight.data.mul_({factor:.6g})'
    if len(distinct) == 1:
        names = ", ".join(f'"{name}"' for name in factors)
        return f"for name in [{names}]: model.get_submodule(name).weight.data.mul_({distinct.pop()})"
    pairs = ", ".join(f'"{name}": {factor:.6g}' for name, factor in factors.items())
    return f"for name, factor in {{{pairs}}}.items(): model.get_submodule(name).weight.data.mul_(factor)"


def names_of(sites: Sequence[Site]) -> tuple[str, ...]:
    """The layers' names."""
    return tuple(site.name for site in sites)
