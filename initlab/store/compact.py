"""`initlab compact`: the rows of finished trials into few files, at any moment, also while a study runs.

A trial that is begun anew meanwhile has a new attempt, with files of its own. Killed anywhere, the next call goes on.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa

from initlab.engine.lease import lease
from initlab.store import files
from initlab.store.checksums import MERGED, merged_in
from initlab.store.merged import Key, remove_left_over, remove_own, write_batch
from initlab.store.reader import StoredTrial
from initlab.store.rows import ROWS, attempt_table, system_memory
from initlab.store.studies import load


def compact(out: Path) -> Iterator[str]:
    """Merge the rows of finished trials that are whole; yields what was done, a line each.

    Raises:
        Held: another `compact` is at work on the same folder.
        StoreError: no output folder.
    """
    results = load(out)
    with files.writable(out / MERGED), ExitStack() as held:
        (out / MERGED).mkdir(exist_ok=True)
        held.enter_context(lease(out / MERGED))
        held.enter_context(system_memory())
        remove_left_over(out)
        finished = [trial for trial in results.stored if trial.result and trial.counted]
        todo = [trial for trial in finished if not is_merged(out, trial)]
        whole = [trial for trial in todo if not list(damages(trial))]
        if whole:
            yield f"{write_batch(out, ROWS, rows_of(whole))}: the rows of {len(whole)} trials"
        for trial in finished:
            if is_merged(out, trial):
                remove_files(trial)
    named = [line for trial in todo if trial not in whole for line in damages(trial)]
    yield from [*results.problems, *named]
    left = len(results.stored) - len(finished)
    yield f"{len(finished) - len(todo) + len(whole)} of {len(results.stored)} trials are merged; unfinished: {left}"


def key_of(attempt: Path) -> Key:
    """`ID/attempt-000`."""
    return f"{attempt.parent.name}/{attempt.name}"


def is_merged(out: Path, trial: StoredTrial) -> bool:
    """Whether batches have all attempts of a trial that count."""
    return all(merged_in(out, key_of(attempt.folder)) for attempt in trial.counted)


def rows_of(trials: list[StoredTrial]) -> Iterator[tuple[Key, dict[str, pa.Table]]]:
    """Each attempt that counts, with its rows by frame."""
    for trial in trials:
        for attempt in trial.counted:
            yield key_of(attempt.folder), {frame: attempt_table(trial.id, attempt, frame) for frame in ROWS}


def damages(trial: StoredTrial) -> Iterator[str]:
    """What is damaged in a trial's rows; such a trial stays as it is."""
    for attempt in trial.counted:
        for frame in ROWS:
            try:
                attempt_table(trial.id, attempt, frame)
            except files.StoreError as error:
                yield str(error)


def remove_files(trial: StoredTrial) -> None:
    """Remove the row files of a merged trial, and the checkpoints that its last one made needless."""
    for attempt in trial.counted:
        remove_own(attempt.folder, [files.SIGNALS, *(f"{frame}.jsonl" for frame in ROWS)])
        if attempt is not trial.counted[-1]:
            (attempt.folder / files.CHECKPOINT).unlink(missing_ok=True)
