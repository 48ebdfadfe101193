"""Trials as tasks for an engine, and what is made of the answers."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from initlab.engine.submit import Work, submit
from initlab.engine.task import Answer, State, Task
from initlab.launch.machine import provenance
from initlab.launch.settings import Settings
from initlab.plan.packs import packs
from initlab.plan.plan import PlannedTrial, waves
from initlab.store.files import writable, write_json
from initlab.store.trial_folder import TrialFolder
from initlab.study.spec import Run

WORK = Work(run="initlab.attempt.run_task:run_task", follow="initlab.attempt.gang:follow")


Packs = list[list[PlannedTrial]]  # trials that a process runs together
Sources = dict[str, dict[str, str]]  # of each trial, dotted path -> hash of the user's code that it names


def queue_of(trials: Sequence[PlannedTrial], run: Run) -> tuple[list[Packs], list[str]]:
    """The trials in the order in which they begin, those that start from others after them, and lines for the user."""
    cut = [packs(wave, 1 if run.devices > 1 else run.pack) for wave in waves(trials)]
    return [packed for packed, _ in cut], [line for _, lines in cut for line in lines]


def run_queue(
    out: Path, queue: Sequence[Packs], sources: Sources, settings: Settings, say: Callable[[str], None]
) -> None:
    """Run the waves of a queue one after another; `say` hears what the user should know."""
    for packed in queue:
        crowded: set[str] = set()
        retried = set(run_tasks(tasks(out, packed, sources, settings), settings, say, crowded))
        alone = [[trial] for pack in packed for trial in pack if trial.id in retried]
        if alone:
            run_tasks(tasks(out, alone, sources, settings), settings, say, crowded)
        # A trial that found the device full of others has it whole, once.
        full = [[trial] for pack in packed for trial in pack if trial.id in crowded]
        if full:
            say(f"{len(full)} trials ran out of the device's memory; each is tried once more, alone on it")
            whole = by_itself(settings)
            run_tasks(tasks(out, full, sources, whole), whole, say, set())


def tasks(out: Path, packed: Packs, sources: Sources, settings: Settings) -> list[Task]:
    """A task for each pack of trials."""
    origin, absolute = provenance(), str(out.resolve())
    return [
        Task(
            out=absolute,
            trials=tuple(trial.id for trial in pack),
            specs=tuple(trial.spec for trial in pack),
            sources=tuple(sources[trial.id] for trial in pack),
            run=settings.run,
            access=settings.access,
            provenance=origin,
            skip_hopeless=settings.skip_hopeless,
            stop=settings.stop,
        )
        for pack in packed
    ]


def by_itself(settings: Settings) -> Settings:
    """The settings under which one trial runs at a time, with whole GPUs."""
    run = settings.run
    update = {"jobs": 1, "pack": 1, "gpus_per_trial": float(max(1, math.ceil(run.gpus_per_trial)))}
    return replace(settings, run=run.model_copy(update=update))


def run_tasks(work: Sequence[Task], settings: Settings, say: Callable[[str], None], crowded: set[str]) -> list[str]:
    """Run tasks on the engine; returns the trials that are to be tried again, each alone.

    `crowded` gets those that ran out of a device's memory while they may have shared it.
    """
    retried: list[str] = []
    run = settings.run
    shared = run.jobs != 1 or run.pack > 1 or run.gpus_per_trial < 1
    # Closed here whatever happens, so that no worker is left behind.
    with closing(submit(run.engine, work, WORK, settings.resources)) as answers:
        for answer in answers:
            for line in notes(answer):
                say(line)
            out = Path(work[0].out)
            crowded |= {end.trial for end in answer.ends if shared and end.out_of_memory}
            if again := retried_alone(out, answer):
                retried += again
            else:
                record_failures(out, answer, work)
    return retried


def retried_alone(out: Path, answer: Answer) -> list[str]:
    """Unfinished trials of a pack whose process died: which one caused it is unknown, so each is tried alone."""
    if not answer.died or len(answer.ends) == 1:
        return []
    return [end.trial for end in answer.ends if not TrialFolder(out, end.trial).finished]


def record_failures(out: Path, answer: Answer, work: Sequence[Task]) -> None:
    """Mark as failed the trials that could not say so themselves, as where their process died."""
    for end in answer.ends:
        folder = TrialFolder(out, end.trial)
        if end.error and not folder.finished:
            content = {"state": State.FAILED, "error": end.error, "traceback": end.traceback}
            with writable(folder.path):
                if not folder.trial_file.exists():
                    task = next(task for task in work if end.trial in task.trials)
                    folder.describe(*task.description_of(end.trial))
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
