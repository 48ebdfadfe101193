"""Errors of each class, sorted from the easiest to the hardest, as the paper's figure 6 shows its top-5 errors."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from initlab.errors import UserError
from initlab.plots.legend import add_legend
from initlab.plots.style import LOOKS, canvas, finish, level_lines, percent_axis

COLUMNS = ["class", "name", "images", "val_error", "val_error_top5"]
TOP1, TOP5 = LOOKS["xavier"].color, LOOKS["he"].color
# The most classes whose names still have room.
NAMED = 40


def per_class_table(errors: pd.DataFrame | str | Path) -> pd.DataFrame:
    """One row per class with images, easiest first: rank (from 1), class, name, images, val_error, val_error_top5.

    Sorted by top-1 error, then by top-5 error, then by class; classes without images are left out.

    Args:
        errors: the `per_class` frame of `initlab.evaluate`, or a per_class.csv.

    Raises:
        UserError: no such file, columns that are not there, or no class with images.
    """
    if not isinstance(errors, pd.DataFrame):
        try:
            errors = pd.read_csv(errors)
        # pandas' parser errors are ValueErrors.
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(f"per_class: {errors}: not a readable csv ({reason}); give a per_class.csv") from None
    absent = [column for column in COLUMNS if column not in errors]
    if absent:
        raise UserError(
            f"per_class: columns absent: {', '.join(absent)} (got {', '.join(map(str, errors))}); "
            "give what initlab.evaluate calls per_class, or its per_class.csv"
        )
    order = ["val_error", "val_error_top5", "class"]
    table = errors.loc[errors.images > 0, COLUMNS].sort_values(order, ignore_index=True)
    if table.empty:
        raise UserError(f"per_class: no class with images (got {len(errors)} classes); test on some images")
    table.insert(0, "rank", table.index + 1)
    return table


def per_class(errors: pd.DataFrame | str | Path, ax: Axes | None = None) -> Figure:
    """Draw `per_class_table`: a bar per class of its top-1 error, within it the top-5 error, and the mean over images.

    Args:
        errors: the `per_class` frame of `initlab.evaluate`, or a per_class.csv.
        ax: an Axes to draw into; None makes a figure.

    Raises:
        UserError: as `per_class_table`.
    """
    table = per_class_table(errors)
    bars = {"val_error": ("top-1", TOP1), "val_error_top5": ("top-5", TOP5)}
    # Of up to five classes the top-5 error is always 0.
    if len(table) <= 5:
        del bars["val_error_top5"]
    with canvas("per_class", ax, ["all"], 1, height=2.8) as grid:
        (axes,) = grid.axes
        handles: list[Line2D] = []
        for column, (name, color) in bars.items():
            axes.bar(table["rank"], table[column], width=0.8 if len(table) <= NAMED else 1.0, color=color, label=name)
            mean = (table[column] * table.images).sum() / table.images.sum()
            handles.append(Line2D([], [], color=color, linewidth=6, label=f"{name}: {100 * mean:.1f} % on average"))
            level_lines(axes, [mean], "", labelled=False)
        finish(axes, "", "class, easiest first" if len(table) <= NAMED else "classes, easiest first", "error (%)")
        axes.set_xlim(0.2, len(table) + 0.8)
        percent_axis(axes, 0.0, float(table.val_error.max()))
        if len(table) <= NAMED:
            names = table["name"].astype(str)
            axes.set_xticks(table["rank"], names, rotation=0 if names.str.len().max() < 4 else 90)
        note = f"{len(table)} classes, {table.images.sum():,} images; dotted: the mean over images"
        add_legend(grid, handles, note)
    return grid.figure
