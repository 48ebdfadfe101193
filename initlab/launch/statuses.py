"""The statuses of the trials of a launch, read from the store: the same whatever engine runs them, on which machine."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from initlab.engine.task import State
from initlab.plan.plan import PlannedTrial
from initlab.store.files import StoreError
from initlab.store.trial_folder import TrialFolder
from initlab.study.spec import TrialSpec

# Trials without a sign of a beginning that are looked at, in their order: more than any engine takes out of turn.
LOOKAHEAD = 200
Status = dict[str, Any]


class Shown(NamedTuple):
    """A trial as it is shown: its id, its name and its status."""

    trial: str
    name: str
    status: Status


class Statuses:
    """The statuses of the trials that run, of however many that are to run.

    They begin in the order of `trials`, as far as the engine keeps it: what lies far behind those that have begun is
    not looked at yet, nor again what has ended.
    """

    def __init__(self, out: Path, trials: Sequence[PlannedTrial], name: Callable[[TrialSpec], str]) -> None:
        """`trials`: in the order in which they begin; `name` names them."""
        self.out, self.name = out, name
        self.waiting = {trial.id: trial.spec for trial in trials}  # or running
        self.running: dict[str, Status] = {}
        self.num_trials, self.num_ended = len(trials), 0
        # A status written by an earlier launch says nothing of this one.
        self.before = {folder.id: stamp(folder) for folder in TrialFolder.all_in(out) if folder.id in self.waiting}
        self.started = time.monotonic()

    def read(self) -> list[Shown]:
        """Read what changed; returns the trials that have ended since the last time."""
        ended, unbegun = [], 0
        for trial, spec in self.waiting.items():
            folder = TrialFolder(self.out, trial)
            status = self.running.get(trial)
            if stamp(folder) != self.before.get(trial, 0):
                # Half a moment too early on a slow file system: the next poll reads it.
                with suppress(StoreError, OSError):
                    status = folder.status()
            if status is None or status["state"] == State.PENDING:
                unbegun += 1
                if unbegun > LOOKAHEAD:
                    break
            elif has_ended(status):
                ended.append(Shown(trial, self.name(spec), status))
            else:
                self.running[trial] = status
        for trial, _, _ in ended:
            del self.waiting[trial]
            self.running.pop(trial, None)
        self.num_ended += len(ended)
        return ended

    def time_left(self) -> str:
        """Time to the end as `3 min 20 s`, from the share of steps done so far; `?` before there is one."""
        running = [status for status in self.running.values() if "step" in status]
        share = self.num_ended + sum(status["step"] / status["steps"] for status in running)
        if share <= 0.02:
            return "?"
        seconds = (time.monotonic() - self.started) * (self.num_trials - share) / share
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def stamp(folder: TrialFolder) -> int:
    """When a trial's status was written, in nanoseconds; 0 before it was."""
    return folder.status_file.stat().st_mtime_ns if folder.status_file.exists() else 0


def has_ended(status: Status) -> bool:
    """Whether a status says that its trial has ended."""
    return State(status["state"]).ended
