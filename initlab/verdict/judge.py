"""The verdict on a trial, from its error curves alone: diverged, converged, stalled or slow. No torch."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from initlab.verdict.rules import highest_loss, noise_floor


@dataclass(frozen=True)
class Judgement:
    """A verdict with the sentence that justifies it; `epoch_reached` is NaN where the threshold was not reached."""

    verdict: str
    reason: str
    epoch_reached: float = math.nan

    @property
    def censored(self) -> bool:
        """Whether the threshold was not reached within the budget."""
        return math.isnan(self.epoch_reached)


def judge(
    scalars: pd.DataFrame, *, steps_per_epoch: int, batch_size: int, num_classes: int, chance: float, threshold: float
) -> Judgement:
    """Judge a finished trial by its rows of scalars, by the first rule that holds.

    1. diverged: a non-finite loss, or an epoch's mean loss above 10 max(ln K, the first epoch's);
    2. converged: a validation error at or below `threshold`;
    3. stalled: no epoch's mean training error below chance - 4 sqrt(chance (1 - chance) / N), N its examples;
    4. slow: it learns, but did not reach the threshold.

    Args:
        scalars: the trial's rows by step, columns as in `Results.scalars`.
        chance: error of the best constant guess, a fraction.
    """
    epochs = epoch_means(scalars, steps_per_epoch)
    not_finite = scalars[(scalars.step > 0) & ~np.isfinite(scalars.train_loss)]
    if len(not_finite):
        row = not_finite.iloc[0]
        return Judgement("diverged", f"the loss is {row.train_loss} by epoch {row.epoch:.3g}")
    highest = highest_loss(num_classes, float(epochs.train_loss.iloc[0])) if len(epochs) else math.inf
    if (epochs.train_loss > highest).any():
        worst = epochs.sort_values("train_loss").iloc[-1]
        reason = f"epoch {worst.epoch:.0f} has a mean loss of {worst.train_loss:.4g}, above {highest:.4g}"
        return Judgement("diverged", reason)
    best, reached = scalars.val_error.min(), scalars.epoch[scalars.val_error <= threshold]
    if len(reached):
        epoch = float(reached.iloc[0])
        reason = f"validation error ≤ {threshold:.3g} at epoch {epoch:.3g}, best {best:.3f}"
        return Judgement("converged", reason, epoch)
    lowest = epochs.train_error.min()
    floors = [noise_floor(chance, steps * batch_size) for steps in epochs.steps]
    if (epochs.train_error < floors).any():
        learns = f"it learns (training error down to {lowest:.3f})"
        return Judgement("slow", f"{learns} but validation error stays above {threshold:.3g}, best {best:.3f}")
    below = f"below chance ({chance:.3f}) by 4 standard errors"
    return Judgement("stalled", f"no epoch's training error is {below}; the lowest is {lowest:.3f}")


def epoch_means(scalars: pd.DataFrame, steps_per_epoch: int) -> pd.DataFrame:
    """One row per (perhaps partial last) epoch: epoch (from 1), steps, mean train_loss and train_error."""
    rows = scalars.sort_values("step")
    steps = rows.step.diff()
    rows = rows.assign(steps=steps, number=np.ceil(rows.step / steps_per_epoch))[steps > 0]
    weighted = rows.assign(train_loss=rows.train_loss * rows.steps, train_error=rows.train_error * rows.steps)
    columns = ["steps", "train_loss", "train_error"]
    # Not finite where a part is: an epoch with a non-finite row has no mean.
    sums = weighted.groupby("number")[columns].agg(pd.Series.sum, skipna=False)
    means = sums[columns[1:]].div(sums.steps, axis=0)
    return means.assign(steps=sums.steps, epoch=sums.index).reset_index(drop=True)
