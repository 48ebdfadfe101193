"""A study beside a convergence figure of He et al. (2015): does each thing that the figure shows hold here too?

The nets, images and epochs differ, so what is compared is what does not depend on them: which arm starts to learn,
which is ahead at every level, and how many times as long Xavier takes. Levels are shares of the error by chance. Trials
of one seed share normals, data order and masks, so He and Xavier are compared seed by seed.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from initlab.analysis.claims import ARMS, Claim, learns, order, slower, stalls
from initlab.analysis.panels import DEPTH, SCHEME, SEED, Shown, as_list, rows_of, shown_trials
from initlab.data.facts import FACTS
from initlab.errors import UserError
from initlab.paper.curves import PAPER_FIGURES
from initlab.paper.ratios import Crossing, LevelRatio, level_ratio
from initlab.study.spec import TrialSpec
from initlab.verdict.rules import default_threshold, noise_floor

# Shares of the error by chance: the paper's levels, and further down.
SHARES = (0.99, 0.98, 0.95, 0.9, 0.87, 0.8, 0.65, 0.5)


@dataclass(frozen=True)
class PaperComparison:
    """The verdict on each claim of a figure, and the times behind them."""

    figure: str
    depth: int
    seeds: list[int]
    claims: list[Claim]
    times: list[LevelRatio]

    @property
    def agrees(self) -> bool:
        """Whether every claim holds here."""
        return all(claim.agrees is True for claim in self.claims)


def compare_paper(results: Shown, figure: str = "fig3") -> PaperComparison:
    """Compare the He and Xavier trials of the figure's depth with the figure (`fig2`: 22 layers, `fig3`: 30).

    The interval of a ratio is between order statistics of the seeds' ratios, distribution-free: the range over up to
    five seeds (which holds the median with probability 1 - 2^(1 - n): 3/4 of 3 seeds), a 95 % one from six on. Seeds
    that never reach a level count with the bound that their budget gives. A time is read from the straight line between
    two validations, so one shorter than the interval between these (an epoch, if the study doesn't say) is rough.

    The demo study has figure 3's answer on every claim; at 22 layers it takes Xavier 1.5 to 7 times as long as He.

    Raises:
        UserError: an unknown figure, no trials of this depth under one of the schemes, or several of one seed.
    """
    if figure not in PAPER_FIGURES:
        raise UserError(f"--paper: unknown figure (got {figure!r}); allowed: {', '.join(PAPER_FIGURES)}")
    paper = PAPER_FIGURES[figure]
    arms = {scheme: arm_trials(results, paper.depth, scheme) for scheme in ARMS}
    seeds = sorted(set(arms["he"][SEED]) & set(arms["xavier"][SEED]))
    if not seeds:
        got = ", ".join(f"{scheme} {len(arm)}" for scheme, arm in arms.items()) + " finished"
        where = f"of he and xavier at {paper.depth} layers"
        raise UserError(f"compare: no seed with finished trials {where} (got {got}); run the study to its end")
    curves = rows_of(results, pd.concat(arms.values()), "scalars")
    chance, threshold = levels_of(arms["he"])
    floor = noise_floor(chance, validation_images(results))
    crossed = {share * chance for share in SHARES if share * chance < floor}
    times = []
    for level in sorted({*crossed, threshold}, reverse=True):
        pairs = [[crossing(curves, arms[scheme], seed, level) for scheme in ARMS] for seed in seeds]
        if time := level_ratio(level, level / chance, pairs):
            times.append(time)
    at_threshold = next((time for time in times if time.level == threshold), None)
    claims = [
        learns(paper, arms["he"]),
        learns(paper, arms["xavier"]) if figure == "fig2" else stalls(arms["xavier"]),
        order(paper, times),
        slower(paper, at_threshold, threshold),
    ]
    return PaperComparison(figure, paper.depth, [int(seed) for seed in seeds], claims, times)


def arm_trials(results: Shown, depth: int, scheme: str) -> pd.DataFrame:
    """The finished trials of one arm, one per seed."""
    trials, _ = shown_trials(results)
    arm = trials[(trials[DEPTH] == depth) & (trials[SCHEME] == scheme)]
    if arm.empty:
        got = ", ".join(f"{s} at {d}" for d, s in sorted(set(zip(trials[DEPTH], trials[SCHEME], strict=True))))
        what = f"no trials of {scheme} at {depth} layers"
        raise UserError(f"compare: {what} (got {got or 'none'}); run a study with them")
    if arm[SEED].duplicated().any():
        seed = arm[SEED][arm[SEED].duplicated()].iloc[0]
        raise UserError(
            f"compare: several trials of {scheme} at {depth} layers and seed {seed} "
            "(got trials that differ in more than seed and scheme); compare a study that fixes the rest"
        )
    return arm[arm.verdict.notna()]


def levels_of(trials: pd.DataFrame) -> tuple[float, float]:
    """Chance, and the study's threshold (half of chance where it sets none)."""
    chance, threshold = float(trials.chance.iloc[0]), float(trials.threshold.iloc[0])
    return chance, default_threshold(chance) if math.isnan(threshold) else threshold


def validation_images(results: Shown) -> float:
    """How many images each error is over; infinite where only the user's folder or code can tell."""
    spec: TrialSpec = as_list(results)[0].stored[0].spec
    known = FACTS[spec.data.name].val if spec.data.name in FACTS else 0
    return float(spec.data.val_examples or known or math.inf)


def crossing(curves: pd.DataFrame, arm: pd.DataFrame, seed: int, level: float) -> Crossing:
    """When a seed's validation error, drawn as straight lines between validations, first came down to `level`."""
    (trial,) = arm.trial[arm[SEED] == seed]
    rows = curves[(curves.trial == trial) & np.isfinite(curves.val_error)]
    epochs, errors = rows.epoch.to_list(), rows.val_error.to_list()
    for i, error in enumerate(errors):
        if error <= level:
            share = (errors[i - 1] - level) / (errors[i - 1] - error) if i else 0.0
            return Crossing(epochs[i - 1] + share * (epochs[i] - epochs[i - 1]) if i else epochs[0], epochs[-1])
    return Crossing(math.inf, epochs[-1] if epochs else 0.0)
