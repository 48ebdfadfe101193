"""`initlab bench forecast`: how right the forecast is on families of nets that it was not fitted on, and the fit.

Every trial is predicted once, by a fit on the trials of all other families of nets. Beside it stand the shares of the
verdicts among those others under the same optimiser (base rates), and the same kind of fit on each feature alone. Where
the forecast does not beat all of them, family by family and optimiser by optimiser, it says that it cannot tell. The
fit that initlab ships is on all trials.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from initlab.bench.forecast_fit import (
    OPTIMIZER,
    Array,
    base_rates,
    beats,
    fit,
    forecast,
    held_out,
    known_nets,
    learn_brier,
    least_sure,
    single,
    write_fit,
)
from initlab.bench.forecast_trials import outcomes, trials_of
from initlab.signal.drift import HARMLESS
from initlab.verdict.features import FEATURES
from initlab.verdict.odds import FITTED, VERDICTS

OPTIMIZERS = ("sgd", "adam", "adamw")
# Of the probability of learning, in the reliability table.
BINS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


def bench_forecast(sources: Sequence[Path], write: bool) -> Iterator[str]:
    """Lines of text on trials of finished studies, or of tables that this command left; `write` keeps the fit.

    Raises:
        UserError: not such a folder or table, or no finished trial.
    """
    table = trials_of(sources)
    ours, base = held_out(table, forecast), held_out(table, base_rates)
    alone = {name: learn_brier(table, held_out(table, single(name))) for name in FEATURES}
    known = known_nets(table, learn_brier(table, ours), learn_brier(table, base), alone)
    told = (table.family.map(known["families"]) & table[OPTIMIZER].map(known["optimizers"])).to_numpy(bool)
    sure = least_sure(table[told], ours[told])
    counts = ", ".join(f"{(table.verdict == name).sum()} {name}" for name in VERDICTS)
    yield f"{len(table)} trials ({counts}), held out by family of nets"
    yield from ["", *learning_lines(table, ours, base, alone, told)]
    for name, own in (("of all but recurrent nets", (table.depth > 0).to_numpy()), ("where it tells", told)):
        yield from ["", f"said to learn      trials  its mean  share that did   ({name})"]
        yield from reliability_lines(table[own], ours[own])
    yield from ["", *score_lines(table[told], ours[told], base[told])]
    yield from ["", *verdict_lines(table[told], ours[told], sure)]
    for column in ("net.activation", "data.name"):
        yield from ["", *left_out_lines(table[told].reset_index(drop=True), column)]
    yield from ["", *verdict_share_lines(table[table["data.name"] != "topics"])]
    yield from ["", *hopeless_lines(table)]
    if write:
        write_fit(fit(table, known, sure), len(table))
        yield f"wrote {FITTED}"


def learning_lines(
    table: pd.DataFrame, ours: Array, base: Array, alone: dict[str, Array], told: NDArray[np.bool_]
) -> Iterator[str]:
    """Per family, its optimisers, and optimiser: the Brier score of learning, and of what it is compared with."""
    yield f"{'family':<24} {'optimiser':<9} {'trials':>6}  learn  forecast   base  best single feature"
    own_brier, base_brier = learn_brier(table, ours), learn_brier(table, base)
    learns = outcomes(table)[:, :2].sum(axis=1)
    families = sorted(set(table.family))
    for family in (*families, "those where it tells"):
        of_family = (table.family == family).to_numpy() if family in families else told
        for optimizer in ("all", *OPTIMIZERS):
            own = of_family & ((table[OPTIMIZER] == optimizer).to_numpy() | (optimizer == "all"))
            if not own.any():
                continue
            best = min(alone, key=lambda name: alone[name][own].mean())
            line = f"{family * (optimizer == 'all'):<24} {optimizer:<9} {own.sum():>6}  {learns[own].mean():>5.2f}"
            line += (
                f"  {own_brier[own].mean():>8.3f}  {base_brier[own].mean():.3f}  {alone[best][own].mean():.3f} {best}"
            )
            judged = optimizer == "all" or family not in families
            yield f"{line}: cannot tell" if judged and not beats(own, own_brier, base_brier, alone) else line


def reliability_lines(table: pd.DataFrame, odds: Array) -> Iterator[str]:
    """Per bin of the probability of learning: trials, its mean, and the share that did learn."""
    said, learns = odds[:, :2].sum(axis=1), outcomes(table)[:, :2].sum(axis=1)
    for low, high in pairwise(BINS):
        inside = (said >= low) & ((said < high) | (high == 1))
        if inside.any():
            mean, share = said[inside].mean(), learns[inside].mean()
            yield f"{f'{low:g} to {high:g}':<18} {inside.sum():>6}  {mean:>8.3f}  {share:>14.3f}"


def scores(table: pd.DataFrame, odds: Array) -> tuple[float, float]:
    """(Brier score, log loss in nats) of the odds (N, 4) of all four verdicts.

    The Brier score is the mean over trials of the sum over verdicts of (p - outcome)^2: 0 is perfect, odds of 1/4 each
    give 0.75, certainty of the wrong verdict 2. In the log loss a probability counts as at least 1e-3.
    """
    truth = outcomes(table)
    loss = -np.log(np.maximum((odds * truth).sum(axis=1), 1e-3))
    return float(((odds - truth) ** 2).sum(axis=1).mean()), float(loss.mean())


def score_lines(table: pd.DataFrame, ours: Array, base: Array) -> Iterator[str]:
    """Per optimiser, the scores of all four verdicts, where it tells."""
    yield "four verdicts, where it tells  trials  Brier  log loss   base rates: Brier  log loss"
    for optimizer in sorted(set(table[OPTIMIZER])):
        own = (table[OPTIMIZER] == optimizer).to_numpy()
        (brier, loss), (base_brier, base_loss) = scores(table[own], ours[own]), scores(table[own], base[own])
        yield f"{optimizer:<29}  {own.sum():>6}  {brier:.3f}  {loss:>8.3f}   {base_brier:>17.3f}  {base_loss:>8.3f}"


def verdict_lines(table: pd.DataFrame, odds: Array, sure: float) -> Iterator[str]:
    """Per verdict that came true how often each was given, and how often it could not tell."""
    learns = odds[:, :2].sum(axis=1)
    tells = np.maximum(learns, 1 - learns) >= sure
    said, true = np.array(VERDICTS)[odds.argmax(axis=1)], table.verdict.to_numpy()
    side = np.isin(said, VERDICTS[:2]) == np.isin(true, VERDICTS[:2])
    yield (
        f"a verdict from {sure:.0%} on, of learning or not: {tells.mean():.0%} of {len(table)} trials, of which "
        f"{side[tells].mean():.1%} did so, and {(said == true)[tells].mean():.1%} had this verdict"
    )
    yield "verdict     said converged   slow  stalled  diverged  cannot tell"
    for verdict in VERDICTS:
        counts = [int(((true == verdict) & (said == other) & tells).sum()) for other in VERDICTS]
        unsure = int(((true == verdict) & ~tells).sum())
        yield f"{verdict:<11} {counts[0]:>14} {counts[1]:>6} {counts[2]:>8} {counts[3]:>9} {unsure:>12}"


def left_out_lines(table: pd.DataFrame, column: str) -> Iterator[str]:
    """The Brier score of learning where all trials of one value of a column are held out instead."""
    ours, base = (learn_brier(table, held_out(table, predict, column)) for predict in (forecast, base_rates))
    yield f"{f'held out: {column}':<29}  trials  forecast   base"
    for value, own in table.groupby(column).groups.items():
        at = table.index.isin(own)
        yield f"{value:<29}  {at.sum():>6}  {ours[at].mean():>8.3f}  {base[at].mean():.3f}"


def verdict_share_lines(table: pd.DataFrame) -> Iterator[str]:
    """Of nets that `inspect` calls vanishing or saturated by their signals alone, the share that learned."""
    vanishing = table[["forward_change", "backward_change"]].min(axis=1) < -HARMLESS
    learns = table.verdict.isin(VERDICTS[:2])
    yield f"{'nets of pictures that learn':<35}" + "".join(f"{name:>18}" for name in OPTIMIZERS)
    for what, which in (
        ("signals fall below 1/400", vanishing),
        ("the loss starts above 10 ln K", table.loss > math.log(10)),
        ("neither", ~vanishing & (table.loss <= math.log(10))),
    ):
        line = f"{what:<35}"
        for name in OPTIMIZERS:
            own = learns[which & (table[OPTIMIZER] == name)]
            line += f"{f'{own.sum()} of {len(own)}':>12} {own.mean():>5.0%}"
        yield line


def hopeless_lines(table: pd.DataFrame) -> Iterator[str]:
    """What `--skip-hopeless` would have done to these trials, and what of it wrongly."""
    yield "--skip-hopeless  would stop  of stalled  wrongly  of those that learn  saves"
    for optimizer, own in table.groupby(OPTIMIZER):
        stopped, learns = own.stop_step.notna(), own.verdict.isin(VERDICTS[:2])
        saved = (own.steps - own.stop_step)[stopped].sum() / own.steps.sum()
        yield (
            f"{optimizer:<15}  {stopped.sum():>10}  {(own.verdict == 'stalled').sum():>10}  "
            f"{(stopped & learns).sum():>7}  {learns.sum():>19}  {saved:.1%}"
        )
