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
    return on_weights(sites, "mul_", factors)


def drawn(sites: Sequence[Site], *stds: float) -> str:
    """The call that draws the weights of these layers anew, each with its standard deviation, or all with one."""
    return on_weights(sites, "normal_", stds)


def on_weights(sites: Sequence[Site], action: str, numbers: Sequence[float]) -> str:
    """The line that does something with a number to the weights of layers, or to their lengths under weight norm."""
    names = [site.name for site in sites]
    before = "0, " * (action == "normal_")
    texts, places = [f"{number:.6g}" for number in numbers], {place_of_scale(site) for site in sites}
    place = f"{places.pop()}.data.{action}" if len(places) == 1 else f"weight.data.{action}"
    if len(names) == 1:
        return f'model.get_submodule("{names[0]}").{place}({before}{texts[0]})'
    if len(set(texts)) == 1:
        quoted = ", ".join(f'"{name}"' for name in names)
        return f"for name in [{quoted}]: model.get_submodule(name).{place}({before}{texts[0]})"
    pairs = ", ".join(f'"{name}": {text}' for name, text in zip(names, texts, strict=True))
    word = "factor" if action == "mul_" else "std"
    return f"for name, {word} in {{{pairs}}}.items(): model.get_submodule(name).{place}({before}{word})"


def place_of_scale(site: Site) -> str:
    """Where a layer keeps the size of its weight: `weight`, or the lengths of its rows under weight norm."""
    parameters = {name for name, _ in site.module.named_parameters()}
    lengths = "parametrizations.weight.original0", "weight_g"
    return next((place for place in lengths if place in parameters), "weight")
