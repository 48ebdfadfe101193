"""The writer of one attempt at a trial: crash-safe, one writer per folder.

An attempt is claimed by an atomic mkdir. A writer that finds a later attempt beside its own (its process was frozen for
a while, or its launch died) leaves without writing status or result. Rows reach the disk before the checkpoint or
result that follows them, so a reader that takes an attempt's rows up to the step the next one resumed from misses and
doubles none. Status, checkpoints and result vouch for the files of all attempts that count (`initlab.store.checksums`).
"""

import os
import time
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa

from initlab.engine.signs import sign
from initlab.engine.task import State
from initlab.store import files
from initlab.store.checkpoint import read_checkpoint, write_checkpoint
from initlab.store.checksums import SummedFile, Sums, sum_of, sums_in, vouched
from initlab.store.files import StoreError, encode, sync_folder, write_json
from initlab.store.parquet import schema_of, write_parquet
from initlab.store.trial_folder import TrialFolder

# The frame's columns but trial and attempt, which the folders say.
SIGNAL_SCHEMA = schema_of("signals", attempt_known=True)
STATUS_INTERVAL_S = 0.5
SIGN_INTERVAL_S = 5.0


class Superseded(Exception):
    """A later attempt at this trial exists: this writer must stop and write nothing more."""


class AttemptWriter:
    """Writes the records of one attempt; see the module."""

    def __init__(self, trial: TrialFolder, environment: dict[str, Any], own_step: int = 0) -> None:
        """Claim the next attempt at `trial`, to resume its latest usable checkpoint.

        `resumed` is the checkpoint's content or None; `notes` says which checkpoints could not be used. A loop that is
        not ours and keeps its own checkpoints goes on from step `own_step`: its last status stands for the checkpoint.
        """
        self.trial = trial
        self.notes: list[str] = []
        # Of all files that count, those of earlier attempts too; this one's rows are summed as they are written.
        self.sums: Sums = {}
        self.resumed, resumed_from = self.last_status_at(own_step) if own_step else self.latest_checkpoint()
        for number in count(trial.next_attempt()):
            self.folder = trial.path / f"attempt-{number:03d}"
            # Where the folder exists, another writer was faster.
            with suppress(FileExistsError):
                self.folder.mkdir()
                break
        step = self.resumed["step"] if self.resumed else None
        content = {"resumed_from": resumed_from, "resumed_step": step, "environment": environment, "notes": self.notes}
        origin = {"trial": trial.id, "attempt": self.folder.name, "host": os.uname().nodename, "pid": os.getpid()}
        write_json(self.folder / files.ATTEMPT, {**origin, **content})
        self.sums[self.name_of(files.ATTEMPT)] = sum_of(self.folder / files.ATTEMPT)
        # By frame, each opened at its first row, but scalars.jsonl at once: a finished attempt without it lost rows.
        self.files: dict[str, SummedFile] = {}
        self.record("scalars", [])
        self.signal_stream: pa.RecordBatchStreamWriter | None = None
        self.last_status = self.last_sign = 0.0
        # Not pending any more, however long it takes until there are figures; and vouching for no rows yet.
        state = {"state": State.RUNNING, "trial": trial.id, "attempt": self.folder.name}
        write_json(trial.status_file, state, sync=False)

    def latest_checkpoint(self) -> tuple[dict[str, Any] | None, str | None]:
        """The newest checkpoint of this trial that can be read with all rows before it, and its attempt's name."""
        for path in self.trial.checkpoints():
            try:
                state = read_checkpoint(path)
                self.trial.check_own(path, state)
                sums = sums_in(path, state) or {}
                for name, (size, crc) in sums.items():
                    vouched(self.trial.path / name, size, crc)
                self.sums = sums
                return state, path.parent.name
            except StoreError as error:
                # The end of an attempt, which another launch may be at, replaces the live rows that its checkpoint has.
                if self.trial.finished:
                    continue
                self.notes.append(f"{error}; the trial starts from an earlier one or anew")
        return None, None

    def last_status_at(self, step: int) -> tuple[dict[str, Any], str]:
        """What stands for the checkpoint of a loop that goes on from this step, and the attempt that it goes on from.

        Raises:
            StoreError: no attempt has got so far.
        """
        status = self.trial.status()
        if status.get("step", -1) < step:
            got = f"got step {step}" + (f", kept up to {status['step']}" if "step" in status else "")
            raise StoreError(f"{self.trial.path}: nothing kept to go on from ({got}); give step=0 to begin anew")
        self.sums = sums_in(self.trial.status_file, status) or {}
        return {"step": step}, status["attempt"]

    def check_latest(self) -> None:
        """Raise `Superseded` where a later attempt exists."""
        if self.trial.attempts()[-1] != self.folder:
            raise Superseded(f"{self.folder}: a later attempt runs; this one leaves")

    def record(self, frame: str, rows: list[dict[str, Any]]) -> None:
        """Append rows to the attempt's file of a frame: signals as an Arrow stream, all others as lines of JSON."""
        if frame not in self.files:
            name = files.STREAM if frame == "signals" else f"{frame}.jsonl"
            self.files[frame] = SummedFile(self.folder / name)
        file = self.files[frame]
        if frame == "signals":
            self.signal_stream = self.signal_stream or pa.ipc.new_stream(file, SIGNAL_SCHEMA)
            self.signal_stream.write_batch(pa.RecordBatch.from_pylist(rows, schema=SIGNAL_SCHEMA))
        else:
            file.write("".join(encode(row) + "\n" for row in rows).encode())
        self.sums[self.name_of(file.path.name)] = file.sum

    def name_of(self, file: str) -> str:
        """A file of this attempt as sums and the trial's folder name it."""
        return f"{self.folder.name}/{file}"

    def sync(self) -> None:
        """Put all rows so far on the disk."""
        for file in self.files.values():
            os.fsync(file.fileno())
        sync_folder(self.folder)

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Keep `state` (with its `step`) as the point to resume from, once all rows so far are on the disk."""
        self.sync()
        self.check_latest()
        write_checkpoint(self.folder / files.CHECKPOINT, {**state, "trial": self.trial.id, "files": self.sums})

    def progress(self, figures: dict[str, Any]) -> None:
        """Publish progress, at most every half second."""
        now = time.monotonic()
        if now - self.last_status >= STATUS_INTERVAL_S:
            self.last_status = now
            self.check_latest()
            self.write(self.trial.status_file, State.RUNNING, figures, sync=False)

    def alive(self) -> None:
        """Leave a sign of life, the time at which the status was written, every few seconds."""
        now = time.monotonic()
        if now - self.last_sign >= SIGN_INTERVAL_S:
            self.last_sign = now
            with suppress(OSError):
                os.utime(self.trial.status_file)

    def doing(self, line: str) -> None:
        """Publish what happens before the first step, in words."""
        sign()
        self.progress({"doing": line})

    def close(self, state: State, status: dict[str, Any], result: dict[str, Any] | None = None) -> None:
        """End the attempt: signals to Parquet, status, and for a finished trial its result, last of all."""
        if self.signal_stream:
            self.signal_stream.close()
            self.sums[self.name_of(files.STREAM)] = self.files["signals"].sum
        self.sync()
        for file in self.files.values():
            file.close()
        if self.signal_stream and result is not None:
            self.signals_to_parquet()
        self.check_latest()
        self.write(self.trial.status_file, state, status)
        if result is not None:
            self.write(self.trial.result_file, state, result)
            # Not before: until then the status may vouch for it.
            (self.folder / files.STREAM).unlink(missing_ok=True)

    def write(self, path: Path, state: State, content: dict[str, Any], sync: bool = True) -> None:
        """Write the trial's status or result as this attempt's."""
        origin = {"state": state, "trial": self.trial.id, "attempt": self.folder.name}
        write_json(path, {**origin, **content, "files": self.sums}, sync)

    def signals_to_parquet(self) -> None:
        """One Parquet file instead of the live stream."""
        size, crc = self.sums.pop(self.name_of(files.STREAM))
        with pa.ipc.open_stream(vouched(self.folder / files.STREAM, size, crc)) as stream:
            table = stream.read_all()
        write_parquet(self.folder / files.SIGNALS, table)
        self.sums[self.name_of(files.SIGNALS)] = sum_of(self.folder / files.SIGNALS)
