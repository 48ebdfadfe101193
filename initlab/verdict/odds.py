"""The odds, before any training, that a net will converge, be slow, stall or diverge.

A multinomial logistic regression on six features of step 0, whose meanings are in `MEANINGS`. `initlab bench forecast`
fitted it on the trials of sweeps/phase.yaml: plain relu nets of 6 to 30 layers and equal width on 704 digits, 220 steps
of stochastic gradient descent with momentum 0.9, batches of 32, weight decay 5e-4 and a constant lr of 0.002 to 0.025.
So it says whether a net of that kind reaches half of chance within so many steps; docs/forecast.md says how often it is
right on trials that it was not fitted on. The coefficients are in forecast.json. No torch in here: `forecast.py` is
what measures a model.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from initlab.signal.drift import slope

FITTED = Path(__file__).with_name("forecast.json")
VERDICTS = ("converged", "slow", "stalled", "diverged")
FEATURES = ("forward_change", "backward_change", "update", "decay", "loss", "depth")
MEANINGS = {
    "forward_change": "ln of the forward variance's typical factor per layer, times the layers after the first",
    "backward_change": "the same of the backward variance, towards the input",
    "update": "ln of (lr x gradient rms / weight rms), median layer; of `update_ratio` where the optimiser isn't SGD",
    "decay": "ln of (weight decay x weight rms / gradient rms), median layer; of `decay_ratio` where it isn't SGD",
    "loss": "ln of the loss at the start over ln K",
    "depth": "ln of the number of weight layers",
}
# Share of a feature's range, for the digits that the committed trials were rounded to.
SLACK = 1e-4
# The least `decay`, and its value without weight decay.
LEAST_DECAY = -20.0
# Stands for infinity, and its inverse for 0, so that every logarithm is finite.
HUGE = 1e300


@dataclass(frozen=True)
class Forecast:
    """Probabilities of the four verdicts, which sum to 1, and the features that they come from."""

    converged: float
    slow: float
    stalled: float
    diverged: float
    features: dict[str, float]
    outside: tuple[str, ...]  # one sentence per feature outside the range that the calibration saw

    @property
    def verdict(self) -> str:
        """The most probable verdict."""
        return max(VERDICTS, key=lambda name: self.probabilities[name])

    @property
    def probabilities(self) -> dict[str, float]:
        """The probability of each verdict."""
        return {name: getattr(self, name) for name in VERDICTS}

    @property
    def calibrated(self) -> bool:
        """Whether every feature lies in the range that the calibration saw."""
        return not self.outside

    def __str__(self) -> str:
        odds = ", ".join(f"{name} {value:.0%}" for name, value in self.probabilities.items())
        return odds if self.calibrated else f"{odds}; not calibrated: {'; '.join(self.outside)}"


@dataclass(frozen=True)
class Fit:
    """A fitted regression on standardised features, with the range of each that it saw."""

    classes: Sequence[str]
    mean: Sequence[float]
    scale: Sequence[float]
    weights: Sequence[Sequence[float]]  # one row per class, one number per feature
    intercepts: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]

    def probabilities(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Features (N, 6) to probabilities (N, 4) in the order of `VERDICTS`; 0 for a class that the fit never saw.

        Softmax of W z + b with z = (features - mean) / scale.
        """
        # A dead net has ln 0 = -690; further than half a range outside, a straight line through the data means nothing.
        low, high = np.array(self.low), np.array(self.high)
        z = (np.clip(features, low - (high - low) / 2, high + (high - low) / 2) - self.mean) / self.scale
        logits = z @ np.array(self.weights).T + self.intercepts
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = np.zeros((len(features), len(VERDICTS)))
        probabilities[:, [VERDICTS.index(name) for name in self.classes]] = odds / odds.sum(axis=1, keepdims=True)
        return probabilities

    def outside(self, features: NDArray[np.float64]) -> tuple[str, ...]:
        """A sentence for each of the 6 features that lies outside the calibrated range."""
        return tuple(
            f"{name} {value:.3g} is outside {low:.3g} to {high:.3g} ({MEANINGS[name]})"
            for name, value, low, high in zip(FEATURES, features, self.low, self.high, strict=True)
            if not low - SLACK * (high - low) <= value <= high + SLACK * (high - low)
        )


@cache
def shipped() -> Fit:
    """The fit that comes with initlab."""
    content = json.loads(FITTED.read_text())
    return Fit(**{field.name: content[field.name] for field in fields(Fit)})


def features_of(
    layers: pd.DataFrame, *, loss: float, chance_loss: float, lr: float, weight_decay: float, measured: bool = False
) -> NDArray[np.float64]:
    """The six numbers of `FEATURES`, meanings in `MEANINGS`, from a probe at step 0.

    Args:
        layers: one row per weight layer, in order, with forward_var, backward_var, weight_var and weight_grad_rms;
            those that never ran (NaN) are left out.
        loss: mean loss at the start.
        chance_loss: what guessing has, ln K for K classes.
        measured: take `update` and `decay` from update_ratio and decay_ratio, as the optimiser is another than SGD.

    Two layers whose variances go from 2 to 1 and weights of rms 0.1 with gradients of 1e-3 at lr 0.01 give
    forward_change -0.69 and update ln(0.01 * 1e-3 / 0.1) = -9.21.

    Raises:
        ValueError: no layer with a gradient.
    """
    table = layers[["forward_var", "backward_var", "weight_var", "weight_grad_rms"]].to_numpy(float)
    table = table[~np.isnan(table[:, 2])]
    if math.isfinite(loss):
        table = table[~np.isnan(table[:, 3])]
    if not len(table):
        raise ValueError("forecast: no weight layer has a gradient; give labels, and a model whose loss reaches one")
    # A net that overflows at once has NaN.
    table = np.clip(np.nan_to_num(table, nan=HUGE), 1 / HUGE, HUGE)
    forward, backward, weight, gradient = np.log(table).T
    ratio = float(np.median(gradient - weight / 2))
    decay = max(LEAST_DECAY, math.log(weight_decay) - ratio) if weight_decay else LEAST_DECAY
    update = math.log(lr) + ratio
    if measured:
        update = ln_median(layers.update_ratio, missing=HUGE)
        decay = max(LEAST_DECAY, ln_median(layers.decay_ratio, missing=0.0))
    start = math.log((max(loss, 1 / HUGE) if math.isfinite(loss) else HUGE) / chance_loss)
    steps = len(table) - 1
    changes = [steps * slope(forward), -steps * slope(backward)] if steps else [math.nan, math.nan]
    return np.array([*changes, update, decay, start, math.log(len(table))])


def ln_median(values: pd.Series, missing: float) -> float:
    """ln of the median layer's value, or of the `missing` one where none has any, kept finite."""
    return math.log(np.clip(np.nan_to_num(values.median(), nan=missing), 1 / HUGE, HUGE))


def forecast_of(features: NDArray[np.float64], fit: Fit | None = None) -> Forecast:
    """The forecast for the six numbers of `FEATURES`; None takes the fit that comes with initlab.

    Raises:
        ValueError: a feature that is no number, as the change over depth of a single layer: there are no odds then.
    """
    if np.isnan(features).any():
        missing = next(name for name, value in zip(FEATURES, features, strict=True) if np.isnan(value))
        raise ValueError(
            f"forecast: no odds, since {missing} is unknown ({MEANINGS[missing]}); "
            "give a model of at least two weight layers whose signals are measured"
        )
    fit = fit or shipped()
    probabilities = dict(zip(VERDICTS, map(float, fit.probabilities(features[None])[0]), strict=True))
    named = dict(zip(FEATURES, map(float, features), strict=True))
    return Forecast(**probabilities, features=named, outside=fit.outside(features))
