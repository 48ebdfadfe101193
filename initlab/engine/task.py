"""What passes between the launcher and the workers: tasks one way, answers the other, both plain data.

A task is work for one process (or one group of processes): a trial, or several that train as one pack. Pydantic turns
both into JSON and back at the pipe of a worker.
"""

import re
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from initlab.study.run_options import Run
from initlab.study.spec import TrialSpec

STOP = "STOP"  # in the output folder, stops what works there


class State(StrEnum):
    """What has become of a trial; the values are what status.json and result.json say."""

    PENDING = "pending"  # not begun
    RUNNING = "running"  # an attempt is at work on it, or was when its process died
    DONE = "done"  # trained to its last step
    DIVERGED = "diverged"  # its training loss is not finite: a result, not a failure
    FAILED = "failed"  # it raised an exception, or took its process down too often
    STOPPED = "stopped"  # given up as hopeless, until a launch without --skip-hopeless
    INTERRUPTED = "interrupted"  # stopped on request, with a checkpoint to go on from
    SUPERSEDED = "superseded"  # left to a later attempt at the same trial; in answers alone, never in the store

    @property
    def finished(self) -> bool:
        """Whether a trial in this state has a result."""
        return self in (State.DONE, State.DIVERGED)

    @property
    def ended(self) -> bool:
        """Whether no attempt is at work, nor yet to come in the same launch."""
        return self not in (State.PENDING, State.RUNNING)

    @property
    def stop_requested(self) -> bool:
        """Whether a worker that answers so was asked to stop."""
        return self in (State.PENDING, State.INTERRUPTED)


class PlainData(BaseModel):
    """Frozen, unknown keys refused, the same after `model_dump_json` and `model_validate_json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataAccess(PlainData):
    """How a trial gets at its images; no part of its id."""

    data_dir: str | None = None
    download: bool = False
    allow_code: bool = False
    workers: int = 0  # processes that decode pictures
    cache: str = ""  # folder for what was computed from pictures
    keep_decoded: bool = False  # decoded pictures in that folder
    resident: bool | None = None  # pictures of one size stay on the device; None = on a GPU


class Provenance(PlainData):
    """What launched a trial, for the record."""

    command: str
    git_commit: str | None


class Task(PlainData):
    """Work for one process: one trial, or several of one net that train as a pack."""

    out: str  # the output folder
    trials: tuple[str, ...]  # ids
    specs: tuple[TrialSpec, ...] = ()  # of the trials, and
    sources: tuple[dict[str, str], ...] = ()  # hashes of the code that each names: for those that have no folder yet
    run: Run
    access: DataAccess
    provenance: Provenance
    skip_hopeless: bool = False
    stop: str = STOP  # the file in `out` whose presence stops this launch alone

    def description_of(self, trial: str) -> tuple[TrialSpec, dict[str, str]]:
        """The spec of one of its trials, and the hashes of the code that it names."""
        index = self.trials.index(trial)
        return self.specs[index], self.sources[index]


class TrialEnd(PlainData):
    """How a worker left a trial."""

    trial: str
    state: State
    error: str | None = None  # where the trial could not record it itself
    out_of_memory: bool = False  # of the device, which others may have taken
    traceback: str = ""  # that goes with it: where its threads were
    cause: str = ""  # of a failure, as `cause_of` has it
    no_room: bool = False  # on the disk: the trial is to be tried again when there is
    uncompiled_because: str | None = None  # why steps ran uncompiled although compilation was wished for


class Answer(PlainData):
    """What came of a task: the end of each of its trials."""

    ends: tuple[TrialEnd, ...]
    died: bool = False  # its process, so that nobody knows which of its trials is to blame
    alone_because: str | None = None  # why the trials of a pack ran one after another
    note: str | None = None  # for the user, of an answer that ends nothing
    memory_share: float | None = None  # of the GPU's memory, in use when it ended

    @property
    def no_room(self) -> bool:
        """Whether some trial is to be tried again when there is room on the disk."""
        return any(end.no_room for end in self.ends)

    @property
    def stop_requested(self) -> bool:
        """Whether some trial was left, or not begun, because a stop was requested."""
        return any(end.state.stop_requested for end in self.ends)


def answer_all(task: Task, state: State, error: str | None = None, died: bool = False, traceback: str = "") -> Answer:
    """The answer that gives every trial of a task the same end."""
    end = {"state": state, "error": error, "traceback": traceback, "cause": cause_of(error or "")}
    return Answer(ends=tuple(TrialEnd.model_validate({"trial": trial, **end}) for trial in task.trials), died=died)


def cause_of(error: str) -> str:
    """What failures have in common whose texts differ in numbers and ids alone; the first line, 200 characters."""
    return re.sub(r"\bt[0-9a-f]{12}\b|0x[0-9a-f]+|\d+(\.\d+)?", "#", error.partition("\n")[0])[:200]
