"""The look of the figures: the style sheet, a line style per scheme, axes and reference lines.

A scheme differs from the others in colour, line and marker together, so that it survives a grey print and colour
blindness. Figures are made without pyplot: the user's settings and current figure stay as they are.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import rcParams, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import Transform

from initlab.errors import UserError

SHEET = Path(__file__).with_name("initlab.mplstyle")
Width = Literal["column", "text"]
# Inches. A column of a paper in two columns (ICML, CVPR, ACL: 3.25 in; IEEE 3.5), and its text over both (6.75 to 7);
# of papers in one column, NeurIPS and ICLR have 5.5 in, JMLR 6: there "text" is scaled down, 8 pt to 6.5 or 7.
WIDTHS: dict[Width, float] = {"column": 3.25, "text": 6.75}
GREY = "#6B6B6B"
# Opacity of a range.
BAND = 0.16
Target = Axes | Sequence[Axes] | np.ndarray[Any, Any] | None


@dataclass(frozen=True)
class Look:
    """How one scheme is drawn; `line` is matplotlib's name or (offset, dashes)."""

    color: str
    line: Any
    marker: str

    @property
    def style(self) -> dict[str, Any]:
        """The arguments of `Axes.plot` that draw a line in this look."""
        return {"color": self.color, "linestyle": self.line, "marker": self.marker}


# He and Xavier are as in the paper's figures 2 and 3; neighbours differ in lightness too.
LOOKS = {
    "he": Look("#B5122B", "-", "o"),
    "xavier": Look("#2F86CC", "--", "s"),
    "gaussian": Look("#D99A00", "-.", "^"),
    "orthogonal": Look("#5B3A8E", ":", "D"),
    "lsuv": Look("#2A9D78", (0, (8, 1.5)), "v"),
}
SPARE = [
    Look("#333333", "-", "P"),
    Look("#C45BAA", "--", "X"),
    Look("#7A5C3A", "-.", "<"),
    Look("#4FA7C9", ":", ">"),
    Look("#8A9A2B", "-", "h"),
    Look("#1F5F5B", (0, (3, 1, 1, 1)), "p"),
    Look("#E58B6B", (0, (5, 3)), "*"),
]


def looks(schemes: Iterable[str]) -> dict[str, Look]:
    """A look per scheme, in the order given, which is the study's; a known scheme has the same one in every figure."""
    present = dict.fromkeys(schemes)
    # When the spare ones run out, those of known schemes that are not in the figure.
    free = itertools.cycle([*SPARE, *(look for scheme, look in LOOKS.items() if scheme not in present)])
    return {scheme: LOOKS.get(scheme) or next(free) for scheme in present}


class CellFigure(Figure):
    """A Figure that shows itself as the value of a notebook's cell, without `%matplotlib inline` too."""

    def savefig(self, fname: Any, **options: Any) -> None:
        """As matplotlib's, in our style, of which fonts and ids in a file count only now."""
        with styled():
            super().savefig(fname, **options)

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        self.savefig(file, format="png", dpi=self.dpi)
        return file.getvalue()


def styled() -> AbstractContextManager[None]:
    """A context in which matplotlib draws in our style; the user's settings come back after it."""
    return style.context(["default", SHEET])


@dataclass(frozen=True)
class Canvas:
    """The axes to draw into, row by row; `owned` where the figure is ours and not the user's."""

    figure: Figure
    axes: list[Axes]
    columns: int
    owned: bool

    @property
    def row_starts(self) -> list[Axes]:
        """The axes with nothing to their left."""
        return self.axes[:: self.columns]

    @property
    def row_ends(self) -> list[Axes]:
        """The axes with nothing to their right."""
        return [ax for i, ax in enumerate(self.axes) if (i + 1) % self.columns == 0 or i + 1 == len(self.axes)]


@contextmanager
def canvas(
    figure: str,
    ax: Target,
    titles: Sequence[str],
    columns: int,
    height: float,
    sharey: bool = False,
    width: Width | None = None,
    narrow: int = 1,
) -> Iterator[Canvas]:
    """In our style, axes for panels of these titles: the user's `ax`, or a new figure with rows `height` inches high.

    It is as wide as `width` says, `narrow` panels beside each other in a column; None is the text's width, and less
    for a single panel.

    Raises:
        UserError: `ax` does not hold one Axes per panel, or an unknown width.
    """
    if width not in (None, *WIDTHS):
        raise UserError(f"{figure}: unknown width (got {width!r}); allowed: {', '.join(WIDTHS)}")
    count = len(titles)
    if ax is not None:
        user_axes = [ax] if isinstance(ax, Axes) else list(np.ravel(np.asarray(ax, dtype=object)))
        if len(user_axes) != count or not all(isinstance(one, Axes) for one in user_axes):
            got = f"{len(user_axes)} for {count}: " + ", ".join(title.replace("\n", ", ") for title in titles)
            raise UserError(f"{figure}: ax: one Axes per panel (got {got}); give {count}")
        root = user_axes[0].get_figure(root=True)
        assert root is not None
        with styled():
            yield Canvas(root, user_axes, columns=1, owned=False)
        return
    columns = min(narrow if width == "column" else columns, count)
    rows = -(-count // columns)
    inches = WIDTHS[width] if width else 6.75 if columns > 1 else 4.6
    with styled():
        new = CellFigure(figsize=(inches, rows * height + 0.6), layout="constrained")
        axes = list(new.subplots(rows, columns, sharey=sharey, squeeze=False).ravel())
        for spare in axes[count:]:
            spare.remove()
        yield Canvas(new, axes[:count], columns, owned=True)


def finish(ax: Axes, title: str, xlabel: str, ylabel: str | None) -> None:
    """Title and axis names; ticks and grid are set here because matplotlib makes them later, outside our style."""
    ax.set_title(title)
    ax.set_xlabel(xlabel)
    if ylabel:
        ax.set_ylabel(ylabel)
    settings: Any = rcParams
    ticks = {name: settings[f"xtick.{name}"] for name in ("labelsize", "color", "labelcolor")}
    ax.tick_params(length=settings["xtick.major.size"], width=settings["xtick.major.width"], **ticks)
    ax.grid(True, axis="y", color=rcParams["grid.color"], linewidth=rcParams["grid.linewidth"])


def frame_numbers(ax: Axes, last: int) -> None:
    """A layer axis from 1 to `last`, few numbers named."""
    ax.set_xlim(0.2, last + 0.8)
    every = next(every for every in (1, 5, 10, 20, 50, 100, 200) if last / every <= 10)
    ax.set_xticks(sorted({1, *range(every, last + 1, every)}))


def percent_axis(ax: Axes, lowest: float, highest: float, room: float = 0.0) -> None:
    """An error axis in percent over data that are fractions: 0 to 100 unless all errors are close together.

    Errors above 1, as regression has them where it is worse than the mean, are shown up to 200 %. `room` is left free
    at the top, as a fraction of the errors' range.
    """
    low, high = (0.0, min(max(1.0, highest), 2.0)) if highest - lowest > 0.4 else (lowest, highest)
    if low < 0.5 * high:
        low = 0.0
    span = (high - low) or 0.1
    margin = 0.02 if (low, high) == (0.0, 1.0) else 0.06
    bottom, top = low - margin * span, high + margin * span
    ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    ax.set_yticks([tick for tick in ticks if bottom <= tick <= min(top, max(1.0, high))])
    ax.set_ylim(bottom, max(top, high + room * span))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 * error:g}"))


def draw_band(ax: Axes, x: pd.Series, low: pd.Series, high: pd.Series, color: str, opacity: float = 1.0) -> None:
    """A range as a pale band, which the lines over it shine through."""
    ax.fill_between(x, low, high, color=color, alpha=BAND * opacity, linewidth=0)


def level_lines(ax: Axes, values: Iterable[float], name: str, labelled: bool) -> None:
    """Thin dotted lines across the panel at each value but NaN, the name in the right margin where no curve comes."""
    for value in pd.Series(values).dropna().unique():
        ax.axhline(value, color=GREY, linestyle=":", linewidth=1.0, zorder=1.5, label=f"_{name}")
        if labelled:
            margin_text(ax, name, value, "data")


def margin_text(ax: Axes, text: str, y: float, coordinates: str) -> None:
    """A word in the right margin of a panel; one outside the panel takes no room."""
    at: dict[str, Any] = {"xycoords": ("axes fraction", coordinates), "xytext": (4, 0), "textcoords": "offset points"}
    ax.annotate(text, xy=(1, y), **at, va="center", color=GREY, fontsize=7, annotation_clip=True)


def crosses(ax: Axes, x: Any, y: Any, look: Look, label: str, transform: Transform) -> None:
    """The × that mark diverged trials, above all else; none where x is empty."""
    if len(x):
        style: dict[str, Any] = {"linestyle": "none", "marker": "x", "markersize": 5.5, "markeredgewidth": 1.5}
        ax.plot(x, y, color=look.color, **style, zorder=4, label=label, transform=transform, clip_on=False)
