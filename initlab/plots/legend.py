"""The one legend of a figure: its entries, in as many columns as fit, under a line that says what is drawn."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from initlab.analysis.panels import DEPTH, SCHEME, Shown, shown_trials
from initlab.plots.style import GREY, Canvas, Look
from initlab.study.paths import getattr_path
from initlab.study.unused_fields import unused_paths

# What panels and names of schemes tell.
TOLD = (DEPTH, SCHEME, "init.std", "net.name")


def scheme_handles(styles: dict[str, Look], results: Shown | None = None) -> list[Line2D]:
    """The schemes' entries in a legend; of `pkg.module:callable` the callable's name, with `results` more of it."""
    labels = {scheme: scheme.rsplit(":", 1)[-1] for scheme in styles}
    if results is not None:
        labels |= telling_labels(labels, *shown_trials(results))
    return [Line2D([], [], **look.style, label=labels[scheme]) for scheme, look in styles.items()]


def telling_labels(labels: dict[str, str], trials: pd.DataFrame, fields: Sequence[str]) -> dict[str, str]:
    """Labels of the schemes of these trials, told of what goes with them.

    `gaussian` is `std 0.01` where all its trials have that, and fields that differ between schemes and not within one,
    as in a study of cases, are told of those that use them: `he, lr 0.1`.
    """
    specs = {str(scheme): [*part.spec] for scheme, part in trials.groupby(SCHEME) if scheme in labels}
    labels = {scheme: labels[scheme] for scheme in specs}
    stds = {spec.init.std for spec in specs.get("gaussian", [])}
    if len(stds) == 1:
        labels["gaussian"] = f"std {stds.pop():g}"
    for path in (path for path in fields if path not in TOLD):
        used = {scheme: part for scheme, part in specs.items() if path not in unused_paths(part[0])}
        values = {scheme: {str(getattr_path(spec, path)) for spec in part} for scheme, part in used.items()}
        if all(len(texts) == 1 for texts in values.values()) and len(set().union(*values.values())) > 1:
            name = path.split(".")[-1]
            labels |= {scheme: f"{labels[scheme]}, {name} {texts.pop()}" for scheme, texts in values.items()}
    return labels


def cross_handle(label: str) -> Line2D:
    """The legend's entry of the × that marks diverged trials."""
    return Line2D([], [], color="#222222", linestyle="none", marker="x", markersize=6, markeredgewidth=1.6, label=label)


def fitting_columns(labels: Sequence[str], width: float) -> int:
    """The most columns of a legend that fit into `width` inches, filled row by row."""
    for columns in range(len(labels), 1, -1):
        longest = [max(map(len, labels[column::columns])) for column in range(columns)]
        # 0.62 in for a line's sample and its gap, 0.068 in for a letter at 8 pt.
        if sum(0.62 + 0.068 * letters for letters in longest) <= width:
            return columns
    return 1


def add_legend(grid: Canvas, handles: Sequence[Line2D | Patch], note: str, by_rows: bool = True) -> None:
    """One legend for all panels, read by rows or by columns: above them in our figure, in the first of your axes."""
    if grid.owned:
        columns = fitting_columns([str(handle.get_label()) for handle in handles], grid.figure.get_figwidth())
        if by_rows:
            # matplotlib fills a legend column by column.
            handles = [handle for column in range(columns) for handle in handles[column::columns]]
        # 0.058 in for a letter of the note.
        letters = int(grid.figure.get_figwidth() / 0.058)
        lines = [wrapped for line in note.split("\n") for wrapped in textwrap.wrap(line, letters)]
        # There is room for two lines; more would be taken from the panels.
        more = len(lines) + math.ceil(len(handles) / columns) - 2
        grid.figure.set_figheight(grid.figure.get_figheight() + 0.165 * max(0, more))
        place: dict[str, Any] = {"loc": "outside upper left", "ncols": columns, "title": "\n".join(lines)}
        legend = grid.figure.legend(handles=handles, alignment="left", **place)
    else:
        # A narrow legend finds a place beside the curves.
        frame: dict[str, Any] = {"frameon": True, "edgecolor": "none", "framealpha": 0.8}
        broken = note.replace("; ", "\n")
        legend = grid.axes[0].legend(handles=handles, loc="best", title=broken, alignment="left", **frame)
    legend.get_title().set_color(GREY)


def seeds_note(seeds: pd.Series, each: str = "thin: each seed; ", band: str = "band", mean: str = "mean") -> str:
    """What line and interval mean, and of how many seeds: `mean over 3 seeds; band: range over seeds`."""
    fewest, most = int(seeds.min()), int(seeds.max())
    if most == 1:
        return "1 seed"
    count = f"{most}" if fewest == most else f"{fewest}–{most}"
    return f"{mean} over {count} seeds; {each}{band}: range over seeds"
