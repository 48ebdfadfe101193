"""The folder of one trial: where its files lie and what they say, for launcher, worker and reader alike.

No torch and no pandas in here.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from initlab.engine.task import State
from initlab.errors import one_line
from initlab.store import files
from initlab.store.files import StoreError, read_json
from initlab.study.spec import TrialSpec


class TrialFolder:
    """`OUT/trials/ID`, which need not be there yet, and the files that say what the trial is and how it stands.

    Reading raises a `StoreError` for a file that is not readable, or of a newer initlab.
    """

    def __init__(self, out: Path, id: str, parent: str = files.TRIALS) -> None:
        """The folder of trial `id` in the output folder `out`."""
        self.id, self.path = id, out / parent / id
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
        """Whether the trial has its result; nothing else means so."""
        return self.result_file.exists()

    def description(self) -> dict[str, Any]:
        """What trial.json holds: `id`, `spec`, `source` (hashes of the user's code) and `first_attempt`."""
        return read_json(self.trial_file)

    def spec(self) -> TrialSpec:
        """The spec in trial.json; a `StoreError` where there is none, or what is not one."""
        try:
            return TrialSpec.model_validate(self.description().get("spec"))
        except ValidationError as error:
            raise StoreError(f"{self.trial_file}: not a trial that this initlab reads ({one_line(error)})") from None

    def status(self) -> dict[str, Any]:
        """`state` and progress; the state is `pending` without a file, and `interrupted` in a file that names none."""
        if not self.status_file.exists():
            return {"state": State.PENDING.value}
        return {"state": State.INTERRUPTED.value, **read_json(self.status_file, figures=True)}

    def result(self) -> dict[str, Any] | None:
        """The final figures, None while the trial is unfinished."""
        return read_json(self.result_file, figures=True) if self.finished else None

    def attempts(self) -> list[Path]:
        """The folders of its attempts, oldest first."""
        paths = [path for path in self.path.glob("attempt-*") if re.fullmatch(r"attempt-\d{3,}", path.name)]
        return sorted(paths, key=attempt_number)

    def next_attempt(self) -> int:
        """The number after the latest attempt's, 0 where there is none."""
        return 1 + max(map(attempt_number, self.attempts()), default=-1)

    def checkpoints(self) -> Iterator[Path]:
        """Checkpoint files to resume from, newest first; those from before `first_attempt` are left out."""
        first = self.description().get("first_attempt", 0) if self.trial_file.exists() else 0
        for attempt in reversed(self.attempts()):
            if attempt_number(attempt) >= first and (attempt / files.CHECKPOINT).exists():
                yield attempt / files.CHECKPOINT

    def checkpoint(self) -> Path | None:
        """The newest checkpoint file, None where there is none."""
        return next(self.checkpoints(), None)


def attempt_number(folder: Path) -> int:
    """`attempt-003` is 3."""
    return int(folder.name.split("-")[1])
