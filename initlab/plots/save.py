"""Write figures to files: NAME.png, NAME.svg or NAME.pdf, and NAME.csv with what is drawn; same results, same bytes."""

from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Literal

import pandas as pd
from matplotlib.figure import Figure

from initlab.analysis.panels import DEPTH, NotStudied, Shown, as_list
from initlab.errors import UserError
from initlab.plots.convergence import beside_paper_table, convergence, convergence_table
from initlab.plots.decay import decay, decay_table
from initlab.plots.depth import depth, depth_table
from initlab.plots.effects import effects, effects_table
from initlab.plots.heatmap import heatmap, heatmap_table
from initlab.plots.phase import phase, phase_table
from initlab.plots.prelu import prelu, prelu_table
from initlab.plots.propagation import propagation, propagation_table
from initlab.plots.running import running, running_table
from initlab.plots.signals import signals, signals_table, theory_beside_table
from initlab.plots.style import Width, styled
from initlab.plots.survival import survival, survival_table
from initlab.store.files import atomic, writable, write_csv

FIGURES: dict[str, tuple[Callable[[Shown], pd.DataFrame], Callable[..., Figure]]] = {
    "convergence": (convergence_table, convergence),
    "survival": (survival_table, survival),
    "effects": (effects_table, effects),
    "signals": (signals_table, signals),
    "propagation": (propagation_table, propagation),
    "running": (running_table, running),
    "theory": (theory_beside_table, partial(signals, theory=True)),
    "depth": (depth_table, depth),
    "prelu": (prelu_table, prelu),
    "phase": (phase_table, phase),
    "heatmap": (heatmap_table, heatmap),
    "decay": (decay_table, decay),
    "paper": (beside_paper_table, partial(convergence, paper=True)),
}
# Theory needs torch and time, the paper's curves are convergence with more panels, the heat map is signals with more
# epochs, and decay is for a question that not everybody has.
ON_REQUEST = ("theory", "paper", "heatmap", "decay")
DPI = 200
Form = Literal["png", "svg", "pdf"]
FORMS: tuple[Form, ...] = ("png", "svg", "pdf")
# Same figure, same bytes: no date in the file.
METADATA: dict[Form, dict[str, None]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}


def save_figures(
    results: Shown,
    names: Sequence[str] | None = None,
    folder: str | Path | None = None,
    say: Callable[[str], object] = print,
    *,
    width: Width | None = None,
    forms: Sequence[Form] = ("png", "svg"),
) -> list[Path]:
    """Write figures as NAME.png, NAME.svg and NAME.csv; returns the paths written.

    Args:
        results: one Results, or a sequence whose trials are shown together.
        names: which of `FIGURES`; None takes all but `ON_REQUEST` for which there is something to draw: depth only for
            several depths, phase only for several standard deviations, prelu only where a net learned its slopes,
            running only where a trial has running moments, effects only where a scheme reaches the threshold.
        folder: where to; None is OUT/figures of the Results (one must be given for several).
        say: takes a line about each figure left out, unless the study has nothing that the figure is about.
        width: of the figures, a paper's "column" (3.25 in) or its "text" (6.75 in); None is as wide as each needs.
        forms: of the pictures: png, svg, pdf. The text in svg and pdf is text, in pdf with its font.

    Raises:
        UserError: an unknown name, form or width, no folder for several Results, or nothing to draw; nothing is
                written then.
    """
    allowed = f"allowed: {', '.join(FIGURES)}"
    if names is not None and not names:
        raise UserError(f"plot: no figure to draw (got an empty list of names); {allowed}")
    for name in names or ():
        if name not in FIGURES:
            raise UserError(f"plot: unknown figure (got {name!r}); {allowed}")
    for form in forms:
        if form not in FORMS:
            raise UserError(f"plot: unknown form (got {form!r}); allowed: {', '.join(FORMS)}")
    several = as_list(results)
    if folder is None and len(several) > 1:
        raise UserError(f"plot: no folder for figures of {len(several)} studies (got None); give folder=")
    figures, reasons = drawn(results, names, width)
    if not figures:
        raise reasons[0]
    for reason in reasons:
        say(str(reason))
    target = Path(folder) if folder is not None else several[0].figures
    with writable(target):
        target.mkdir(parents=True, exist_ok=True)
        return [path for name, (table, figure) in figures.items() for path in write(target, name, table, figure, forms)]


def drawn(
    results: Shown, names: Sequence[str] | None = None, width: Width | None = None
) -> tuple[dict[str, tuple[pd.DataFrame, Figure]], list[UserError]]:
    """Each of these figures with its table, as `save_figures` chooses them; and why others are left out.

    What the study has nothing of goes unmentioned, unless there is no figure at all.

    Raises:
        UserError: one of `names` has nothing to draw.
    """
    figures: dict[str, tuple[pd.DataFrame, Figure]] = {}
    reasons: list[UserError] = []
    for name in [name for name in FIGURES if name not in ON_REQUEST] if names is None else names:
        make_table, draw = FIGURES[name]
        try:
            table = make_table(results)
            if name == "depth" and names is None and table[DEPTH].nunique() == 1:
                only = table[DEPTH].iloc[0]
                raise NotStudied(f"plot: no depth figure of one depth (got {only}); ask for it by name to have it")
            figures[name] = (table, draw(results, width=width))
        except UserError as error:
            if names is not None:
                raise
            reasons.append(error)
    return figures, [one for one in reasons if not figures or not isinstance(one, NotStudied)]


def picture(figure: Figure, form: Form) -> bytes:
    """A figure as the content of a file; same figure, same bytes."""
    file = BytesIO()
    # Some settings, as the salt of an SVG's ids, count when a figure is saved.
    with styled():
        figure.savefig(file, format=form, dpi=DPI, metadata=METADATA[form])
    return file.getvalue()


def write(
    folder: Path, name: str, table: pd.DataFrame, figure: Figure, forms: Sequence[Form] = ("png", "svg")
) -> list[Path]:
    """The files of one figure, its pictures and the csv, each renamed into place whole."""
    paths = [folder / f"{name}.{form}" for form in forms]
    for path, form in zip(paths, forms, strict=True):
        with atomic(path, sync=False) as file:
            file.write(picture(figure, form))
    csv = folder / f"{name}.csv"
    write_csv(csv, table)
    return [*paths, csv]
