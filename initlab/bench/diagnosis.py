"""`initlab bench diagnosis`: sound nets with a fault planted in each, and what initlab and other tools say of them.

A row per sound run, per draw of a sound net and per net and fault is written as it comes, a JSON object a line, so that
an interrupted run goes on where it was. The table, which is printed last, is made from these rows.
"""

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from initlab.bench.diagnosis_case import Row, draw_row, fault_row, sound_row
from initlab.bench.diagnosis_faults import FAULTS
from initlab.bench.diagnosis_nets import NETS, half_of
from initlab.bench.diagnosis_table import table_lines
from initlab.errors import UserError
from initlab.report.json_text import json_text
from initlab.store.files import writable

# What `--quick` takes: seconds each, and faults of every kind.
QUICK_MODELS = ("actor-critic", "lstm", "gru", "autoencoder")
QUICK_STEPS, QUICK_SEEDS = 30, 2
# Instead of faults, where only false alarms are to be counted.
NONE = "none"
# A function of this module and its arguments.
Task = tuple[str, tuple[Any, ...]]
# What tells a row from all others of one run: its kind, net, and fault or seed.
Key = tuple[str | int, ...]
MAKERS: dict[str, Callable[..., Row]] = {"sound": sound_row, "draw": draw_row, "fault": fault_row}


def bench_diagnosis(
    models: Sequence[str], faults: Sequence[str], steps: int, seeds: int, jobs: int, out: Path
) -> Iterator[str]:
    """Lines of text: progress, and the tables last.

    Args:
        models, faults: names, all where there are none; the fault `NONE` is no fault at all.
        steps: of each training run.
        seeds: draws of each sound net, to count false alarms.
        out: the file of rows; what it holds of these nets, faults, steps and seeds is not measured again.

    Raises:
        UserError: an unknown net or fault, or a file that cannot be written.
    """
    models = chosen(models, NETS, "models")
    faults = [] if list(faults) == [NONE] else chosen(faults, FAULTS, "faults")
    with writable(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    done = {key_of(row): row for row in rows_in(out) if row.get("steps", steps) == steps}
    rows: list[Row] = []
    with ExitStack() as stack:
        file = stack.enter_context(out.open("a"))
        run = map if jobs == 1 else stack.enter_context(workers(jobs)).imap_unordered
        sound = [("sound", (name, steps)) for name in models]
        for tasks in (lambda: sound, lambda: further_tasks(models, faults, seeds, done)):
            every = {task_key(task): task for task in tasks()}
            todo = [task for key, task in every.items() if key not in done]
            started = time.perf_counter()
            for number, row in enumerate(run(carried, todo), start=1):
                done[key_of(row)] = row
                file.write(json_text(row) + "\n")
                file.flush()
                yield f"{number}/{len(todo)} {time.perf_counter() - started:.0f} s  {progress(row)}"
            rows += [done[key] for key in every]
    yield from table_lines(rows)


def rows_in(path: Path) -> list[Row]:
    """The rows of a file, without a line that was cut off, and those that ended in an error, which are tried again."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        path.write_text("".join(lines[:-1]))
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [row for row in rows if "crash" not in row]


def chosen(names: Sequence[str], allowed: dict[str, Any], option: str) -> Sequence[str]:
    """The names, or all that there are.

    Raises:
        UserError: an unknown one.
    """
    for name in names:
        if name not in allowed:
            raise UserError(f"--{option}: unknown (got {name!r}); allowed: {', '.join(allowed)}")
    return names or list(allowed)


def workers(jobs: int) -> Any:
    """A pool of processes, each with one thread."""
    return multiprocessing.get_context("spawn").Pool(jobs, initializer=torch.set_num_threads, initargs=(1,))


def further_tasks(models: Sequence[str], faults: Sequence[str], seeds: int, done: dict[Key, Row]) -> list[Task]:
    """The faults and the draws of nets that train when they are sound."""
    tasks: list[Task] = []
    for name in models:
        sound = done["sound", name]
        if sound.get("trains"):
            tasks += [("fault", (name, fault, sound)) for fault in faults]
            tasks += [("draw", (name, seed)) for seed in range(seeds)]
    return tasks


def task_key(task: Task) -> Key:
    """The key of the row that a task makes."""
    kind, arguments = task
    return (kind, *arguments[: 1 if kind == "sound" else 2])


def key_of(row: Row) -> Key:
    """The key of a row."""
    return tuple(row[field] for field in ("kind", "model", "fault", "seed") if field in row)


def carried(task: Task) -> Row:
    """The row of a task; of one that fails in a way which nobody foresaw, the error."""
    kind, arguments = task
    started = time.perf_counter()
    try:
        row = MAKERS[kind](*arguments)
    # Whatever a diagnosis of a broken net raises is a finding of this benchmark, and must not end it.
    except Exception as error:
        row = dict(zip(("kind", "model", "fault" if kind == "fault" else "seed"), task_key(task), strict=False))
        row |= {"half": half_of(str(row["model"])), "crash": f"{type(error).__name__}: {error}"}
    return {**row, "seconds": round(time.perf_counter() - started, 2)}


def progress(row: Row) -> str:
    """A line about a row."""
    if "crash" in row:
        return f"{row['model']}: {row.get('fault', row['kind'])}: CRASH {row['crash']}"
    if row["kind"] == "sound":
        return (
            f"{row['model']}: sound, the loss falls from {row['start']:.3g} to {row['end']:.3g} at rate {row['rate']}"
        )
    if row["kind"] == "draw":
        return f"{row['model']}: draw {row['seed']}: {row['verdict']} {' '.join(row['lint'])}".rstrip()
    if not row["applies"]:
        return f"{row['model']}: {row['fault']}: nothing to plant it in"
    words = "matters" if row["matters"] else "harmless"
    verdict = row["verdict"] or "refused"
    return f"{row['model']}: {row['fault']}: {words}; {verdict} {' '.join(row['lint'])}".rstrip()
