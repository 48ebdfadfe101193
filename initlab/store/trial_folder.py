"""The folder of one trial: where its files lie and what they say, for launcher, worker and reader alike.

No torch and no pandas in here.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from initlab.engine.lease import is_held
from initlab.engine.task import State
from initlab.errors import one_line
from initlab.store import files
from initlab.store.checksums import lost, sums_in
from initlab.store.files import StoreError, read_json, write_json
from initlab.study.spec import TrialSpec


class TrialFolder:
    """`OUT/trials/ID`, which need not be there yet, and the files that say what the trial is and how it stands.

    Reading raises a `StoreError` for a file that is not readable, or of a newer initlab.
    """

    def __init__(self, out: Path, id: str, parent: str = files.TRIALS) -> None:
        """The folder of trial `id` in the output folder `out`."""
        self.id, self.out, self.path = id, out, out / parent / id
        self.trial_file, self.status_file, self.result_file = (
            self.path / name for name in (files.TRIAL, files.STATUS, files.RESULT)
        )

    @classmethod
    def at(cls, path: Path) -> "TrialFolder":
        """A trial's folder wherever it lies, also one that was copied out of its study."""
        return cls(path.parent, path.name, parent="")

    @classmethod
    def all_in(cls, out: Path) -> list["TrialFolder"]:
        """Every trial's folder in an output folder, by id."""
        return [cls(out, path.name) for path in sorted((out / files.TRIALS).glob("t*"))]

    @property
    def finished(self) -> bool:
        """Whether the trial has its result and the files of rows that go with it; nothing else means so."""
        try:
            return self.result_file.exists() and self.lost_by(self.result() or {}) is None
        # A damaged result is none; whoever reads it says so.
        except StoreError:
            return False

    def lost_by(self, result: dict[str, Any]) -> str | None:
        """What a result goes with and is not there, `PATH: absent`; None where nothing is lost."""
        sums = sums_in(self.result_file, result)
        if sums is None:
            # An older initlab's says which attempt it is of.
            sums = {f"{result['attempt']}/{files.SCALARS}": (1, 0)} if "attempt" in result else {}
        return lost(self.path, sums)

    def lost_attempt(self, status: dict[str, Any]) -> str | None:
        """The newest attempt as a status has it, where it is not there, `PATH: absent, …`; None where nothing is."""
        if not self.status_file.exists():
            return f"{self.status_file}: absent, though an attempt was made" if self.attempts() else None
        path = self.path / status.get("attempt", "") / files.ATTEMPT
        if "attempt" not in status or path.exists():
            return None
        return f"{path}: absent, though {files.STATUS} is of this attempt; its rows are lost"

    def check_own(self, path: Path, content: dict[str, Any]) -> None:
        """Refuse the file of another trial; that of an older initlab does not say whose it is."""
        if content.get("trial", self.id) != self.id:
            raise StoreError(f"{path}: of another trial (got {content['trial']!r}); move it away")

    def description(self) -> dict[str, Any]:
        """What trial.json holds: `id`, `spec`, `source` (hashes of the user's code) and `first_attempt`."""
        description = read_json(self.trial_file)
        if type(first := description.get("first_attempt", 0)) is not int:
            raise StoreError(f"{self.trial_file}: first_attempt: not an integer (got {first!r})")
        return description

    def describe(self, spec: TrialSpec, source: dict[str, str], first_attempt: int = 0) -> None:
        """Write trial.json, with the hashes of the user's code; no attempt before the first is resumed."""
        self.path.mkdir(parents=True, exist_ok=True)
        # Of a watched loop no more is known than was said, and the defaults need not hold.
        fields = spec.model_dump(mode="json", exclude_unset=spec.watched)
        content = {"id": self.id, "spec": fields, "source": source}
        write_json(self.trial_file, {**content, "first_attempt": first_attempt}, sync=False)

    def spec(self, description: dict[str, Any] | None = None) -> TrialSpec:
        """The spec in trial.json, whose content may be given; a `StoreError` where there is none."""
        try:
            return TrialSpec.model_validate((description or self.description()).get("spec"))
        except ValidationError as error:
            raise StoreError(f"{self.trial_file}: not a trial that this initlab reads ({one_line(error)})") from None

    def status(self) -> dict[str, Any]:
        """`state` and progress; the state is `pending` without a file, and `interrupted` in a file that names none."""
        if not self.status_file.exists():
            return {"state": State.PENDING.value}
        status = {"state": State.INTERRUPTED.value, **read_json(self.status_file, figures=True)}
        self.check_own(self.status_file, status)
        return status

    @property
    def is_at_work(self) -> bool:
        """Whether a launch runs in the output folder, or a loop that is watched holds this trial alone."""
        return is_held(self.out) or is_held(self.path)

    def state(self, status: dict[str, Any], result: dict[str, Any] | None) -> State:
        """Its state by what its files say: without a result not finished, and without a launch not running."""
        state = State((result or status)["state"])
        if (result is None and state.finished) or (state == State.RUNNING and not self.is_at_work):
            return State.INTERRUPTED
        return state

    def result(self) -> dict[str, Any] | None:
        """The final figures, None while the trial is unfinished."""
        if not self.result_file.exists():
            return None
        result = read_json(self.result_file, figures=True)
        self.check_own(self.result_file, result)
        return result

    def attempts(self, first: int = 0) -> list[Path]:
        """The folders of its attempts from number `first` on, oldest first."""
        paths = [path for path in self.path.glob("attempt-*") if re.fullmatch(r"attempt-\d{3,}", path.name)]
        return sorted((path for path in paths if attempt_number(path) >= first), key=attempt_number)

    def folders(self) -> list[Path]:
        """Its own folder and those of its attempts."""
        return [self.path, *self.attempts()]

    def next_attempt(self) -> int:
        """The number after the latest attempt's, 0 where there is none."""
        return 1 + max(map(attempt_number, self.attempts()), default=-1)

    def checkpoints(self) -> Iterator[Path]:
        """Checkpoint files to resume from, newest first; those from before `first_attempt` are left out."""
        first = self.description().get("first_attempt", 0) if self.trial_file.exists() else 0
        for attempt in reversed(self.attempts(first)):
            if (attempt / files.CHECKPOINT).exists():
                yield attempt / files.CHECKPOINT

    def checkpoint(self) -> Path | None:
        """The newest checkpoint file, None where there is none."""
        return next(self.checkpoints(), None)


def holds_watched_loops(out: Path) -> bool:
    """Whether the trials of an output folder are loops that `initlab.watch` watched: all of them are, or none."""
    for folder in TrialFolder.all_in(out):
        # A damaged one says nothing; another does.
        with suppress(StoreError):
            return folder.spec().watched
    return False


def attempt_number(folder: Path) -> int:
    """`attempt-003` is 3."""
    return int(folder.name.split("-")[1])
