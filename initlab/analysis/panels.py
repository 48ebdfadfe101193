"""Which trials a figure shows and how they fall into panels and lines: a panel compares schemes at one setting.

A line is the trials of one panel and scheme, which differ in nothing but the seed. Panels go by depth; a further field
makes panels where it varies among trials of the same depth and scheme. What varies with the depth alone, as the epochs
of the demo study, or with the scheme alone, does not.
"""

import textwrap
from collections.abc import Sequence
from typing import Any, cast

import pandas as pd

from initlab.errors import UserError
from initlab.store.results import Results
from initlab.store.rows import Moment
from initlab.study.paths import TRIAL_PATHS, differing_paths, getattr_path
from initlab.user_code import is_code

Shown = Results | Sequence[Results]
SCHEME, BRANCHES, DEPTH, SEED = "init.scheme", "init.branches", "net.depth", "seed"
# What the error is of each task (`initlab.train.objective`), and in what unit its loss is.
ERRORS = {
    "classes": "top-1 error (%)",
    "positions": "error per position (%)",
    "regression": "unexplained variance (%)",
    "multilabel": "error per label (%)",
}
LOSSES = {
    "classes": " (nats per image)",
    "positions": " (nats per position)",
    "regression": " (mean square)",
    "multilabel": " (nats per label)",
}
# Title of the one panel of everything.
ALL = "all"
# Characters over the narrowest panel.
TITLE_WIDTH = 36
# Panels that a figure still shows readably.
LARGEST = 12


class NotStudied(UserError):
    """The study has nothing that this figure is about, which nobody misses who has not asked for the figure."""


def as_list(results: Shown) -> list[Results]:
    """One or several Results as a list.

    Raises:
        UserError: an empty sequence.
    """
    several = list(results) if isinstance(results, (list, tuple)) else [cast(Results, results)]
    if not several:
        raise UserError("plot: no results (got an empty sequence); give what initlab.load(OUT) returns")
    return several


def shown_trials(results: Shown) -> tuple[pd.DataFrame, list[str]]:
    """The trials of the studies, a row each: fields, verdict, spec, chance, epoch length, threshold; and what varies.

    That is the dotted paths that differ between trials, of one study or between studies, and depth, scheme, net's name.
    Trials that a study no longer contains are left out. One that lies in several folders counts once, finished before
    unfinished. `threshold` is NaN where the study sets none. Where `init.branches` varies, a scheme is one with what it
    makes of branches: `xavier, branches scaled`.
    """
    several = as_list(results)
    varying = {path for one in several for path in one.trials.columns if path in TRIAL_PATHS}
    if len(several) > 1:
        varying |= set(differing_paths([one.stored[0].spec for one in several if one.stored]))
    fields = [path for path in TRIAL_PATHS if path in varying and path != SEED]
    frames = []
    for source, one in enumerate(several):
        frame = one.trials[one.trials.in_study.astype(bool)].copy()
        for path in fields:
            if path not in frame:
                frame[path] = [getattr_path(one.stored[0].spec, path)] * len(frame)
            if frame[path].map(lambda value: isinstance(value, (dict, list))).any():
                frame[path] = frame[path].map(repr)
        for fact in ("chance", "train_examples"):
            frame[fact] = frame.trial.map({trial.id: trial.status.get(fact) for trial in one.stored}).astype(float)
        frame["spec"] = frame.trial.map({trial.id: trial.spec for trial in one.stored})
        frame["threshold"] = one.study.verdict.threshold
        frame["source"] = source
        frames.append(frame)
    trials = pd.concat(frames, ignore_index=True)
    trials["threshold"] = trials.threshold.astype(float)
    if BRANCHES in fields:
        fields.remove(BRANCHES)
        scaled = trials[BRANCHES].notna()
        trials.loc[scaled, SCHEME] += ", branches " + trials.loc[scaled, BRANCHES]
    order = trials.verdict.isna().sort_values(kind="stable").index
    return trials.loc[order].drop_duplicates("trial").sort_index(), fields


def error_name(results: Shown) -> str:
    """What the errors are, as an axis says it; of trials of several tasks `error (%)`."""
    names = {ERRORS[trial.status.get("task", "classes")] for one in as_list(results) for trial in one.stored}
    return names.pop() if len(names) == 1 else "error (%)"


def loss_unit(results: Shown) -> str:
    """` (nats per image)`; nothing for losses of several units or of the user's."""
    trials = [trial for one in as_list(results) for trial in one.stored]
    units = {LOSSES[trial.status.get("task", "classes")] for trial in trials}
    known = len(units) == 1 and not any(is_code(trial.spec.train.loss or "") for trial in trials)
    return units.pop() if known else ""


def with_panels(
    figure: str, trials: pd.DataFrame, fields: Sequence[str], by: Sequence[str], shown: Sequence[str] = (DEPTH, SCHEME)
) -> tuple[pd.DataFrame, list[str]]:
    """The trials by panel, in the study's order, with its title as `panel`; its fields: `by`, and what varies among
    trials that are alike in what a panel has `shown`.

    Raises:
        UserError: more panels than are readable.
    """
    lines = trials.groupby([*shown], sort=False, dropna=False)
    others = [path for path in fields if path not in shown]
    settings = [*by, *(path for path in others if (lines[path].nunique(dropna=False) > 1).any())]
    titles = [title({path: row[path] for path in settings}, row["net.name"]) for row in trials.to_dict("records")]
    places = {panel: place for place, panel in enumerate(dict.fromkeys(titles))}
    trials = trials.assign(panel=titles)
    if settings:
        trials = trials.sort_values(SEED, kind="stable")
        trials = trials.sort_values("panel", key=lambda panels: panels.map(places), kind="stable")
    if (count := len(places)) > LARGEST:
        limit = f"at most {LARGEST}: take {figure}_table and draw a part of it"
        raise UserError(f"{figure}: too many panels to read (got {count}, by {', '.join(settings)}); {limit}")
    return trials, settings


def by_panel(
    figure: str, points: pd.DataFrame, trials: pd.DataFrame, fields: Sequence[str], facts: Sequence[str] = ()
) -> tuple[pd.DataFrame, list[str]]:
    """The points with panel, its fields, scheme and `facts` of their trials; and the names of the first three."""
    trials, settings = with_panels(figure, trials[trials.trial.isin(points.trial)], fields, [DEPTH])
    line = ["panel", *settings, SCHEME]
    return trials[[*line, *facts, "trial"]].merge(points, on="trial", how="inner", sort=False), line


def title(setting: dict[str, Any], net: str) -> str:
    """`30 layers`, with further fields on a second line: `train.lr 0.01`; `all` of no field."""
    first = []
    if DEPTH in setting:
        first = [net.rsplit(":", 1)[-1] if is_code(net) else f"{setting[DEPTH]} layers"]
    rest = [f"{path} {value}" for path, value in setting.items() if path != DEPTH and value is not None]
    return "\n".join([*first, *textwrap.wrap(", ".join(rest), TITLE_WIDTH)]) or ALL


def rows_of(results: Shown, trials: pd.DataFrame, frame: str, epochs: Sequence[Moment] | None = None) -> pd.DataFrame:
    """Rows of each Results' `frame` (`scalars`, `signals`, ...) that belong to the trials, in the trials' order.

    With `epochs`, those of `signals` from the probes nearest to them.
    """
    parts = []
    for source, one in enumerate(as_list(results)):
        rows: pd.DataFrame = getattr(one, frame) if epochs is None else one.signals_near(epochs)
        parts.append(rows[rows.trial.isin(trials.trial[trials.source == source])])
    order = {trial: place for place, trial in enumerate(trials.trial)}
    rows = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    return rows.sort_values("trial", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def states(trials: pd.DataFrame) -> str:
    """`3 pending, 1 running` for an error message."""
    counts = trials.state.value_counts()
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "no trials"
