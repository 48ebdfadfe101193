"""A finding of lint, and how it names its layers."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from initlab.inspection.lint.sites import Site

Severity = Literal["fault", "note"]


@dataclass(frozen=True)
class Finding:
    """One fault of an initialisation.

    `severity` is `fault` where it changes signals or learning, `note` where a norm, or the few layers that it
    concerns, leave little of it, or where nobody can know.
    """

    rule: str
    severity: Severity
    layers: tuple[str, ...]
    text: str  # one sentence with its figures
    fix: str  # the call that fixes it, with the model and the batch as `model` and `batch`; "" where none is known

    def __str__(self) -> str:
        """The text in lines of at most 100 columns, then the fix on one, to be copied."""
        text = textwrap.fill(f"{self.severity} {self.rule}: {self.text}", 100, subsequent_indent="    ")
        return f"{text}\n    {self.fix or 'no call that was tried on a copy takes this away'}"


def finding(rule: str, sites: Sequence[Site], text: str, fix: str = "", *, severity: Severity = "fault") -> Finding:
    """A rule's finding about these layers; without a fix, `lint` gives the call that draws the net anew."""
    return Finding(rule, severity, tuple(site.name for site in sites), text, fix)


def listed(sites: Sequence[Site]) -> str:
    """`conv1`, or 27 layers, `conv1` to `conv27`."""
    if len(sites) == 1:
        return f"`{sites[0].name}`"
    return f"{len(sites)} layers, `{sites[0].name}` to `{sites[-1].name}`"


def scaled(sites: Sequence[Site], *factors: float) -> str:
    """The call that multiplies the weights of these layers, each by its factor, or all by the only one."""
    names, texts = [site.name for site in sites], [f"{factor:.6g}" for factor in factors]
    if len(names) == 1:
        return f'model.get_submodule("{names[0]}").weight.data.mul_({texts[0]})'
    if len(set(texts)) == 1:
        quoted = ", ".join(f'"{name}"' for name in names)
        return f"for name in [{quoted}]: model.get_submodule(name).weight.data.mul_({texts[0]})"
    pairs = ", ".join(f'"{name}": {text}' for name, text in zip(names, texts, strict=True))
    return f"for name, factor in {{{pairs}}}.items(): model.get_submodule(name).weight.data.mul_(factor)"
