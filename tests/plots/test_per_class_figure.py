"""Errors per class: sorted as counted by hand, drawn as the table says, from a frame or its csv."""

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from initlab.errors import UserError
from initlab.plots import per_class, per_class_table


def errors(**changes: list[float]) -> pd.DataFrame:
    """Seven classes; class 2 has no images, and 1 and 5 share their top-1 error."""
    columns = {
        "class": [0, 1, 2, 3, 4, 5, 6],
        "name": ["ant", "bee", "cat", "dog", "elk", "fox", "gnu"],
        "images": [10, 10, 0, 20, 10, 10, 10],
        "val_error": [0.9, 0.2, float("nan"), 0.5, 0.1, 0.2, 0.0],
        "val_error_top5": [0.3, 0.2, float("nan"), 0.1, 0.0, 0.1, 0.0],
        **changes,
    }
    return pd.DataFrame(columns)


def test_classes_are_sorted_and_those_without_images_left_out(tmp_path: Path) -> None:
    table = per_class_table(errors())
    assert table["class"].tolist() == [6, 4, 5, 1, 3, 0]
    assert table["rank"].tolist() == [1, 2, 3, 4, 5, 6]
    assert table.val_error.tolist() == [0.0, 0.1, 0.2, 0.2, 0.5, 0.9]
    errors().to_csv(tmp_path / "per_class.csv", index=False)
    pd.testing.assert_frame_equal(per_class_table(tmp_path / "per_class.csv"), table)
    table.to_csv(tmp_path / "drawn.csv", index=False)  # what the figure writes can be drawn again
    pd.testing.assert_frame_equal(per_class_table(tmp_path / "drawn.csv"), table)


def test_bars_hold_the_table_and_the_legend_the_means() -> None:
    table, figure = per_class_table(errors()), per_class(errors())
    (ax,) = figure.axes
    top1, top5 = ([bar.get_height() for bar in bars] for bars in ax.containers)
    assert (top1, top5) == (table.val_error.tolist(), table.val_error_top5.tolist())
    assert [text.get_text() for text in ax.get_xticklabels()] == ["gnu", "elk", "fox", "bee", "dog", "ant"]
    # By hand: (9 + 2 + 10 + 1 + 2 + 0) / 70 and (3 + 2 + 2 + 0 + 1 + 0) / 70.
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["top-1: 34.3 % on average", "top-5: 11.4 % on average"]


def test_top_5_of_five_classes_is_not_drawn_and_a_users_axes_is_used() -> None:
    ax = Figure().subplots()
    figure = per_class(errors().iloc[3:], ax=ax)
    assert figure is ax.get_figure() and len(ax.containers) == 1


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a readable csv"):
        per_class_table(tmp_path / "absent.csv")
    with pytest.raises(UserError, match=r"columns absent: images \(got class, name, val_error, val_error_top5\)"):
        per_class_table(errors().drop(columns="images"))
    with pytest.raises(UserError, match="no class with images"):
        per_class(errors(images=[0] * 7))
