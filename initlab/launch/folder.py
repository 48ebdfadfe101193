"""The output folder before a launch: the study and each trial's spec written, checked against what lies there."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from initlab.engine.task import State
from initlab.plan.plan import PlannedTrial
from initlab.store import files
from initlab.store.files import StoreError, read_json, write_json, write_study
from initlab.store.trial_folder import TrialFolder
from initlab.study.spec import TrialSpec
from initlab.study.study import Study, dump_study


def prepare(
    out: Path,
    study: Study,
    trials: Sequence[PlannedTrial],
    sources: dict[str, dict[str, str]],
    requested: set[str],
    force: bool,
) -> list[str]:
    """Write the study and each trial's spec; returns what the user should know, a line each.

    A requested trial starts anew with `force`, and where the user's code changed since an attempt that did not finish.

    Args:
        sources: of each trial, dotted path -> hash of the user's code that it names.
        requested: ids of the trials that this launch may run.

    Raises:
        StoreError: a damaged file, another trial in the folder of one, or nothing but trials whose code has changed.
    """
    folders = {trial.id: TrialFolder(out, trial.id) for trial in trials}
    stored = {trial.id: checked(folders[trial.id], trial, force) for trial in trials if trial.id in requested}
    edited = {
        id: folders[id]
        for id, description in stored.items()
        if not force and description and folders[id].attempts() and description.get("source") != sources[id]
    }
    lines = edited_lines(edited, sources, all(folders[id].finished for id in requested))
    if (out / files.STOP).exists():
        (out / files.STOP).unlink()
        lines.append(f"removed {out / files.STOP}, which an earlier stop left")
    for trial in trials:
        folder = folders[trial.id]
        anew = trial.id in requested and (force or (trial.id in edited and not folder.finished))
        write_trial(folder, trial, sources[trial.id], anew)
    write_study(out / files.STUDY, dump_study(study))
    return lines


def write_trial(folder: TrialFolder, trial: PlannedTrial, source: dict[str, str], anew: bool) -> None:
    """Write what a worker needs of a trial, where it is not there or the trial is to start anew."""
    folder.path.mkdir(parents=True, exist_ok=True)
    # The status before the result goes: a trial without its result is not done.
    if anew or not folder.status_file.exists():
        write_json(folder.status_file, {"state": State.PENDING}, sync=False)
    if anew or not folder.attempts() or not folder.trial_file.exists():
        # No attempt before the first is resumed.
        first = folder.next_attempt() if anew else 0
        content = {"id": trial.id, "spec": trial.spec.model_dump(mode="json"), "source": source}
        write_json(folder.trial_file, {**content, "first_attempt": first}, sync=False)
    if anew:
        folder.result_file.unlink(missing_ok=True)


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
    """A stopped trial that is to go on is not finished any more, whatever happens to this launch."""
    if stopped(folder):
        write_json(folder.status_file, {**read_json(folder.status_file), "state": State.INTERRUPTED}, sync=False)
