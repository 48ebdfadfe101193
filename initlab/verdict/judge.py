"""The verdict on a trial, from its error curves alone: diverged, converged, stalled or slow. No torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from initlab.verdict.rules import LEARNED_SHARE, highest_loss, noise_floor

Columns = Mapping[str, Any] | pd.DataFrame


@dataclass(frozen=True)
class Judgement:
    """A verdict with the sentence that justifies it; `epoch_reached` is NaN where the threshold was not reached."""

    verdict: str | None  # None where what guessing has is not known
    reason: str
    epoch_reached: float = math.nan

    @property
    def censored(self) -> bool:
        """Whether the threshold was not reached within the budget."""
        return math.isnan(self.epoch_reached)


class EpochMeans(NamedTuple):
    """Arrays with an entry per epoch."""

    epoch: NDArray[np.float64]  # from 1
    steps: NDArray[np.float64]
    train_loss: NDArray[np.float64]
    train_error: NDArray[np.float64]


def judge(
    scalars: Columns,
    *,
    steps_per_epoch: int,
    batch_size: int,
    chance_loss: float,
    chance: float,
    threshold: float,
    spread: float | None = None,
) -> Judgement:
    """Judge a finished trial by its rows of scalars, by the first rule that holds.

    1. diverged: a non-finite loss, or an epoch's mean loss above 10 max(ln K, the first epoch's), ln K being the loss
       of guessing (`chance_loss`), as the variance of the labels is of squared error;
    2. converged: a validation error at or below `threshold`;
    3. stalled: no epoch's mean training error below chance - 4 sqrt(chance (1 - chance) / N), N its examples; with a
       `spread`, chance - 4 spread / sqrt(N);
    4. slow: it learns, but did not reach the threshold.

    A loop that is not ours may give no training errors; then it has learned where an epoch's mean loss is a tenth below
    that of guessing.

    Args:
        scalars: the trial's rows by step, a frame or arrays by column, named as in `Results.scalars`.
        chance: error of the best constant guess, a fraction.
        spread: standard deviation of its error from example to example, None where that is 0 or 1.
    """
    epochs = epoch_means(scalars, steps_per_epoch)
    step, epoch, train_loss, val_error = floats(scalars, "step", "epoch", "train_loss", "val_error")
    not_finite = np.flatnonzero((step > 0) & ~np.isfinite(train_loss))
    if len(not_finite):
        return Judgement("diverged", f"the loss is {train_loss[not_finite[0]]} by epoch {epoch[not_finite[0]]:.3g}")
    losses = epochs.train_loss
    highest = highest_loss(chance_loss, float(losses[0])) if len(losses) else math.inf
    if (losses > highest).any():
        worst = int(np.argmax(losses))
        reason = f"epoch {epochs.epoch[worst]:.0f} has a mean loss of {losses[worst]:.4g}, above {highest:.4g}"
        return Judgement("diverged", reason)
    best, reached = np.fmin.reduce(val_error, initial=math.nan), epoch[val_error <= threshold]
    if len(reached):
        reason = f"validation error ≤ {threshold:.3g} at epoch {reached[0]:.3g}, best {best:.3f}"
        return Judgement("converged", reason, float(reached[0]))
    lowest = np.fmin.reduce(epochs.train_error, initial=math.nan)
    if math.isnan(lowest) or math.isnan(chance):
        return judged_by_loss(losses, chance_loss)
    floors = [noise_floor(chance, steps * batch_size, spread) for steps in epochs.steps]
    if (epochs.train_error < floors).any():
        learns = f"it learns (training error down to {lowest:.3f})"
        return Judgement("slow", f"{learns} but validation error stays above {threshold:.3g}, best {best:.3f}")
    below = f"below chance ({chance:.3f}) by 4 standard errors"
    return Judgement("stalled", f"no epoch's training error is {below}; the lowest is {lowest:.3f}")


def judged_by_loss(losses: NDArray[np.float64], chance_loss: float) -> Judgement:
    """Whether a trial has learned, by the mean losses of its epochs, where its training errors are not known."""
    lowest = np.fmin.reduce(losses, initial=math.nan)
    if math.isnan(lowest) or math.isnan(chance_loss):
        return Judgement(None, "what guessing has is not known, or no update was made")
    text = f"an epoch's mean loss, {lowest:.4g} at the lowest, guessing has {chance_loss:.4g}"
    if lowest < LEARNED_SHARE * chance_loss:
        return Judgement("slow", f"it learns, by {text}; but the validation error stays above the threshold")
    return Judgement("stalled", f"it does not learn, by {text}")


def epoch_means(scalars: Columns, steps_per_epoch: int) -> EpochMeans:
    """Means over each (perhaps partial last) epoch of a trial's rows."""
    columns = floats(scalars, "step", "train_loss", "train_error")
    step, *values = (column[np.argsort(columns[0], kind="stable")] for column in columns)
    steps = np.diff(step, prepend=np.nan)
    counted = steps > 0
    steps, number = steps[counted], np.ceil(step[counted] / steps_per_epoch)
    epochs, starts = np.unique(number, return_index=True)
    # Of a loop that made no update there are none.
    ends = [*starts[1:], len(number)][: len(starts)]

    def sums(weighted: NDArray[np.float64]) -> NDArray[np.float64]:
        """Over each epoch; not finite where a part is, for an epoch with a non-finite row has no mean."""
        return np.array([weighted[start:end].sum() for start, end in zip(starts, ends, strict=True)])

    total = sums(steps)
    loss, error = (sums(value[counted] * steps) / total for value in values)
    return EpochMeans(epochs, total, loss, error)


def floats(scalars: Columns, *names: str) -> list[NDArray[np.float64]]:
    """Columns as arrays."""
    return [np.asarray(scalars[name], float) for name in names]
