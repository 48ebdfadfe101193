"""The writer of one attempt at a trial: crash-safe, one writer per folder.

An attempt is claimed by an atomic mkdir; a writer that finds a later attempt beside it (it was thawed, or its launch
died) leaves without writing status or result. Rows reach the disk before the checkpoint that follows them, so a
reader that cuts an attempt at the step the next one resumed from misses and doubles nothing.
"""

import os
import time
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from initlab.store import files
from initlab.store.checkpoint import read_checkpoint, write_checkpoint
from initlab.store.files import StoreError, encode, write_json
from initlab.store.trial_folder import TrialFolder

SIGNAL_SCHEMA = pa.schema(
    [
        ("step", pa.int64()), ("epoch", pa.float64()), ("layer", pa.int32()), ("name", pa.string()),
        ("op", pa.string()), ("calls", pa.int32()), ("forward_mean", pa.float64()), ("forward_var", pa.float64()),
        ("backward_mean", pa.float64()), ("backward_var", pa.float64()), ("weight_var", pa.float64()),
        ("weight_grad_rms", pa.float64()), ("decay_ratio", pa.float64()), ("zero_fraction", pa.float64()),
    ],
    metadata={"initlab.schema": str(files.SCHEMA)},
)  # fmt: skip
STATUS_INTERVAL_S = 0.5


class Superseded(Exception):
    """A later attempt at this trial exists: this writer must stop and write nothing more."""


class AttemptWriter:
    """Writes the records of one attempt; see the module."""

    def __init__(self, trial: TrialFolder, environment: dict[str, Any]) -> None:
        """Claim the next attempt at `trial`, to resume its latest usable checkpoint.

        `resumed` is the checkpoint's content or None; `notes` says which checkpoints could not be used.
        """
        self.trial = trial
        self.notes: list[str] = []
        self.resumed, resumed_from = self.latest_checkpoint()
        self.folder = self.claim()
        step = self.resumed["step"] if self.resumed else None
        content = {"resumed_from": resumed_from, "resumed_step": step, "environment": environment, "notes": self.notes}
        write_json(self.folder / files.ATTEMPT, {"host": os.uname().nodename, "pid": os.getpid(), **content})
        self.scalar_file = open(self.folder / files.SCALARS, "ab")  # noqa: SIM115 - open as long as the attempt runs
        self.layer_files: dict[str, IO[bytes]] = {}  # of slopes and running moments, opened at their first rows
        self.signal_stream: pa.RecordBatchStreamWriter | None = None
        self.last_status = 0.0

    def latest_checkpoint(self) -> tuple[dict[str, Any] | None, str | None]:
        """The newest checkpoint that can be read, with its attempt's name."""
        for path in self.trial.checkpoints():
            try:
                return read_checkpoint(path), path.parent.name
            except StoreError as error:
                self.notes.append(f"{error}; the trial starts from an earlier one or anew")
        return None, None

    def claim(self) -> Path:
        """Make the next free attempt folder."""
        number = self.trial.next_attempt()
        while True:
            folder = self.trial.path / f"attempt-{number:03d}"
            try:
                folder.mkdir()
                return folder
            except FileExistsError:  # another writer was faster
                number += 1

    def check_latest(self) -> None:
        """Raise `Superseded` where a later attempt exists."""
        if self.trial.attempts()[-1] != self.folder:
            raise Superseded(f"{self.folder}: a later attempt runs; this one leaves")

    def scalars(self, row: dict[str, Any]) -> None:
        """Append one row of scalars."""
        self.scalar_file.write((encode(row) + "\n").encode())
        self.scalar_file.flush()

    def slopes(self, step: int, epoch: float, rows: list[dict[str, Any]]) -> None:
        """Append the learned slopes at one step, a row per layer."""
        self.layer_rows(files.SLOPES, step, epoch, rows)

    def moments(self, step: int, epoch: float, rows: list[dict[str, Any]]) -> None:
        """Append the running moments since the row before, a row per layer."""
        self.layer_rows(files.RUNNING, step, epoch, rows)

    def layer_rows(self, name: str, step: int, epoch: float, rows: list[dict[str, Any]]) -> None:
        """Append lines to one of the attempt's files."""
        if name not in self.layer_files:
            self.layer_files[name] = open(self.folder / name, "ab")  # noqa: SIM115
        lines = [encode({"step": step, "epoch": epoch, **row}) + "\n" for row in rows]
        self.layer_files[name].write("".join(lines).encode())
        self.layer_files[name].flush()

    def signals(self, step: int, epoch: float, rows: list[dict[str, Any]]) -> None:
        """Append one probe, a row per layer."""
        if self.signal_stream is None:
            self.signal_file = open(self.folder / files.STREAM, "wb")  # noqa: SIM115
            self.signal_stream = pa.ipc.new_stream(self.signal_file, SIGNAL_SCHEMA)
        rows = [{"step": step, "epoch": epoch, **row} for row in rows]
        self.signal_stream.write_batch(pa.RecordBatch.from_pylist(rows, schema=SIGNAL_SCHEMA))
        self.signal_file.flush()

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Keep `state` (with its `step`) as the point to resume from, rows first."""
        self.sync()
        self.check_latest()
        write_checkpoint(self.folder / files.CHECKPOINT, state)

    def sync(self) -> None:
        """Bring all rows so far to the disk."""
        for file in (self.scalar_file, *self.layer_files.values()):
            os.fsync(file.fileno())
        if self.signal_stream is not None:
            os.fsync(self.signal_file.fileno())

    def running(self, progress: dict[str, Any]) -> None:
        """Publish progress, at most every half second."""
        now = time.monotonic()
        if now - self.last_status >= STATUS_INTERVAL_S:
            self.last_status = now
            self.check_latest()
            status = {"state": "running", "attempt": self.folder.name, **progress}
            write_json(self.trial.status_file, status, sync=False)

    def doing(self, line: str) -> None:
        """Publish what happens before the first step, in words."""
        self.running({"doing": line})

    def close(self, state: str, status: dict[str, Any], result: dict[str, Any] | None = None) -> None:
        """End the attempt: signals to Parquet, status, and for a finished trial its result, last of all."""
        for file in (self.scalar_file, *self.layer_files.values()):
            file.close()
        if self.signal_stream is not None:
            self.signal_stream.close()
            self.signal_file.close()
            if result is not None:
                self.signals_to_parquet()
        self.check_latest()
        write_json(self.trial.status_file, {"state": state, "attempt": self.folder.name, **status})
        if result is not None:
            write_json(self.trial.result_file, {"state": state, "attempt": self.folder.name, **result})

    def signals_to_parquet(self) -> None:
        """One Parquet file instead of the live stream."""
        with pa.ipc.open_stream(self.folder / files.STREAM) as stream:
            table = stream.read_all()
        floats = [field.name for field in SIGNAL_SCHEMA if field.type == pa.float64()]
        with files.atomic(self.folder / files.SIGNALS) as file:
            pq.write_table(
                table,
                file,
                compression="zstd",
                column_encoding=dict.fromkeys(floats, "BYTE_STREAM_SPLIT"),
                use_dictionary=["name", "op"],
            )
        (self.folder / files.STREAM).unlink()
