"""The study of an output folder, and the specs of the trials that it plans."""

import os
from pathlib import Path

import yaml

from initlab.errors import one_line
from initlab.plan.plan import plan
from initlab.store import files
from initlab.store.files import StoreError
from initlab.study.mistakes import StudyError
from initlab.study.spec import TrialSpec
from initlab.study.study import Study


def study_of(out: Path) -> tuple[Study, dict[str, TrialSpec]]:
    """The study in an output folder or an export, and its trials by id.

    Raises:
        StoreError: no such folder, no study in it, or one of a newer initlab.
    """
    study, hint = out / files.STUDY, "give the folder that `initlab run` wrote"
    # Also where the name is longer than any may be.
    if not os.path.isdir(out):
        raise StoreError(f"{out}: no such output folder; {hint}")
    if not study.exists():
        raise StoreError(f"{out}: not an output folder (no {files.STUDY} in it); {hint}")
    try:
        content = Study.model_validate(yaml.safe_load(study.read_text()))
        return content, {trial.id: trial.spec for trial in plan(content)}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = error.lines[0] if isinstance(error, StudyError) else one_line(error)
        raise StoreError(f"{study}: not a study that this initlab reads ({reason}); run the study again") from None
