"""The claims that studies declare, checked on their results: a reproduction is a test that can fail."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from initlab.analysis.arm_comparison import counted, effect_text
from initlab.analysis.arms import chosen, timed_trials
from initlab.analysis.claims import AHEAD
from initlab.analysis.comparison import compare_paper
from initlab.analysis.effects import Effect, adjusted, effect
from initlab.analysis.intervals import FEWEST_SEEDS, share_interval, t_interval
from initlab.analysis.panels import SEED, Shown, as_list
from initlab.engine.task import State
from initlab.errors import UserError
from initlab.study.claims import Claim


@dataclass(frozen=True)
class CheckedClaim:
    """A claim, the figures that it stands on, and whether it holds; None where too little is known."""

    claim: str
    figures: str
    holds: bool | None


def check_claims(results: Shown) -> list[CheckedClaim]:
    """Check the `claims:` of the studies on their trials; Holm goes over the `faster` ones.

    `faster` and `within` are open below 5 seeds; from 5 on `faster` fails where the data do not show it. A claim that
    holds so far is open while trials of its arms are unfinished.

    Raises:
        UserError: no study has a claim, or an arm has no trials, or several of one seed.
    """
    claims = [claim for one in as_list(results) for claim in one.study.claims]
    if not claims:
        raise UserError("compare: no claims in the study (got none); give --by FIELD or --paper FIGURE, or add claims:")
    trials, fields = timed_trials(results)
    arms = [arms_of(trials, fields, claim, place) for place, claim in enumerate(claims)]
    faster = [place for place, claim in enumerate(claims) if claim.claim == "faster"]
    effects = dict(zip(faster, adjusted([effect(*map(finished, arms[place])) for place in faster]), strict=True))
    tested = sum(not math.isnan(one.p) for one in effects.values())
    checked = []
    for place, claim in enumerate(claims):
        match claim.claim:
            case "faster":
                figures, holds = faster_figures(effects[place], claim.times, tested)
            case "within":
                figures, holds = within(claim, [finished(arm) for arm in arms[place]])
            case "same_order":
                figures, holds = same_order(results, str(claim.figure))
            case _:
                figures, holds = reaching(arms[place][0], never=claim.claim == "never_reaches")
        # What the finished trials disprove stays so.
        if unfinished := sum(int(arm.verdict.isna().sum()) for arm in arms[place]):
            figures, holds = f"{figures}; {counted(unfinished)} unfinished", holds and None
        checked.append(CheckedClaim(wording(claim), figures, holds))
    return checked


def arms_of(trials: pd.DataFrame, fields: list[str], claim: Claim, place: int) -> list[pd.DataFrame]:
    """The trials of a claim's arm and of the other one, one per seed; none for the order of a figure."""
    wheres = [] if claim.claim == "same_order" else [claim.arm, claim.other()][: 1 + bool(claim.than)]
    arms = [chosen(trials, where, f"claims[{place}]") for where in wheres]
    for arm, where in zip(arms, wheres, strict=True):
        if arm[SEED].duplicated().any():
            differ = ", ".join(path for path in fields if arm[path].nunique(dropna=False) > 1)
            raise UserError(f"claims[{place}]: several trials of one seed (got {named(where)}); fix {differ} too")
    if len({f"{threshold:.9g}" for arm in arms for threshold in arm.threshold.dropna()}) > 1:
        raise UserError(f"claims[{place}]: arms with several thresholds (got {wording(claim)}); set verdict.threshold")
    return arms


def finished(arm: pd.DataFrame) -> pd.DataFrame:
    """The trials that have a verdict."""
    return arm[arm.verdict.notna()]


def faster_figures(measured: Effect, times: float, tested: int) -> tuple[str, bool | None]:
    """Whether one arm is at the threshold sooner, with the figures."""
    if measured.seeds == 0:
        return "no seed that both arms have finished", None
    counts = " and ".join(f"{reached} of {measured.seeds}" for reached in measured.reached)
    return f"{effect_text(measured, tested)}; {counts} seeds", measured.shows_sooner(times)


def reaching(arm: pd.DataFrame, *, never: bool) -> tuple[str, bool | None]:
    """Whether every finished seed, or none, reached the threshold; one that was stopped early leaves "none" open."""
    done = finished(arm)
    if done.empty:
        return "nothing finished", None
    count = int(done.reached.sum())
    share = share_interval(count, len(done))
    interval = f"95 % interval of the share {share.low:.0%} to {share.high:.0%}"
    figures = f"{count} of {len(done)} seeds in {done.budget.min():.4g} epochs; {interval}"
    stopped = int(((done.state == State.STOPPED) & ~done.reached).sum())
    if stopped:
        figures += f"; {stopped} stopped early"
    if not never:
        return figures, count == len(done)
    return figures, False if count else None if stopped else True


def within(claim: Claim, arms: list[pd.DataFrame]) -> tuple[str, bool | None]:
    """Whether the interval of the mean lowest error, less the other arm's or the published one, lies within `by`.

    It fails where the interval lies outside, and is open where it goes over the edge or the seeds are too few.
    """
    errors = [arm.set_index(SEED).best_val_error.astype(float) for arm in arms]
    target = errors[1] if len(errors) == 2 else float(claim.error or 0)
    differences = np.asarray((errors[0] - target).dropna(), float)
    interval, by = t_interval(differences), float(claim.by or 0)
    figures = f"{interval.estimate:+.3g} [{interval.low:.3g}, {interval.high:.3g}], {len(differences)} seeds"
    if len(differences) < FEWEST_SEEDS:
        return f"{figures}, too few below {FEWEST_SEEDS}", None
    if -by <= interval.low and interval.high <= by:
        return figures, True
    return figures, False if interval.low > by or interval.high < -by else None


def same_order(results: Shown, figure: str) -> tuple[str, bool | None]:
    """Whether He is ahead of Xavier at every level, as in the figure."""
    (order,) = (claim for claim in compare_paper(results, figure).claims if claim.claim == AHEAD)
    return order.ours, order.agrees


def wording(claim: Claim) -> str:
    """`init.scheme=he, net.depth=22 faster than init.scheme=xavier`."""
    arm = named(claim.arm)
    match claim.claim:
        case "faster":
            times = f" by more than {claim.times:g}×" if claim.times > 1 else ""
            return f"{arm} faster than {named(claim.than)}{times}"
        case "within":
            return f"{arm} within {claim.by:g} of {named(claim.than) if claim.than else claim.error}"
        case "same_order":
            return f"{AHEAD}, as in {claim.figure}"
        case _:
            return f"{arm} {claim.claim.replace('_', ' ')} the threshold"


def named(where: Mapping[str, Any]) -> str:
    """`init.scheme=he, net.depth=22`."""
    return ", ".join(f"{path}={value}" for path, value in where.items())
