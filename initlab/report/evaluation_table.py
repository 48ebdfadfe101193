"""What `initlab evaluate` prints: the errors of each checkpoint at each scale, as fractions."""

import pandas as pd

from initlab.report.text_table import text_table

ERRORS = ["val_error", "val_error_top5"]


def evaluation_lines(table: pd.DataFrame) -> list[str]:
    """A line per row of the table of `initlab.evaluate`; images and errors are set to the right."""
    texts = table.assign(**{name: table[name].map("{:.4f}".format) for name in ERRORS}).astype(object)
    rows = texts.where(texts.notna(), "–").astype(str).to_numpy().tolist()
    return text_table([[*map(str, texts)], *rows], right=range(texts.shape[1] - 3, texts.shape[1]))
