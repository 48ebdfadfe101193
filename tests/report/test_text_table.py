"""The one text table: widths and sides by hand."""

from initlab.report.text_table import text_table


def test_columns_are_as_wide_as_their_longest_cell_and_lines_end_with_text() -> None:
    rows = [["net", "depth", ""], ["vgg-16", "16", "the paper's"]]
    assert text_table(rows) == ["net     depth", "vgg-16  16     the paper's"]
    assert text_table(rows, right={1}, gap=" ") == ["net    depth", "vgg-16    16 the paper's"]
    assert text_table(rows, right=range(3)) == ["   net  depth", "vgg-16     16  the paper's"]


def test_no_rows_are_no_lines() -> None:
    assert text_table([]) == []
