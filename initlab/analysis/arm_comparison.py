"""Arms of a study side by side: what each did, how they differ, and which differences the seeds support."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from initlab.analysis.arms import check_varies, chosen, setting_fields, timed_trials
from initlab.analysis.effects import Effect, adjusted, effect
from initlab.analysis.intervals import FEWEST_SEEDS, LEVEL, share_interval, t_interval
from initlab.analysis.panels import ALL, SCHEME, Shown, error_name, states, title
from initlab.analysis.survival import kaplan_meier, median_epoch
from initlab.errors import UserError
from initlab.study.unused_fields import unused_paths


class Statement(NamedTuple):
    """A sentence, and whether the data support a claim in it; else it says what they do not show."""

    text: str
    supported: bool


@dataclass(frozen=True)
class ArmComparison:
    """Arms and pairs of arms as frames, and what is to be said of them.

    `arms` has a row per setting and arm: the setting's fields, the arm's value of `by`; seeds (finished trials),
    reached, diverged; share_low and share_high, the exact interval of the share that reaches the threshold;
    median_epoch with median_low and median_high (Kaplan-Meier; infinite: never); mean_epoch, restricted to `budget`
    epochs; best_error, the mean of the lowest validation errors, with best_low and best_high.

    `pairs` has a row per setting and two arms, the quicker one first: arm, other; seeds that both have; ratio of epochs
    with ratio_low and ratio_high; saved, in restricted mean epochs, with saved_low and saved_high; p, p_adjusted (Holm
    over all rows), seeds_needed.
    """

    by: str
    arms: pd.DataFrame
    pairs: pd.DataFrame
    statements: list[Statement]


@dataclass(frozen=True)
class Contrast:
    """Two arms at one setting, each with its finished trials."""

    setting: str
    arm: str
    other: str
    level: str  # `70 % error`
    effect: Effect
    differs_too: list[str]  # further fields in which these arms differ


def compare_arms(results: Shown, by: str = SCHEME, at: Mapping[str, Any] | None = None) -> ArmComparison:
    """Compare the trials of one or several studies by a field: which value reaches the threshold sooner?

    Trials that differ in other fields too are compared where these are the same. A claim of "sooner" needs 5 seeds, an
    interval of the ratio above 1, and a log-rank p, by Holm over all comparisons made here, of at most 0.05.

    Args:
        by: dotted path of the field that makes the arms.
        at: dotted path -> value, to look at a part of the trials.

    Raises:
        UserError: an unknown field or one that does not differ, no such trials, or none that is finished.
    """
    trials, fields = timed_trials(results)
    trials = chosen(trials, at or {}, "--at")
    check_varies(trials, fields, by)
    finished = trials[trials.verdict.notna()]
    if finished.empty:
        raise UserError(f"compare: no finished trials (got {states(trials)}); run the study first")
    settings = setting_fields(finished, fields, by)
    groups = list(finished.groupby(settings, sort=False, dropna=False)) if settings else [((), finished)]
    error = error_name(results).removesuffix(" (%)").removeprefix("top-1 ")
    rows: list[dict[str, Any]] = []
    contrasts: list[Contrast] = []
    places: list[dict[str, Any]] = []
    statements: list[Statement] = []
    for values, group in groups:
        place = dict(zip(settings, values, strict=True))
        heading = title(place, group["net.name"].iloc[0]).replace("\n", ", ")
        arms = {str(arm[by].iloc[0]): arm for _, arm in group.groupby(by, sort=False, dropna=False)}
        rows += [{**place, by: name, **arm_row(arm, float(group.budget.min()))} for name, arm in arms.items()]
        if len(arms) == 1:
            statements.append(Statement(f"{next(iter(arms))}{at_setting(heading)}: nothing to compare with.", False))
        for pair in itertools.combinations(arms, 2):
            made = contrast(heading, error, {name: arms[name] for name in pair}, [f for f in fields if f != by])
            if isinstance(made, Statement):
                statements.append(made)
            else:
                contrasts.append(made)
                places.append(place)
    effects = adjusted([one.effect for one in contrasts])
    tested = sum(not math.isnan(one.p) for one in effects)
    pairs = [
        {**place, "arm": one.arm, "other": one.other, **pair_row(found)}
        for place, one, found in zip(places, contrasts, effects, strict=True)
    ]
    statements += [sentence(one, found, tested) for one, found in zip(contrasts, effects, strict=True)]
    statements.sort(key=lambda one: not one.supported)
    if unfinished := len(trials) - len(finished):
        left = states(trials[trials.verdict.isna()])
        statements.append(Statement(f"Left out of {counted(len(trials))}: {unfinished} unfinished ({left}).", False))
    return ArmComparison(by, pd.DataFrame(rows), pd.DataFrame(pairs), statements)


def arm_row(arm: pd.DataFrame, budget: float) -> dict[str, Any]:
    """What the finished trials of one arm did."""
    share = share_interval(int(arm.reached.sum()), len(arm))
    median = median_epoch(kaplan_meier(arm.epoch.to_numpy(float), arm.reached.to_numpy(bool)))
    error = t_interval(arm.best_val_error.to_numpy(float))
    return {
        **{"seeds": len(arm), "reached": int(arm.reached.sum()), "diverged": int((arm.verdict == "diverged").sum())},
        **{"share_low": share.low, "share_high": share.high, "budget": budget},
        **{"median_epoch": median.estimate, "median_low": median.low, "median_high": median.high},
        "mean_epoch": float(arm.epoch.clip(upper=budget).mean()),
        **{"best_error": error.estimate, "best_low": error.low, "best_high": error.high},
    }


def contrast(setting: str, error: str, arms: Mapping[str, pd.DataFrame], fields: Sequence[str]) -> Contrast | Statement:
    """Two arms at one setting, the quicker first; or why they cannot be compared."""
    thresholds = {name: float(arm.threshold.iloc[0]) for name, arm in arms.items()}
    first, second = arms
    if len({f"{threshold:.9g}" for threshold in thresholds.values()}) > 1:
        judged = " and ".join(f"{threshold:.3g}" for threshold in thresholds.values())
        why = f"their thresholds differ ({judged}); set verdict.threshold alike"
        return Statement(f"Not compared: {first} and {second}{at_setting(setting)}: {why}.", False)
    measured = effect(arms[first], arms[second])
    if measured.seeds == 0:
        why = "they have no seed in common"
        return Statement(f"Not compared: {first} and {second}{at_setting(setting)}: {why}.", False)
    if measured.saved.estimate < 0:
        first, second = second, first
        measured = effect(arms[first], arms[second])
    a, b = arms[first], arms[second]
    unused = frozenset().union(*(unused_paths(spec) for spec in [*a.spec, *b.spec]))
    differs_too = [path for path in fields if path not in unused and {*map(str, a[path])} != {*map(str, b[path])}]
    level = f"{100 * thresholds[first]:.3g} % {error}"
    return Contrast(setting, first, second, level, measured, differs_too)


def pair_row(one: Effect) -> dict[str, Any]:
    """The figures of a row of `pairs`."""
    return {
        **{"seeds": one.seeds, "ratio": one.ratio.estimate, "ratio_low": one.ratio.low, "ratio_high": one.ratio.high},
        **{"saved": one.saved.estimate, "saved_low": one.saved.low, "saved_high": one.saved.high},
        **{"p": one.p, "p_adjusted": one.p_adjusted, "seeds_needed": one.seeds_needed},
    }


def sentence(one: Contrast, found: Effect, tested: int) -> Statement:
    """What the data say of two arms."""
    error, place = one.level, at_setting(one.setting)
    first, second = (f"{reached} of {found.seeds}" for reached in found.reached)
    if found.reached == (0, 0):
        within = f"in {found.budget:.4g} epochs ({first} and {second} seeds): nothing to compare"
        return Statement(f"Neither {one.arm} nor {one.other} reaches {error}{place} {within}.", False)
    figures = effect_text(found, tested)
    if not found.shows_sooner():
        figures = "; ".join(filter(None, [figures, needed_text(found)]))
        claim = f"{one.arm} reaches {error} sooner than {one.other}{place}"
        text = f"Not shown that {claim}: {one.arm} {first} seeds, {one.other} {second}; {figures}"
    elif found.reached[1] == 0:
        never = f"{one.other} never does in {found.budget:.4g} epochs, {second}"
        text = f"{one.arm} reaches {error}{place} in {first} seeds, {never}: {figures}"
    else:
        text = f"{one.arm} reaches {error} sooner than {one.other}{place}: {figures}; {first} and {second} seeds"
    if found.unpaired:
        text += f"; left out: {counted(found.unpaired)} without a partner of the same seed"
    if one.differs_too:
        text += f"; they differ in {', '.join(one.differs_too)} too"
    return Statement(f"{text}.", bool(found.shows_sooner()))


def effect_text(measured: Effect, tested: int) -> str:
    """`3.1× [2.6, 3.9], p = 0.008`, as far as the ratio is known, and the adjusted p-value or why there is none."""
    ratio, low, high = measured.ratio
    if measured.seeds == 1:
        bound = {(1, 0): "at least ", (0, 1): "at most "}.get(measured.reached, "")
        return f"{bound}{ratio:.2g}×, of one seed no interval and no p-value"
    if measured.coverage < 1 - 2 ** (1 - FEWEST_SEEDS):
        ends = f"{low:.2g} to {high:.2g}, which hold the median with probability {measured.coverage:.2g}"
    else:
        ends = f"{low:.2g}, {high:.2g}"
    times = f"{ratio:.2g}× [{ends}]"
    if math.isinf(high):
        times = f"at least {low:.2g}×" if low > 0 else "a ratio that is open"
    if measured.seeds < FEWEST_SEEDS:
        return f"{times}, no p-value below {FEWEST_SEEDS} seeds"
    return f"{times}, p = {measured.p_adjusted:.2g}" + (f" (Holm, {tested} comparisons)" if tested > 1 else "")


def needed_text(measured: Effect) -> str:
    """How many seeds would show such a difference, where these are too few."""
    if measured.p <= LEVEL < measured.p_adjusted:
        return "so many comparisons need more seeds: compare a part, or run more"
    if math.isnan(measured.seeds_needed) or measured.seeds_needed <= measured.seeds:
        return ""
    if math.isinf(measured.seeds_needed):
        return "more than 1,000 seeds would be needed to show so small a difference"
    return f"about {measured.seeds_needed:.0f} seeds would be needed to show a difference of this size"


def counted(trials: int) -> str:
    """`1 trial`, `2 trials`."""
    return f"{trials} trial{'s' if trials > 1 else ''}"


def at_setting(setting: str) -> str:
    """` at 22 layers`; nothing where all trials are alike."""
    return "" if setting == ALL else f" at {setting}"
