"""Arms of a study: finished trials that differ in one field and the seed, each with the epoch at which it got there."""

import json
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from initlab.analysis.panels import BRANCHES, DEPTH, SCHEME, SEED, Shown, rows_of, shown_trials
from initlab.engine.task import State
from initlab.errors import UserError
from initlab.study.paths import TRIAL_PATHS, getattr_path
from initlab.study.study import no_such_path, resolve


def timed_trials(results: Shown) -> tuple[pd.DataFrame, list[str]]:
    """The trials with the time at which each reached its threshold, and the fields that vary.

    To the columns of `shown_trials` it adds `threshold` (as judged); `reached`; `budget`, the epochs after
    which a trial that did not reach it was last seen; `epoch`, of the first validation at or below it, else the budget;
    and `after`, of the validation before that, or the budget, so that the true time lies between the two, or is beyond
    the budget. A diverged trial never gets there in all its epochs; one stopped early, and a watched loop, count as
    far as they went.
    """
    trials, fields = shown_trials(results)
    verdicts = rows_of(results, trials, "verdicts").set_index("trial")
    if BRANCHES in trials and trials[BRANCHES].nunique(dropna=False) > 1:
        # Figures make one field of scheme and branches; here each makes arms of its own.
        trials[SCHEME] = [spec.init.scheme for spec in trials.spec]
        trials[BRANCHES] = trials[BRANCHES].fillna("none")
        fields = [*fields, BRANCHES]
    planned = trials.spec.map(lambda spec: spec.train.epochs).astype(float)
    # How long a loop of the user's was to go on, nobody said.
    as_far = (trials.state == State.STOPPED) | trials.spec.map(lambda spec: spec.watched)
    epoch = trials.trial.map(verdicts.epoch_reached).astype(float)
    scalars = rows_of(results, trials, "scalars")
    curves = dict(iter(scalars[scalars.val_error.notna()].groupby("trial").epoch))
    budget = trials.epochs_done.astype(float).where(as_far, planned)
    after = [
        last if math.isnan(reached) else max((at for at in curves[trial] if at < reached), default=0.0)
        for trial, reached, last in zip(trials.trial, epoch, budget, strict=True)
    ]
    columns: dict[str, Any] = {
        "budget": budget,
        "reached": epoch.notna(),
        "epoch": epoch.fillna(budget),
        "after": after,
    }
    return trials.assign(threshold=trials.trial.map(verdicts.threshold), **columns), fields


def chosen(trials: pd.DataFrame, where: Mapping[str, Any], option: str) -> pd.DataFrame:
    """The trials with these values at these dotted paths.

    Raises:
        UserError: no such field, a value that it cannot take, or no trial with it.
    """
    for path, value in where.items():
        check_path(path, option)
        resolved, problems = resolve(path, value)
        if problems:
            raise UserError(f"{option}: {path}: {problems[0]}")
        values = trials.spec.map(lambda spec, path=path: json.dumps(getattr_path(spec, path), sort_keys=True))
        if not (values == resolved).any():
            got = ", ".join(dict.fromkeys(values)) or "no trials"
            raise UserError(f"{option}: no trial with {path}={resolved} (got {got})")
        trials = trials[values == resolved]
    return trials


def check_path(path: str, option: str) -> None:
    """Refuse a dotted path that no trial has."""
    if path not in TRIAL_PATHS:
        raise UserError(f"{option}: {no_such_path(path, TRIAL_PATHS)}")


def check_varies(trials: pd.DataFrame, fields: list[str], by: str) -> None:
    """Refuse a field that makes no arms: unknown, the seed, or with one value."""
    check_path(by, "--by")
    varied = [path for path in fields if trials[path].nunique(dropna=False) > 1]
    allowed = ", ".join(varied) or "none here, for only the seed differs"
    if by == SEED:
        raise UserError(f"--by: a seed is a repeat, not an arm (got seed); allowed: {allowed}")
    if by not in varied:
        value = getattr_path(trials.spec.iloc[0], by)
        raise UserError(f"--by: {by} is the same in all trials (got {value}); allowed: {allowed}")


def setting_fields(trials: pd.DataFrame, fields: list[str], by: str) -> list[str]:
    """The fields, depth first, that it takes to tell apart trials of one arm and seed.

    What goes with these is left out: in the demo study, whose two depths have epochs and scales of their own, it is the
    depth alone.
    """
    settings: list[str] = []
    for path in sorted((path for path in fields if path != by), key=lambda path: path != DEPTH):
        if (trials.groupby([by, *settings], dropna=False)[path].nunique(dropna=False) > 1).any():
            settings.append(path)
    return settings
