"""An inspection as text of 100 columns."""

import math
import textwrap
from collections.abc import Sequence

import pandas as pd

from initlab.errors import printable
from initlab.inspection.diagnosis import Diagnosis
from initlab.signal.exponents import exponents_of

WIDTH = 100
# A table of more than LONGEST rows keeps SHOWN at either end.
LONGEST, SHOWN = 40, 18
BETWEEN = "… {} layers between …"
# The table's columns and their heads; `theory` is the median that is predicted, and `basis` what stands behind it.
COLUMNS = {
    **{"layer": "", "name": "layer", "shape": "weight", "fan_in": "fan_in"},
    **{"forward_var": "forward", "forward_predicted": "theory"},
    **{"backward_var": "backward", "backward_predicted": "theory"},
    **{"decay_ratio": "decay", "zero_fraction": "zeros", "basis": "basis", "status": "status"},
}
# Those of two initialisations, A over B.
RATIOS = {
    **{"name": "layer", "weight_ratio": "weight std"},
    **{"forward_ratio": "forward var", "backward_ratio": "backward var, A / B"},
}


def as_text(table: pd.DataFrame, diagnosis: Diagnosis, advice: list[str]) -> str:
    """Verdict, reason, advice and the table, for a terminal."""
    lines = textwrap.wrap(f"{diagnosis.verdict}: {diagnosis.reason}", WIDTH, break_on_hyphens=False)
    for text in advice:
        lines += textwrap.wrap(text, WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
    if table.empty:
        return printable("\n".join(lines))
    lines += ["", *aligned([heads_of(table), *rows_of(table)], left=("layer", "weight", "basis", "status"), cut=1)]
    if len(table) > LONGEST:
        lines.insert(-SHOWN, BETWEEN.format(len(table) - 2 * SHOWN))
    return printable("\n".join(lines))


def aligned(cells: Sequence[Sequence[str]], left: Sequence[str], cut: int) -> list[str]:
    """A line per row, the heads first, of at most `WIDTH` characters, to which the column `cut` gives way.

    It loses the beginnings of what it says, as names of layers keep their ends, or if it is the last column the ends.
    Columns with heads that are `left` are set to the left, others, of numbers, to the right.
    """
    heads = cells[0]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    widths[cut] = max(min(widths[cut], WIDTH - sum(widths) + widths[cut] - 2 * (len(heads) - 1)), len(heads[cut]), 2)
    sides = ["<" if head in left else ">" for head in heads]
    line = "  ".join(f"{{:{side}{width}}}" for side, width in zip(sides, widths, strict=True))
    lines = []
    for row in cells:
        text, room = row[cut], widths[cut] - 1
        if len(text) > widths[cut]:
            text = f"{text[:room]}…" if cut == len(heads) - 1 else f"…{text[-room:]}"
        lines.append(line.format(*row[:cut], text, *row[cut + 1 :]).rstrip())
    return lines


def rows_of(table: pd.DataFrame) -> list[list[str]]:
    """The cells of the rows that are shown."""
    shown = table if len(table) <= LONGEST else pd.concat([table.head(SHOWN), table.tail(SHOWN)])
    return [[cell(value) for value in row] for row in shown[columns_of(table)].itertuples(index=False)]


def columns_of(table: pd.DataFrame) -> list[str]:
    """The columns that are shown: `basis` where anything but theory stands behind a prediction."""
    proven = set(table.get("basis", pd.Series(dtype=str)).dropna()) <= {"theory"}
    return [column for column in COLUMNS if not (proven and column == "basis")]


def heads_of(table: pd.DataFrame) -> list[str]:
    """Their heads."""
    return [COLUMNS[column] for column in columns_of(table)]


def cell(value: object) -> str:
    """`64x3x7x7`, `0.0123`, `–` for what was not measured."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.3g}"
    return str(value)


def ratios_text(table: pd.DataFrame, sentences: Sequence[str]) -> str:
    """Ratios of two initialisations, a line per layer, and what is to be said of them."""
    lines = aligned([list(RATIOS.values()), *ratio_cells(table)], left=("layer",), cut=0)
    return printable("\n".join([*lines, *sentences]))


def ratio_cells(table: pd.DataFrame) -> list[list[str]]:
    """The cells of each layer, a ratio with the digits that show whether it is a power of two."""
    return [
        [str(name), *("–" if math.isnan(ratio) else f"{ratio:.6g}" for ratio in ratios)]
        for name, *ratios in table[list(RATIOS)].itertuples(index=False)
    ]


def trunk_lines(trunk: pd.DataFrame) -> list[str]:
    """A sentence on what the blocks of a trunk do to the angle between tokens and to the gradient; none without one."""
    if trunk.empty:
        return []
    angle, gradient, blocks, angle_spread, gradient_spread = exponents_of(trunk)
    tokens, parts = trunk.attrs["tokens"], []
    if math.isfinite(angle):
        drift = "drift together" if angle < 0 else "drift apart" if angle > 0 else "keep their angles"
        parts.append(f"{tokens} {drift}, 1 - cos {per_block(angle, angle_spread)}")
    if (equal := trunk.block[trunk.distance == 0]).any():
        parts.append(f"all {tokens} of an example are equal behind block {equal.iloc[0]}")
    if not math.isnan(gradient):
        change = "grows" if gradient > 0 else "shrinks" if gradient < 0 else "stays"
        parts.append(f"towards the input the gradient's mean square {change} {per_block(gradient, gradient_spread)}")
    return [f"in the trunk of {blocks} blocks {'; '.join(parts)}"] if parts else []


def per_block(rate: float, spread: float) -> str:
    """A rate as a factor, and the factors of the middle half of the blocks: `×0.89 per block (0.87 to 0.91)`."""
    low, median, high = (f"{math.exp(value):.3g}" for value in (rate - spread, rate, rate + spread))
    return f"×{median} per block" + (f" ({low} to {high})" if low != high else "")
