"""An inspection as text of 100 columns and as HTML for a notebook, light or dark."""

import math
import textwrap
from html import escape

import pandas as pd

WIDTH = 100
# A table of more than LONGEST rows keeps SHOWN at either end.
LONGEST, SHOWN = 40, 18
# The table's columns and their heads; `theory` is the median that is predicted.
COLUMNS = {
    "layer": "",
    "name": "layer",
    "shape": "weight",
    "fan_in": "fan_in",
    "forward_var": "forward",
    "forward_predicted": "theory",
    "backward_var": "backward",
    "backward_predicted": "theory",
    "decay_ratio": "decay",
    "zero_fraction": "zeros",
    "status": "status",
}
HEADS = list(COLUMNS.values())
# Mid-tones, legible on white and on black.
COLOURS = {
    "vanishing": "#4a8fd6",
    "exploding": "#e0584f",
    "nonfinite": "#e0584f",
    "dead": "#8d8d8d",
    "uneven": "#c08a1e",
    "saturated": "#c08a1e",
    "healthy": "#3f9d63",
}


def as_text(table: pd.DataFrame, verdict: str, reason: str, advice: list[str]) -> str:
    """Verdict, reason, advice and the table, for a terminal."""
    lines = textwrap.wrap(f"{verdict}: {reason}", WIDTH, break_on_hyphens=False)
    for text in advice:
        lines += textwrap.wrap(text, WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
    if table.empty:
        return "\n".join(lines)
    cells = [HEADS, *rows_of(table)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEADS))]
    widths[1] = min(widths[1], WIDTH - sum(widths) + widths[1] - 2 * (len(HEADS) - 1))
    lines += ["", *(line(row, widths) for row in cells)]
    if len(table) > LONGEST:
        lines.insert(-SHOWN, f"… {len(table) - 2 * SHOWN} layers between …")
    return "\n".join(lines)


def line(row: list[str], widths: list[int]) -> str:
    """One line of the table: names and shapes to the left, numbers to the right."""
    name = row[1] if len(row[1]) <= widths[1] else "…" + row[1][1 - widths[1] :]
    cells = [row[0], name, *row[2:]]
    return "  ".join(
        cell.ljust(width) if HEADS[i] in ("layer", "weight", "status") else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ).rstrip()


def rows_of(table: pd.DataFrame) -> list[list[str]]:
    """The cells of the rows that are shown."""
    shown = table if len(table) <= LONGEST else pd.concat([table.head(SHOWN), table.tail(SHOWN)])
    return [[cell(value) for value in row] for row in shown[list(COLUMNS)].itertuples(index=False)]


def cell(value: object) -> str:
    """`64x3x7x7`, `0.0123`, `–` for what was not measured."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.3g}"
    return str(value)


def as_html(table: pd.DataFrame, verdict: str, reason: str, advice: list[str]) -> str:
    """The same for a notebook; text and lines take the page's own colour."""
    head = "".join(f"<th>{escape(name)}</th>" for name in HEADS)
    rows = [html_row(row) for row in rows_of(table)]
    if len(table) > LONGEST:
        between = f"… {len(table) - 2 * SHOWN} layers between …"
        rows.insert(SHOWN, f'<tr><td colspan="{len(HEADS)}" style="text-align:center">{between}</td></tr>')
    advised = "".join(f"<li>{code(text)}</li>" for text in advice)
    return (
        f'<div style="color:inherit"><p><b style="color:{COLOURS[verdict]}">{escape(verdict)}</b>: {code(reason)}</p>'
        + (f"<ul>{advised}</ul>" if advice else "")
        + f'<table style="color:inherit;background:transparent"><thead><tr>{head}</tr></thead>'
        + f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def html_row(row: list[str]) -> str:
    """One row, its status in the colour of its word."""
    colour = COLOURS.get(row[-1], "inherit")
    plain = "".join(f"<td>{escape(value)}</td>" for value in row[:-1])
    return f'<tr>{plain}<td style="color:{colour}">{escape(row[-1])}</td></tr>'


def code(text: str) -> str:
    """What stands between backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))
