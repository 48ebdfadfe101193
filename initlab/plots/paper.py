"""Figures 2 and 3 of He et al. (2015) as panels of their own, beside ours of the same depth.

Their error falls from 99.9 to 79 % over ten epochs of ImageNet at most, where ours go from 90 % to a few per cent over
hundreds of times fewer images: no common axis shows both.
"""

from collections.abc import Iterable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from initlab.analysis.panels import DEPTH, SCHEME
from initlab.data.facts import FACTS
from initlab.errors import UserError
from initlab.paper.curves import BY_DEPTH, CHANCE, PaperFigure, curve, length
from initlab.plots.style import LOOKS, finish, level_lines, percent_axis


def paper_panels(table: pd.DataFrame, quantity: str) -> dict[str, PaperFigure]:
    """The figure to lay beside each of the table's panels that has one.

    Raises:
        UserError: another quantity than the paper drew, or no panel of a depth that it drew.
    """
    if quantity != "val_error":
        raise UserError(f"convergence: the paper's curves are validation errors (got {quantity}); take val_error")
    depths = dict(zip(table.panel, table[DEPTH], strict=True))
    figures = {panel: BY_DEPTH[int(depth)] for panel, depth in depths.items() if depth in BY_DEPTH}
    if not figures:
        got = ", ".join(str(depth) for depth in sorted(set(depths.values())))
        raise UserError(f"convergence: the paper has no curve of this depth (got {got}); allowed: 22, 30")
    return figures


def paper_title(figure: PaperFigure) -> str:
    """`He et al. 2015, Fig 2, digitised`."""
    return f"He et al. 2015, {figure.name}, digitised"


def paper_points(figures: Iterable[PaperFigure]) -> pd.DataFrame:
    """The points of these figures under the names of `convergence_table`, each figure once."""
    parts = [
        curve(figure, scheme)
        .rename(columns={"top1_error": "val_error"})
        .assign(panel=paper_title(figure), chance=CHANCE, **{DEPTH: figure.depth, SCHEME: scheme})
        for figure in dict.fromkeys(figures)
        for scheme in ("he", "xavier")
    ]
    return pd.concat(parts, ignore_index=True)


def epoch_name(part: pd.DataFrame) -> str:
    """What to call the epochs of a panel of ours: by their share of ImageNet's, where all its trials have the same."""
    sizes = part.train_examples.dropna().unique()
    share = f" (1 has {sizes[0] / FACTS['imagenet'].train:.2g} of ImageNet's images)" if len(sizes) == 1 else ""
    return f"epoch{share}"


def draw_paper(ax: Axes, figure: PaperFigure) -> None:
    """The figure's two curves, thin, in the looks of their schemes, on axes of their own."""
    curves = {scheme: curve(figure, scheme) for scheme in ("he", "xavier")}
    for scheme, points in curves.items():
        style = {**LOOKS[scheme].style, "marker": "", "linewidth": 0.9}
        ax.plot(points.epoch, points.top1_error, **style, label=f"paper, {scheme}")
    finish(ax, paper_title(figure), "epoch of ImageNet", None)
    level_lines(ax, [CHANCE], "chance", labelled=True)
    percent_axis(ax, float(min(points.top1_error.min() for points in curves.values())), CHANCE)
    ax.set_xlim(0, length(figure))
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
