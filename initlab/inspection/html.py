"""What was inspected as HTML: for a notebook, in its own colours, light or dark; and as a page of its own.

The layers are a tree of modules that fold. Each has a coloured cell per direction, which says how many standard
deviations of theory's draws the measured variance is off.
"""

import math
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from initlab.inspection.comparison_text import LEGEND, cells_of, headline, troubles
from initlab.inspection.text import RATIOS, cell, ratio_cells
from initlab.page.page import data_uri, render
from initlab.store.files import write_text
from initlab.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# With more layers, the modules are folded.
MOST_OPEN = 40
# Half of a normal's 95 % interval, in standard deviations.
NORMAL_95 = 1.96
# As far off as this a cell has its full colour.
FULL_COLOUR = 8.0
BELOW, ABOVE = "74 143 214", "224 88 79"


@dataclass
class Branch:
    """A module with what lies in it, or a layer with its row."""

    name: str
    children: "dict[str, Branch]" = field(default_factory=dict)
    cells: list[str] = field(default_factory=list)  # of a layer: weight, forward, theory, backward, theory, basis
    status: str = ""
    off: dict[str, float] = field(default_factory=dict)

    def layers(self) -> "Iterator[Branch]":
        """The layers in it, itself included."""
        if self.cells:
            yield self
        for child in self.children.values():
            yield from child.layers()

    def furthest(self, direction: str) -> float:
        """Of its layers, the deviation that is largest in size; NaN where theory says nothing."""
        known = [layer.off[direction] for layer in self.layers() if not math.isnan(layer.off[direction])]
        return max(known, key=abs, default=math.nan)

    def folded(self) -> "Branch":
        """What a module shows in its own row: how many layers it has, and the words on them, `ok` where it is alone."""
        layers = list(self.layers())
        words = dict.fromkeys(layer.status for layer in layers)
        status = ", ".join(word for word in words if word != "ok" or len(words) == 1)
        bases = ", ".join(dict.fromkeys(layer.cells[-1] for layer in layers))
        return Branch(self.name, cells=[f"{len(layers)} layers", "", "", "", "", bases], status=status)


def module_tree(table: pd.DataFrame) -> Branch:
    """The layers of `Inspection.table` under the modules that their names go through; one in one is one branch."""
    root = Branch("model")
    for row in table.to_dict("records"):
        branch = root
        for name in row["name"].split("."):
            branch = branch.children.setdefault(name, Branch(name))
        branch.status = row["status"]
        branch.off = {direction: off_theory(row, direction) for direction in ("forward", "backward")}
        columns = ("shape", "forward_var", "forward_predicted", "backward_var", "backward_predicted", "basis")
        branch.cells = [cell(row.get(column, math.nan)) for column in columns]
    for child in root.children.values():
        join_only_children(child)
    return root


def join_only_children(branch: Branch) -> None:
    """Make one branch, `layer1.0`, of a module that holds nothing but one other."""
    while len(branch.children) == 1 and not branch.cells:
        (only,) = branch.children.values()
        branch.name, branch.children = f"{branch.name}.{only.name}", only.children
        branch.cells, branch.status, branch.off = only.cells, only.status, only.off
    for child in branch.children.values():
        join_only_children(child)


def off_theory(row: dict[Any, Any], direction: str) -> float:
    """How many standard deviations a variance is above theory's median over draws; below 0, under it.

    On the scale of logarithms, on which draws are about normal: 1.96 at the end of the 95 % band. -inf for a variance
    of 0; NaN without measurement or theory.
    """
    measured, median, low, high = (
        float(row.get(f"{direction}_{name}", math.nan)) for name in ("var", "predicted", "low", "high")
    )
    if not (math.isfinite(measured) and 0 < low < median < high):
        return math.nan
    if measured <= 0:
        return -math.inf
    side = math.log(high / median) if measured > median else math.log(median / low)
    return NORMAL_95 * math.log(measured / median) / side


def deviation(off: float) -> dict[str, str]:
    """A deviation as a cell: its text, and its colour, the paler the less it is off."""
    if math.isnan(off):
        return {"text": "–", "colour": ""}
    text = "is 0" if math.isinf(off) else f"{off:+z.1f} σ" if abs(off) < 10 else f"{off:+.0f} σ"
    strength = 0.55 * min(abs(off) / FULL_COLOUR, 1)
    return {"text": text.replace("-", "−"), "colour": f"rgb({ABOVE if off > 0 else BELOW} / {strength:.2f})"}


def inspection_html(table: pd.DataFrame, verdict: str, reason: str, advice: Sequence[str]) -> str:
    """An inspection in a notebook."""
    return render("inspection.html", **inspection_content(table, verdict, reason, advice))


def inspection_content(table: pd.DataFrame, verdict: str, reason: str, advice: Sequence[str]) -> dict[str, Any]:
    """What the template of an inspection is given."""
    return {"verdict": verdict, "reason": reason, "advice": advice, **tree_content(table)}


def tree_content(table: pd.DataFrame) -> dict[str, Any]:
    """What the template of a tree is given."""
    return {"tree": module_tree(table), "count": len(table), "open": len(table) <= MOST_OPEN, "deviation": deviation}


def comparison_html(table: pd.DataFrame, best: str | None, why: str, notes: Sequence[str]) -> str:
    """A comparison in a notebook."""
    return render("comparison.html", **comparison_content(table, best, why, notes))


def comparison_content(table: pd.DataFrame, best: str | None, why: str, notes: Sequence[str]) -> dict[str, Any]:
    """What the template of a comparison is given."""
    heads, *rows = cells_of(table)
    return {"headline": headline(best, why), "heads": heads, "rows": rows, "notes": [LEGEND, *troubles(table), *notes]}


def ratios_html(table: pd.DataFrame, sentences: Sequence[str]) -> str:
    """Ratios of two initialisations in a notebook."""
    return render("ratios.html", heads=list(RATIOS.values()), rows=ratio_cells(table), sentences=sentences)


def write_page(path: str | Path, template: str, figure: "Figure", **content: Any) -> Path:
    """Write an inspection or a comparison as one HTML file, with its figure inside."""
    # matplotlib is loaded only here.
    from initlab.plots.save import picture

    said = {"figure": data_uri(picture(figure, "svg"), "image/svg+xml"), "versions": versions()}
    return write_text(Path(path), render(template, **content, **said))


def versions() -> list[tuple[str, str]]:
    """Of what measured."""
    return [("initlab", __version__), ("torch", torch.__version__), ("python", platform.python_version())]
