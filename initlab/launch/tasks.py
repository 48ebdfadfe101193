"""Trials as tasks for an engine, and what is made of the answers."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from initlab.engine.submit import Work, submit
from initlab.engine.task import Answer, State, Task
from initlab.launch.machine import provenance
from initlab.launch.settings import Settings
from initlab.plan.packs import packs
from initlab.plan.plan import PlannedTrial, waves
from initlab.store.files import writable, write_json
from initlab.store.trial_folder import TrialFolder
from initlab.study.run_options import Run

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

    def run_packs(packed: Packs, settings: Settings) -> Ended:
        """Run packs under these settings."""
        return run_tasks(tasks(out, packed, sources, settings), settings, say) if packed else Ended()

    for packed in queue:
        ended: list[Ended] = []
        rounds = [(packed, settings)]
        if settings.run.gpus_per_trial == "auto" and settings.run.device != "cpu":
            kinds = by_kind(packed)
            ended.append(run_packs([packs_of_kind[0] for packs_of_kind in kinds], by_itself(settings)))
            rounds = sharing(kinds, ended[0].memory, settings, say)
        ended += [run_packs(part, under) for part, under in rounds]
        retried = {trial for each in ended for trial in each.retried}
        ended.append(run_packs([[trial] for pack in packed for trial in pack if trial.id in retried], settings))
        # A trial that found the device full of others has it whole, once.
        crowded = {trial for each in ended for trial in each.crowded}
        if crowded:
            say(f"{len(crowded)} trials ran out of the device's memory; each is tried once more, alone on it")
            run_packs([[trial] for pack in packed for trial in pack if trial.id in crowded], by_itself(settings))


def by_kind(packed: Packs) -> list[Packs]:
    """The packs by what decides how much memory they take: images, net, batch and how they are trained."""
    kinds: dict[object, Packs] = {}
    for pack in packed:
        spec, train = pack[0].spec, pack[0].spec.train
        kind = (spec.data, spec.net, train.batch_size, train.optimizer, train.precision, train.auxiliary, len(pack))
        kinds.setdefault(kind, []).append(pack)
    return list(kinds.values())


def sharing(
    kinds: Sequence[Packs], memory: dict[str, float], settings: Settings, say: Callable[[str], None]
) -> list[tuple[Packs, Settings]]:
    """All but the first pack of each kind, in rounds of those of which as many share a GPU, each with its settings.

    Args:
        memory: share of the GPU's memory that each kind's first trial took; one that is not there leaves no room.
    """
    rounds: dict[int, Packs] = {}
    for first, *others in kinds:
        rounds.setdefault(places(memory.get(first[0].id)), []).extend(others)
    run, parts = settings.run, []
    for at_once, packed in rounds.items():
        if packed:
            count = sum(map(len, packed))
            say(f"{count} trials share GPUs, {at_once} on each at once, by the memory that the first of their net took")
            # Ray counts GPUs itself.
            jobs = min(run.jobs or at_once, at_once) if run.engine == "inline" else run.jobs
            update = {"gpus_per_trial": 1.0 / at_once, "jobs": jobs}
            parts.append((packed, replace(settings, run=run.model_copy(update=update))))
    return parts


def places(memory: float | None) -> int:
    """How many processes that take this share of a GPU's memory it has room for, with a tenth of each to spare."""
    return max(1, int(1 / (1.1 * memory))) if memory else 1


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
    """The settings under which a trial has GPUs of its own."""
    gpus = settings.resources.gpus
    update = {"jobs": 1, "pack": 1, "gpus_per_trial": float(max(1, math.ceil(gpus)))}
    return replace(settings, run=settings.run.model_copy(update=update))


@dataclass
class Ended:
    """What is known after tasks have ended, beside the store."""

    retried: list[str] = field(default_factory=list)  # trials that are to be tried again, each alone
    crowded: list[str] = field(default_factory=list)  # those that ran out of a device's memory, maybe shared
    memory: dict[str, float] = field(default_factory=dict)  # share of a GPU's memory that a trial's process took


def run_tasks(work: Sequence[Task], settings: Settings, say: Callable[[str], None]) -> Ended:
    """Run tasks on the engine."""
    ended = Ended()
    run = settings.run
    shared = run.jobs != 1 or run.pack > 1 or 0 < settings.resources.gpus < 1
    # Closed here whatever happens, so that no worker is left behind.
    with closing(submit(run.engine, work, WORK, settings.resources)) as answers:
        for answer in answers:
            for line in notes(answer):
                say(line)
            out = Path(work[0].out)
            ended.crowded += [end.trial for end in answer.ends if shared and end.out_of_memory]
            if answer.memory_share:
                ended.memory |= dict.fromkeys((end.trial for end in answer.ends), answer.memory_share)
            if again := retried_alone(out, answer):
                ended.retried += again
            else:
                record_failures(out, answer, work)
    return ended


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
