"""What `initlab tail` prints: the rows of a trial's scalars, and new ones as they are written."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from initlab.engine.task import State
from initlab.store import files
from initlab.store.files import StoreError, read_lines
from initlab.store.rows import unvouched
from initlab.store.trial_folder import TrialFolder

POLL_S = 0.5
COLUMNS = {"step": "d", "epoch": ".2f", "train_loss": ".4f", "train_error": ".3f", "val_error": ".3f", "lr": ".2g"}
WIDTH = 12


def tail_lines(out: Path, prefix: str | None = None, last: int = 10, follow: bool = True) -> Iterator[str]:
    """A header, the last rows, then those to come until the trial ends or nothing runs in the folder.

    Args:
        prefix: the beginning of the trial's id; None is the trial that was heard of last.
        last: rows that are shown of those already there.

    Raises:
        StoreError: no such trial, or several.
    """
    folder = chosen_trial(out, prefix)
    yield f"{folder.id}: {folder.status()['state']}"
    yield "".join(name.rjust(WIDTH) for name in COLUMNS)
    shown = None
    while True:
        # Looked at before the rows, so that the last ones are not missed.
        going_on = follow and State(folder.status()["state"]) == State.RUNNING and folder.is_at_work
        attempts = folder.attempts()
        path = attempts[-1] / files.SCALARS if attempts else None
        rows = read_lines(path, unvouched(path)) if path else []
        # A new attempt begins its file anew.
        shown = max(0, len(rows) - last) if shown is None or shown > len(rows) else shown
        for row in rows[shown:]:
            yield "".join(cell(row.get(name), form).rjust(WIDTH) for name, form in COLUMNS.items())
        shown = len(rows)
        if not going_on:
            return
        time.sleep(POLL_S)


def cell(value: Any, form: str) -> str:
    """A figure, `–` where a row has none."""
    number = isinstance(value, (int, float)) and value == value
    return format(value, form) if number else "–"


def chosen_trial(out: Path, prefix: str | None) -> TrialFolder:
    """The trial whose id begins so, or the one that was heard of last."""
    folders = [folder for folder in TrialFolder.all_in(out) if folder.id.startswith(prefix or "t")]
    if prefix is None:
        folders.sort(key=lambda folder: folder.status_file.stat().st_mtime if folder.status_file.exists() else 0.0)
        folders = folders[-1:]
    if len(folders) != 1:
        what = f"{len(folders)} trials begin so" if folders else "no trial has begun" + " of that id" * bool(prefix)
        raise StoreError(f"{out}: {what} (got {prefix or 'no TRIAL'}); give an id that `initlab status --trials` lists")
    return folders[0]
