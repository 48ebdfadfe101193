"""One aligned table of text, for every list that a terminal shows."""

from collections.abc import Container, Sequence


def text_table(rows: Sequence[Sequence[str]], right: Container[int] = (), gap: str = "  ") -> list[str]:
    """A line per row, each column as wide as its longest cell; `right` are the indices of columns set to the right.

    `text_table([["net", "depth"], ["vgg-16", "16"]], right={1})` is `net     depth` and `vgg-16     16`.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    form = gap.join(f"{{:{'>' if index in right else '<'}{width}}}" for index, width in enumerate(widths))
    return [form.format(*row).rstrip() for row in rows]
