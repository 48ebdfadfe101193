"""Trials as tasks for an engine, and what is made of the answers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from initlab.engine.submit import Work, submit
from initlab.engine.task import Answer, State, Task
from initlab.launch.machine import provenance
from initlab.launch.settings import Settings
from initlab.plan.packs import packs
from initlab.plan.plan import PlannedTrial, waves
from initlab.store.files import writable, write_json
from initlab.store.trial_folder import TrialFolder

WORK = Work(run="initlab.attempt.run_task:run_task", follow="initlab.attempt.gang:follow")


def run_trials(out: Path, trials: Sequence[PlannedTrial], settings: Settings, say: Callable[[str], None]) -> None:
    """Run the trials, those that start from others after them; `say` hears what the user should know."""
    size = 1 if settings.run.devices > 1 else settings.run.pack
    for wave in waves(trials):
        grouped, lines = packs(wave, size)
        for line in lines:
            say(line)
        retried = run_tasks(tasks(out, [[trial.id for trial in pack] for pack in grouped], settings), settings, say)
        if retried:
            run_tasks(tasks(out, [[trial_id] for trial_id in retried], settings), settings, say)


def tasks(out: Path, packed: Sequence[Sequence[str]], settings: Settings) -> list[Task]:
    """A task for each pack of trial ids."""
    origin = provenance()
    return [
        Task(
            out=str(out.resolve()),
            trials=tuple(ids),
            run=settings.run,
            access=settings.access,
            provenance=origin,
            skip_hopeless=settings.skip_hopeless,
        )
        for ids in packed
    ]


def run_tasks(work: Sequence[Task], settings: Settings, say: Callable[[str], None]) -> list[str]:
    """Run tasks on the engine; returns the trials that are to be tried again, each alone."""
    retried: list[str] = []
    # Closed here whatever happens, so that no worker is left behind.
    with closing(submit(settings.run.engine, work, WORK, settings.resources)) as answers:
        for answer in answers:
            for line in notes(answer):
                say(line)
            out = Path(work[0].out)
            if again := retried_alone(out, answer):
                retried += again
            else:
                record_failures(out, answer)
    return retried


def retried_alone(out: Path, answer: Answer) -> list[str]:
    """Unfinished trials of a pack whose process died: which one caused it is unknown, so each is tried alone."""
    if not answer.died or len(answer.ends) == 1:
        return []
    return [end.trial for end in answer.ends if not TrialFolder(out, end.trial).finished]


def record_failures(out: Path, answer: Answer) -> None:
    """Mark as failed the trials that could not say so themselves, as where their process died."""
    for end in answer.ends:
        folder = TrialFolder(out, end.trial)
        if end.error and not folder.finished:
            content = {"state": State.FAILED, "error": end.error, "traceback": end.traceback}
            with writable(folder.path):
                write_json(folder.status_file, content)


def notes(answer: Answer) -> Iterator[str]:
    """What the user should know of how a task ran, a line each."""
    if answer.note:
        yield answer.note
    if answer.alone_because:
        yield f"{', '.join(end.trial for end in answer.ends)}: ran alone: {answer.alone_because}"
    reasons: dict[str, list[str]] = {}
    for end in answer.ends:
        if end.uncompiled_because:
            reasons.setdefault(end.uncompiled_because, []).append(end.trial)
    for reason, trials in reasons.items():
        yield f"{', '.join(trials)}: ran uncompiled: {reason}"
