"""Is a store whole? Every file that `initlab` wrote checked against the others, and mended where that can be done.

Ids against specs, rows against the steps they were due at, files against their checksums, status against attempts.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from initlab.engine.task import State
from initlab.plan.plan import PlannedTrial, plan
from initlab.store import files
from initlab.store.checkpoint import read_checkpoint
from initlab.store.files import StoreError, is_left_over, sweep, write_json
from initlab.store.reader import StoredTrial
from initlab.store.results import Results
from initlab.store.rows import ROWS, trial_rows
from initlab.store.trial_folder import TrialFolder

ASIDE = ".damaged"  # ends the name of a file that was set aside


def faults(results: Results) -> list[str]:
    """What is wrong in an output folder or an export, a line each that begins with the file; none where it is whole."""
    lines = list(results.problems)
    if results.exported:
        for frame in ROWS:
            results.rows(frame)
        return results.problems
    for trial in results.stored:
        lines += row_faults(trial)
    for folder in TrialFolder.all_in(results.place):
        lines += checkpoint_faults(folder)
        lines += [f"{path}: left over by a process that was killed" for path in left_over(folder)]
    return list(dict.fromkeys(lines))


def row_faults(trial: StoredTrial) -> Iterator[str]:
    """Row files that are damaged, and rows that are missing, doubled or at steps at which none was due."""
    status, spec = trial.status, trial.spec
    problems: list[str] = []
    rows = {frame: trial_rows(trial, frame, problems) for frame in ROWS}
    yield from problems
    if problems or "train_examples" not in status or "steps" not in status:
        return
    last = status["step"] if trial.result else None
    if spec.watched:
        return
    due = {
        "scalars": spec.row_steps(status["train_examples"] // spec.train.batch_size, status["steps"]),
        "signals": spec.probe_steps(status["steps"]),
    }
    for frame, steps in due.items():
        got = steps_of(rows[frame])
        end = last if last is not None else max(got, default=-1)
        expected = [step for step in steps if step <= end]
        if sorted(got) != expected:
            missing, extra = sorted({*expected} - {*got}), sorted({*got} - {*expected})
            text = f"{len(missing)} missing{first(missing)}, {len(extra)} too many{first(extra)}"
            yield f"{trial.folder}/{frame}: rows not at the steps where they were due ({text})"
        if frame == "scalars" and len(got) != len(rows[frame]):
            yield f"{trial.folder}/{frame}: a step has more than one row"


def steps_of(rows: pa.Table) -> list[int]:
    """The steps that rows are of, each once."""
    steps: list[int] = pc.unique(rows["step"]).to_pylist()
    return steps


def first(steps: Sequence[int]) -> str:
    """`, the first at step 3`, or nothing of none."""
    return f", the first at step {steps[0]}" if steps else ""


def checkpoint_faults(folder: TrialFolder) -> Iterator[str]:
    """Checkpoints that are damaged or of another trial."""
    for attempt in folder.attempts():
        path = attempt / files.CHECKPOINT
        if os.path.lexists(path):
            try:
                folder.check_own(path, read_checkpoint(path))
            except StoreError as error:
                yield str(error)


def left_over(folder: TrialFolder) -> list[Path]:
    """Temporary files of killed writers, and a live stream beside the Parquet file that was made of it."""
    left = [Path(entry) for place in folder.folders() for entry in os.scandir(place) if is_left_over(entry)]
    if folder.result_file.exists():
        left += [path / files.STREAM for path in folder.attempts() if (path / files.SIGNALS).exists()]
    return [path for path in left if path.exists()]


def repair(results: Results, lines: Sequence[str]) -> Iterator[str]:
    """Mend what these faults say; yields what was done, a line each. The caller holds the output folder.

    What a file says twice is written again from the other place. Rows that are lost are not made up: their trial has no
    result any more, and the next run does it anew.
    """
    planned = {trial.id: trial for trial in plan(results.study)}
    for path in sweep([results.place]):
        yield f"{path}: removed, a killed process left it"
    for folder in TrialFolder.all_in(results.place):
        inside = [line.removeprefix(f"{folder.path}/") for line in lines if line.startswith(f"{folder.path}/")]
        if inside:
            yield from mend(folder, planned.get(folder.id), {line.partition(":")[0] for line in inside})


def mend(folder: TrialFolder, planned: PlannedTrial | None, names: set[str]) -> Iterator[str]:
    """Mend one trial, whose files of these names are wrong."""
    for path in left_over(folder):
        path.unlink()
        yield f"{path}: removed, a killed process left it"
    for name in sorted(name for name in names if name.endswith(f"/{files.CHECKPOINT}")):
        yield set_aside(folder.path / name)
        names = names - {name}
    if files.TRIAL in names:
        if planned is None:
            yield f"{folder.trial_file}: not mended, the study has no such trial; move {folder.path} away"
            return
        spec = planned.spec.model_dump(mode="json")
        write_json(folder.trial_file, {"id": folder.id, "spec": spec, "source": {}, "first_attempt": 0})
        yield f"{folder.trial_file}: written again, as the study has it"
    rows = {name for name in names if name not in (files.TRIAL, files.STATUS) and not is_swept(name)}
    if files.RESULT in names or (rows and folder.result_file.exists()):
        # The status before the result goes: nothing but the result says that a trial is done.
        write_json(folder.status_file, {"state": State.PENDING})
        write_json(folder.trial_file, {**folder.description(), "first_attempt": folder.next_attempt()})
        yield f"{set_aside(folder.result_file)}; the next run does this trial anew"
    elif files.STATUS in names:
        write_json(folder.status_file, folder.result() or {"state": State.INTERRUPTED})
        yield f"{folder.status_file}: written again"
    elif rows:
        yield f"{folder.path}: to be gone on with; the next run takes its last whole checkpoint, or starts it anew"


def is_swept(name: str) -> bool:
    """Whether a fault's file was removed as left over by a killed process."""
    return name.rpartition("/")[2].startswith(".") or name.endswith(files.STREAM)


def set_aside(path: Path) -> str:
    """Rename a file out of the way; returns what to say of it."""
    path.replace(path.with_name(path.name + ASIDE))
    return f"{path}: set aside as {path.name}{ASIDE}"
