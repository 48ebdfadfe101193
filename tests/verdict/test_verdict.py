"""Verdicts on hand-made curves."""

import math

import numpy as np
import pandas as pd
import pytest

from initlab.verdict.judge import Judgement, epoch_means, judge
from initlab.verdict.rules import default_threshold


def curve(train_error: list[float], val_error: list[float], train_loss: list[float] | None = None) -> pd.DataFrame:
    """One row per epoch of 10 steps, after a row at step 0."""
    epochs = len(train_error)
    losses = train_loss or [2.0] * epochs
    return pd.DataFrame(
        {
            "step": np.arange(epochs + 1) * 10,
            "epoch": np.arange(epochs + 1.0),
            "train_loss": [math.nan, *losses],
            "train_error": [math.nan, *train_error],
            "val_error": [0.9, *val_error],
        }
    )


def verdict(scalars: pd.DataFrame, threshold: float = default_threshold(0.9)) -> Judgement:
    # ten balanced classes, 10 steps of 32: chance 0.9, 4 standard errors are 4 sqrt(0.09/320) = 0.067
    return judge(scalars, steps_per_epoch=10, batch_size=32, chance_loss=math.log(10), chance=0.9, threshold=threshold)


def test_converged_at_the_first_validation_at_or_below_the_threshold() -> None:
    judgement = verdict(curve([0.8, 0.4, 0.1], [0.7, 0.45, 0.2]))
    assert (judgement.verdict, judgement.epoch_reached, judgement.censored) == ("converged", 2.0, False)
    assert verdict(curve([0.8, 0.4, 0.1], [0.7, 0.45, 0.2]), threshold=0.2).epoch_reached == 3.0


def test_stalled_when_no_epoch_is_four_standard_errors_below_chance() -> None:
    judgement = verdict(curve([0.9, 0.84, 0.89], [0.9, 0.9, 0.9]))
    assert (judgement.verdict, judgement.censored) == ("stalled", True)
    assert "0.840" in judgement.reason


def test_slow_when_one_epoch_is() -> None:
    assert verdict(curve([0.9, 0.82, 0.85], [0.9, 0.85, 0.86])).verdict == "slow"


def test_a_longer_epoch_needs_less_to_be_below_chance() -> None:
    scalars = curve([0.9, 0.84, 0.89], [0.9, 0.9, 0.9])
    judgement = judge(scalars, steps_per_epoch=10, batch_size=320, chance_loss=math.log(10), chance=0.9, threshold=0.45)
    assert judgement.verdict == "slow"


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_non_finite_loss_is_diverged_even_after_the_threshold_was_reached(loss: float) -> None:
    judgement = verdict(curve([0.5, 0.2, 0.9], [0.3, 0.1, 0.9], [1.0, 0.5, loss]))
    assert (judgement.verdict, judgement.censored) == ("diverged", True)
    assert "epoch 3" in judgement.reason


def test_a_loss_ten_times_above_ln_k_is_diverged_and_above_its_own_high_start_is_not() -> None:
    assert verdict(curve([0.9, 0.9], [0.9, 0.9], [2.3, 10 * math.log(10) + 0.1])).verdict == "diverged"
    assert verdict(curve([0.9, 0.9], [0.9, 0.9], [5.0, 10 * math.log(10) + 0.1])).verdict == "stalled"


def test_epoch_means_weigh_rows_by_their_steps_and_keep_a_partial_last_epoch() -> None:
    scalars = pd.DataFrame(
        {
            "step": [0, 4, 10, 12],
            "epoch": [0, 0.4, 1.0, 1.2],
            "train_loss": [math.nan, 3.0, 2.0, 1.0],
            "train_error": [math.nan, 0.9, 0.8, 0.7],
        }
    )
    means = epoch_means(scalars, steps_per_epoch=10)
    assert means.steps.tolist() == [10, 2]
    assert means.train_loss.tolist() == pytest.approx([(4 * 3.0 + 6 * 2.0) / 10, 1.0])
    assert means.train_error.tolist() == pytest.approx([0.84, 0.7])
