"""Loss after training against the two exponents of the trunk at the start, a point per trial (Cowsik et al. 2024)."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from initlab.analysis.panels import DEPTH
from initlab.errors import UserError
from initlab.plots.legend import add_legend
from initlab.plots.style import GREY, Target, canvas, finish

NORM = "net.norm"
# Name, colour and marker of each; they differ in lightness too.
NORMS = {"none": ("no norm", "#7A0C1E", "o"), "post": ("post-LN", "#D99A00", "^"), "pre": ("pre-LN", "#2F86CC", "s")}
XLABELS = {
    "angle": "angle exponent\n(ln of 1 − cos, per block)",
    "gradient": "gradient exponent\n(ln of its mean square, per block towards the input)",
}
# Around 0 an axis is linear so far, and beyond it a logarithm.
LINEAR = {"angle": 0.01, "gradient": 0.1}


def exponents(table: pd.DataFrame, ax: Target = None) -> Figure:
    """Draw the loss against the angle exponent (left) and the gradient exponent (right); the deepest nets are filled.

    Trials of an infinite or unknown exponent are left out.

    Args:
        table: a row per trial with net.norm, net.depth, loss, chance, angle and gradient.
        ax: two Axes (angle, gradient); None makes a figure.

    Raises:
        UserError: another number of axes, or no trial.
    """
    if table.empty:
        raise UserError("plot: no trial to draw (got an empty table of exponents)")
    deepest = table[DEPTH].max()
    with canvas("exponents", ax, list(XLABELS), columns=2, height=2.9, sharey=True) as grid:
        for name, axes in zip(XLABELS, grid.axes, strict=True):
            for (norm, depth), part in table.groupby([NORM, DEPTH]):
                style = points(*NORMS[str(norm)][1:], filled=depth == deepest)
                axes.plot(part[name], part.loss, **style, markersize=4.5, label=f"{norm} {depth}")
            axes.axvline(0, color=GREY, linewidth=0.8, zorder=1.5, label="_zero")
            axes.axhline(table.chance.max(), color=GREY, linestyle=":", linewidth=1.0, zorder=1.5, label="_chance")
            axes.set_xscale("symlog", linthresh=LINEAR[name])
            known = table[name][np.isfinite(table[name])]
            axes.set_xlim(*(1.5 * edge + side * LINEAR[name] for edge, side in ((known.min(), -1), (known.max(), 1))))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            finish(axes, "", XLABELS[name], "loss at the end (nats per token)" if axes in grid.row_starts else None)
        handles = [
            Line2D([], [], **points(color, marker, filled=True), label=label)
            for norm, (label, color, marker) in NORMS.items()
            if (table[NORM] == norm).any()
        ]
        for depth in sorted(table[DEPTH].unique()):
            filled = depth == deepest
            handles.append(Line2D([], [], **points(GREY, "D", filled), label=f"{depth} blocks"))
        handles.append(Line2D([], [], color=GREY, linestyle=":", label="equal odds for all tokens, or worse"))
        add_legend(grid, handles, f"{len(table)} trials; exponents before the first step")
    return grid.figure


def points(color: str, marker: str, filled: bool) -> dict[str, Any]:
    """Markers without a line, filled or open."""
    return {"color": color, "marker": marker, "markerfacecolor": color if filled else "none", "linestyle": "none"}
