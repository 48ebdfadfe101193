"""A comparison of initialisations as text of 100 columns."""

import textwrap
from collections.abc import Hashable, Sequence
from typing import Any

import pandas as pd

from initlab.errors import printable
from initlab.inspection.text import WIDTH, aligned
from initlab.verdict.odds import CANNOT_TELL

HEADS = ("scheme", "verdict", "forward", "backward", "inside", "forecast", "sets")
LEFT = ("scheme", "verdict", "forecast", "sets")
# Characters of a name that a terminal shows.
LONGEST_NAME = 28
LEGEND = (
    "forward, backward: what signals and gradients change by per layer; inside: measured points inside theory's 95 % "
    "band, forward and backward"
)


def as_text(table: pd.DataFrame, best: str | None, why: str, notes: Sequence[str]) -> str:
    """The sentence on the best, the table, the reason of each trouble, and notes, for a terminal."""
    lines = wrapped(headline(best, why), "")
    cells = [[printable(cell) for cell in row] for row in cells_of(table)]
    cells = [[name[-LONGEST_NAME:], *others] for name, *others in cells]
    lines += ["", *aligned(cells, LEFT, cut=len(cells[0]) - 1), ""]
    for text in (LEGEND, *troubles(table), *notes):
        lines += wrapped(text, "- ")
    return "\n".join(lines)


def wrapped(text: str, mark: str) -> list[str]:
    """A paragraph in printable lines, after a mark."""
    own: dict[str, Any] = {"initial_indent": mark, "subsequent_indent": " " * len(mark), "break_on_hyphens": False}
    return textwrap.wrap(printable(text), WIDTH, **own)


def headline(best: str | None, why: str) -> str:
    """`best: …`, or why there is none."""
    return f"best: {why}" if best is not None else f"no best: {why}"


def cells_of(table: pd.DataFrame) -> list[list[str]]:
    """The heads and the cells of each scheme, without a forecast where there is none."""
    rows = [list(HEADS), *map(row_cells, table.to_dict("records"))]
    if (table.forecast == "").all():
        rows = [[cell for head, cell in zip(HEADS, row, strict=True) if head != "forecast"] for row in rows]
    return rows


def row_cells(row: dict[Hashable, Any]) -> list[str]:
    """The cells of one scheme."""
    if row["error"]:
        return [row["scheme"], "failed", *["–"] * 4, ""]
    forecast = "–"
    if row["forecast"] == CANNOT_TELL:
        forecast = f"{CANNOT_TELL} (learns {row['converged'] + row['slow']:.0%})"
    elif row["forecast"]:
        forecast = f"{row['forecast']} {row[row['forecast']]:.0%}" + ("" if row["calibrated"] else " ?")
    return [
        row["scheme"],
        f"{row['verdict']} {row['agreeing']}/{row['seeds']}",
        *(factor_text(row[f"{direction}_factor"]) for direction in ("forward", "backward")),
        " ".join(share_text(row[f"{direction}_inside"]) for direction in ("forward", "backward")),
        forecast,
        row["sets"],
    ]


def factor_text(factor: float) -> str:
    """`×0.447`, `–` where there is none."""
    return "–" if factor != factor else f"×{factor:.3g}"


def share_text(share: float) -> str:
    """`96%`, `–` where there is none."""
    return "–" if share != share else f"{share:.0%}"


def troubles(table: pd.DataFrame) -> list[str]:
    """A sentence for each scheme that failed or was not judged healthy."""
    texts = []
    for row in table.to_dict("records"):
        scheme, others = row["scheme"], row["seeds"] - row["agreeing"]
        if row["error"]:
            texts.append(f"`{scheme}` failed: {row['error']}")
        elif row["verdict"] != "healthy":
            texts.append(f"`{scheme}` {row['verdict'].replace('_', ' ')}: {row['reason']}")
        elif others:
            texts.append(f"`{scheme}`: {others} of {row['seeds']} seeds were not judged healthy")
    return texts
