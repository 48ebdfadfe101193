"""The convergence curves of He et al. (2015), figures 2 and 3, and when they reach a level.

`fig2_fig3_digitised.csv` has the vertices of the drawn lines, read from the vector paths of arXiv 1502.01852 v1: right
to 0.001 in error and 0.007 (fig 2) or 0.02 (fig 3) in epochs. Each point is the error on 3,000 validation images, so
its sampling noise is larger, up to 0.007; times to a level therefore go by local means.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

CURVES = Path(__file__).with_name("fig2_fig3_digitised.csv")
# Of 1000 classes.
CHANCE = 0.999
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PaperFigure:
    """One of the two figures; lengths in epochs."""

    number: int
    net: str
    depth: int  # weight layers
    spacing: float  # from one evaluation to the next
    window: float  # on either side, of a local mean
    levels: tuple[float, ...]  # errors at which times are compared

    @property
    def name(self) -> str:
        """`Fig 2`."""
        return f"Fig {self.number}"


PAPER_FIGURES = {
    "fig2": PaperFigure(2, "B", 22, 0.02996, 0.075, (0.99, 0.98, 0.95, 0.90, 0.87)),
    "fig3": PaperFigure(3, "small-30", 30, 0.0408, 0.15, (0.99, 0.98, 0.95, 0.90, 0.87, 0.85, 0.80)),
}
BY_DEPTH = {figure.depth: figure for figure in PAPER_FIGURES.values()}


@lru_cache(maxsize=1)
def digitised() -> pd.DataFrame:
    """All vertices: figure (2, 3), init (`he`, `xavier`), epoch, top1_error (a fraction); 684 rows."""
    return pd.read_csv(CURVES)


def curve(figure: PaperFigure, init: str) -> pd.DataFrame:
    """The vertices of one line: epoch and top1_error."""
    table = digitised()
    rows = table[(table.figure == figure.number) & (table.init == init)]
    return rows[["epoch", "top1_error"]].reset_index(drop=True)


def time_to(figure: PaperFigure, init: str, level: float) -> float:
    """Epoch at which the mean over `figure.window` on either side first falls below `level`; infinite where it doesn't.

    Evaluations that lie on a straight stretch have no vertex; interpolation restores them. He reaches 0.90 in figure 2
    at 1.67, Xavier at 2.45.
    """
    drawn = curve(figure, init)
    x = drawn.epoch.to_numpy(dtype=float)
    epochs = np.arange(x[0], x[-1], figure.spacing)
    errors = np.interp(epochs, x, drawn.top1_error.to_numpy(dtype=float))
    below = np.flatnonzero(local_means(epochs, errors, figure.window) < level)
    return float(epochs[below[0]]) if len(below) else math.inf


def local_means(x: Floats, y: Floats, window: float) -> Floats:
    """Mean of the y whose x is within `window` of each x."""
    return np.array([y[np.abs(x - centre) <= window].mean() for centre in x])


def length(figure: PaperFigure) -> float:
    """The last epoch drawn."""
    return float(curve(figure, "he").epoch.iloc[-1])
