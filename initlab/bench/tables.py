"""The tables that benches leave, read back."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from initlab.errors import UserError


def read_table(path: Path, columns: Iterable[str], bench: str, what: str, name: str) -> pd.DataFrame:
    """The table that `initlab bench BENCH` left, of `what`, in a file called `name`.

    Raises:
        UserError: it cannot be read, or lacks one of the columns.
    """
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give what `initlab bench {bench}` left") from None
    if absent := set(columns) - set(table):
        raise UserError(f"{path}: no table of {what} (lacks {', '.join(sorted(absent))}); give {name}")
    return table
