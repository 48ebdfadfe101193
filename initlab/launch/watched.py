"""What is known of a loop that is watched, as a trial and as a case of its folder's study."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from initlab.engine.lease import Held, lease
from initlab.engine.task import State
from initlab.errors import UserError
from initlab.plan.plan import PlannedTrial, plan
from initlab.store import files
from initlab.store.files import StoreError, write_json, write_study
from initlab.store.study_file import study_of
from initlab.store.trial_folder import TrialFolder
from initlab.study.mistakes import StudyError
from initlab.study.paths import nested
from initlab.study.spec import WATCHED, TrialSpec
from initlab.study.study import validated
from initlab.user_code import well_formed

# How long a loop waits for others that begin in the same folder, each of which holds it for milliseconds.
WAITS, WAIT_S = 100, 0.05


def described(model: nn.Module, name: str, tags: Mapping[str, Any]) -> PlannedTrial:
    """The trial that stands for the loop: the class of its model, and its tags."""
    if not name.isidentifier():
        raise UserError(f"watch: name: not a name (got {name!r}); allowed: letters, digits and _, e.g. 'he_seed_1'")
    if "data.name" in tags:
        raise UserError("watch: tags: data.name: says that a loop was watched; leave it out, or say it in data.options")
    kind = f"{type(model).__module__}:{type(model).__name__}"
    class_name = kind if well_formed(kind) else "watched:model"
    case = {"data.name": WATCHED, "net.name": class_name, "init.scheme": f"watched:{name}", **tags}
    study, mistakes = validated({"name": "watched", "cases": [case]})
    if study is None or mistakes:
        raise UserError("; ".join(f"watch: tags: {path.partition('].')[2] or path}: {text}" for path, text in mistakes))
    try:
        (trial,) = plan(study)
    except StudyError as error:
        raise UserError(f"watch: tags: {error.lines[0]}") from None
    if trial.dropped:
        raise UserError(f"watch: tags: {min(trial.dropped)}: says nothing of a model of yours; use net.options")
    # As it was given, so that what is not known of it can be left out where it is written.
    return replace(trial, spec=TrialSpec.model_validate(nested(case)))


def add_to_study(out: Path, trial: PlannedTrial) -> None:
    """Have the folder's study list the trial; others may be at it in the same moment."""
    for wait in range(WAITS):
        try:
            with lease(out):
                path = out / files.STUDY
                content: dict[str, Any] = {"name": "watched", "cases": []}
                if path.exists():
                    _, specs = study_of(out)
                    if not all(spec.watched for spec in specs.values()):
                        raise StoreError(f"{out}: holds a study that initlab runs; give the loop another folder")
                    if trial.id in specs:
                        return
                    content = yaml.safe_load(path.read_text())
                content["cases"].append(case_of(trial.spec))
                write_study(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
            return
        except Held:
            if wait == WAITS - 1:
                raise
            time.sleep(WAIT_S)


def case_of(spec: TrialSpec) -> dict[str, Any]:
    """What is known of the loop, under dotted paths."""
    case: dict[str, Any] = {}
    for name, value in spec.model_dump(mode="json", exclude_unset=True).items():
        case |= {f"{name}.{key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
    return case


def begin_anew(folder: TrialFolder, trial: PlannedTrial) -> None:
    """Say what the trial is; no attempt so far counts any more."""
    if folder.attempts():
        write_json(folder.status_file, {"state": State.PENDING}, sync=False)
    folder.describe(trial.spec, {}, folder.next_attempt())
