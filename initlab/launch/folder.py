"""The output folder before a launch: checked against the trials that are to run, and the study written."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from initlab.engine.task import State
from initlab.plan.plan import PlannedTrial
from initlab.store import files
from initlab.store.files import StoreError, read_json, sweep, write_json, write_study
from initlab.store.trial_folder import TrialFolder, holds_watched_loops
from initlab.study.spec import TrialSpec
from initlab.study.study import Study, dump_study


def prepare(
    out: Path,
    study: Study,
    requested: Sequence[PlannedTrial],
    sources: dict[str, dict[str, str]],
    force: bool,
    stops: Sequence[Path] = (),
) -> list[str]:
    """Write the study, and mend the folders of trials that start anew; returns what the user should know, a line each.

    A requested trial starts anew with `force`, and where the user's code changed since an attempt that did not finish.
    Of a trial that has no folder yet nothing is written: the worker that begins it does.

    Args:
        sources: of each trial, dotted path -> hash of the user's code that it names.
        requested: the trials that this launch may run.
        stops: files that an earlier stop may have left.

    Raises:
        StoreError: a damaged file, another trial in the folder of one, or nothing but trials whose code has changed.
    """
    if holds_watched_loops(out):
        raise StoreError(f"{out}: holds loops that initlab.watch watched; give the study another folder")
    folders = {folder.id: folder for folder in TrialFolder.all_in(out)}
    known = [trial for trial in requested if trial.id in folders]
    stored = {trial.id: checked(folders[trial.id], trial, force) for trial in known}
    edited = {
        id: folders[id]
        for id, description in stored.items()
        if not force and description and folders[id].attempts() and description.get("source") != sources[id]
    }
    all_finished = len(known) == len(requested) and all(folders[id].finished for id in stored)
    lines = edited_lines(edited, sources, all_finished)
    for stop in stops:
        if stop.exists():
            stop.unlink()
            lines.append(f"removed {stop}, which an earlier stop left")
    for trial in known:
        folder = folders[trial.id]
        if force or (trial.id in edited and not folder.finished):
            # The status before the result goes: a trial without its result is not done.
            write_json(folder.status_file, {"state": State.PENDING}, sync=False)
            folder.describe(trial.spec, sources[trial.id], folder.next_attempt())
            folder.result_file.unlink(missing_ok=True)
    write_study(out / files.STUDY, dump_study(study))
    return lines


def checked(folder: TrialFolder, trial: PlannedTrial, force: bool) -> dict[str, Any] | None:
    """What trial.json says, None where there is none; refuses a folder that is damaged, or whose trial is another."""
    if not force:
        folder.result()
    if not folder.trial_file.exists():
        return None
    description = folder.description()
    spec: Any = description.get("spec")
    if spec != trial.spec.model_dump(mode="json"):
        # An older initlab wrote fewer fields: the defaults of the others are what was done.
        with suppress(ValidationError):
            spec = TrialSpec.model_validate(spec)
        if spec != trial.spec:
            raise StoreError(f"{folder.trial_file}: not the spec that its id stands for; move the folder away")
    return description


def edited_lines(edited: dict[str, TrialFolder], sources: dict[str, dict[str, str]], all_finished: bool) -> list[str]:
    """Say what becomes of trials whose code changed: unfinished ones start anew, finished ones stay.

    Raises:
        StoreError: some are finished, and so are all others that this launch may run.
    """
    paths = ", ".join(dict.fromkeys(path for id in edited for path in sources[id]))
    finished = [folder for folder in edited.values() if folder.finished]
    if finished and all_finished:
        raise StoreError(
            f"{finished[0].trial_file}: the code of {paths} changed since this trial ran; "
            "add --force to run it anew (with --only ID that one alone), or give another --out"
        )
    lines = []
    if unfinished := len(edited) - len(finished):
        lines.append(f"the code of {paths} changed: what it ran and did not finish starts anew (trials: {unfinished})")
    if finished:
        text = f"the code of {paths} changed: what it ran and finished stays as it is (trials: {len(finished)})"
        lines.append(f"{text}; --force --only ID runs one anew, as {finished[0].id}")
    return lines


def unsettled(out: Path, trials: Sequence[PlannedTrial], skip_hopeless: bool) -> list[PlannedTrial]:
    """The trials without a result, but for those that were stopped as hopeless and may stay so."""
    done = {folder.id for folder in TrialFolder.all_in(out) if settled(folder, skip_hopeless)}
    return [trial for trial in trials if trial.id not in done]


def settled(folder: TrialFolder, skip_hopeless: bool) -> bool:
    """Whether a trial has a result, or was stopped as hopeless and may stay so."""
    return folder.finished or (skip_hopeless and stopped(folder))


def stopped(folder: TrialFolder) -> bool:
    """Whether a trial was stopped as hopeless; a damaged status says nothing of it."""
    try:
        return bool(folder.status()["state"] == State.STOPPED)
    except StoreError:
        return False


def reopen(folder: TrialFolder) -> None:
    """Remove what killed writers left; a stopped trial is not finished any more, whatever happens to this launch."""
    sweep(folder.folders())
    if stopped(folder):
        write_json(folder.status_file, {**read_json(folder.status_file), "state": State.INTERRUPTED}, sync=False)
