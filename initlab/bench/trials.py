"""The trials that benchmarks measure: the first of a study, and one whose steps they take themselves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from initlab.attempt.assemble import build_net, load_data
from initlab.engine.task import DataAccess
from initlab.plan.plan import PlannedTrial, plan
from initlab.study.mistakes import StudyError
from initlab.study.spec import TrialSpec
from initlab.study.study import Study, load_study
from initlab.train.records import Silent
from initlab.train.trial import Trial


def first_trial(study: Path | None, default: dict[str, Any], overrides: Sequence[str]) -> tuple[Study, PlannedTrial]:
    """A study, `default` where no file is named, and its first trial; fields without a study are a StudyError."""
    if study is None and overrides:
        raise StudyError([f"--set: goes with a study (got {overrides[0]!r} and none); name one"])
    loaded = load_study(study, overrides) if study else Study.model_validate(default)
    return loaded, plan(loaded, str(study) if study else None)[0]


def silent_trial(spec: TrialSpec, device: torch.device, access: DataAccess) -> Trial:
    """A trial before its first step, with its net in training mode; it records nothing."""
    data = load_data(spec, device, access, {}, lambda line: None)
    trial = Trial(spec, build_net(spec, data, device), data, Silent())
    trial.net.train()
    return trial
