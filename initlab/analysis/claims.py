"""What a convergence figure of He et al. (2015) shows, claim by claim, and whether the trials of a study agree."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from initlab.analysis.panels import SCHEME
from initlab.paper.curves import CHANCE, PaperFigure, curve, length, time_to
from initlab.paper.ratios import LevelRatio, Span

ARMS = ("he", "xavier")
AHEAD = "he ahead at every level"


@dataclass(frozen=True)
class Claim:
    """What the figure shows, what the study shows, and whether it is the same; None where too little is known."""

    claim: str
    paper: str
    ours: str
    agrees: bool | None


def learns(paper: PaperFigure, arm: pd.DataFrame) -> Claim:
    """The figure's arm of this scheme leaves chance."""
    scheme = arm[SCHEME].iloc[0]
    end = curve(paper, scheme).top1_error.iloc[-1]
    shown = f"{CHANCE} down to {end:.3f} in {length(paper):.1f} epochs"
    return Claim(f"{scheme} learns", shown, verdicts(arm), bool(arm.verdict.isin(["converged", "slow"]).all()))


def stalls(arm: pd.DataFrame) -> Claim:
    """Xavier at 30 layers never leaves chance."""
    agrees = bool((arm.verdict == "stalled").all())
    return Claim("xavier never leaves chance", f"{CHANCE} at every evaluation", verdicts(arm), agrees)


def verdicts(arm: pd.DataFrame) -> str:
    """`3 converged`, `1 slow, 2 stalled`."""
    return ", ".join(f"{count} {verdict}" for verdict, count in arm.verdict.value_counts().items())


def order(paper: PaperFigure, times: Sequence[LevelRatio]) -> Claim:
    """He is ahead of Xavier at every level that either reached."""
    reached = [level for level in paper.levels if math.isfinite(time_to(paper, "he", level))]
    ahead = [level for level in reached if time_to(paper, "he", level) < time_to(paper, "xavier", level)]
    slower_here = sum(time.ratio.low > 1 for time in times)
    shown, ours = f"{len(ahead)} of {len(reached)} levels", f"{slower_here} of {len(times)} levels"
    return Claim(AHEAD, shown, ours, slower_here == len(times) if times else None)


def slower(paper: PaperFigure, time: LevelRatio | None, threshold: float) -> Claim:
    """Xavier takes so many times as long to the threshold; one seed gives no interval, so no verdict."""
    paper_span, agrees = paper_ratio(paper), None
    if time is None:
        ours = f"neither reached {threshold:.3g}"
    elif time.seeds == 1:
        ours = f"{time.ratio} to {threshold:.3g} of one seed: no interval"
    else:
        ours = f"{time.ratio} to {threshold:.3g}; {time.coverage:.0%} interval {time.interval}"
        agrees = time.interval.meets(paper_span)
    return Claim("epochs xavier / he", str(paper_span), ours, agrees)


def paper_ratio(paper: PaperFigure) -> Span:
    """The range of the figure's own ratios over its levels, 1.43–1.48 in figure 2; a bound where Xavier has none."""
    he, xavier = ([time_to(paper, scheme, level) for level in paper.levels] for scheme in ARMS)
    ratios = [x / h for h, x in zip(he, xavier, strict=True) if math.isfinite(x)]
    if ratios:
        return Span(min(ratios), max(ratios))
    return Span(length(paper) / min(he), math.inf)
