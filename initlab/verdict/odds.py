"""The odds, before any training, that a net will converge, be slow, stall or diverge, and where they say nothing.

Three logistic regressions on the features of step 0 and their squares: does it learn at all; if so, does it converge;
if not, does it diverge. `initlab bench forecast` fitted them on the trials of sweeps/forecast-*.yaml: a hundred steps
of the catalog's nets under SGD, Adam and AdamW on digits, CIFAR-10 and text. docs/forecast.md says how often they are
right on families of nets that were held out. The coefficients are in forecast.json. No torch in here: `forecast.py` is
what measures a model.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from initlab.study.training import Train
from initlab.verdict.features import FEATURES, MEANINGS, Array

FITTED = Path(__file__).with_name("forecast.json")
VERDICTS = ("converged", "slow", "stalled", "diverged")
CANNOT_TELL = "cannot tell"
# What the regressions answer, each for the trials that the one before it leaves.
QUESTIONS = ("learns", "converges", "diverges")
# Share of a feature's range, for the digits that the committed trials were rounded to.
SLACK = 1e-4


@dataclass(frozen=True)
class Forecast:
    """Probabilities of the four verdicts, which sum to 1, and the features that they come from."""

    converged: float
    slow: float
    stalled: float
    diverged: float
    features: dict[str, float]
    outside: tuple[str, ...]  # one sentence per reason why the calibration does not hold here
    doubt: str = ""  # why it cannot tell; "" where it can

    @property
    def learns(self) -> float:
        """The probability that it learns: that it converges or is slow."""
        return self.converged + self.slow

    @property
    def verdict(self) -> str:
        """The most probable verdict, or `cannot tell`."""
        return CANNOT_TELL if self.doubt else max(VERDICTS, key=lambda name: self.probabilities[name])

    @property
    def probabilities(self) -> dict[str, float]:
        """The probability of each verdict."""
        return {name: getattr(self, name) for name in VERDICTS}

    @property
    def calibrated(self) -> bool:
        """Whether the calibration had such nets under this optimiser, and every feature in the range that it saw."""
        return not self.outside

    def __str__(self) -> str:
        odds = f"learns {self.learns:.0%}: " + ", ".join(
            f"{name} {value:.0%}" for name, value in self.probabilities.items()
        )
        reasons = [f"cannot tell: {self.doubt}"] if self.doubt else []
        if others := [text for text in self.outside if text != self.doubt]:
            reasons.append(f"not calibrated: {'; '.join(others)}")
        return "; ".join([odds, *reasons])


@dataclass(frozen=True)
class Question:
    """One regression: a weight per standardised term, and the intercept."""

    weights: Sequence[float]
    intercept: float

    def probabilities(self, z: Array) -> Array:
        """Standardised terms (N, 14) to probabilities (N,)."""
        return np.asarray(1 / (1 + np.exp(-np.clip(z @ np.array(self.weights) + self.intercept, -500, 500))))


@dataclass(frozen=True)
class Fit:
    """The fitted regressions, the range of each feature that they saw, and where held-out trials bore them out."""

    mean: Sequence[float]  # of the terms
    scale: Sequence[float]
    low: Sequence[float]  # of the features, all but the furthest 1 % on either side
    high: Sequence[float]
    questions: Mapping[str, Question]
    # Of each, whether it was forecast better than by all that it is compared with, by fits without the family.
    families: Mapping[str, bool]
    optimizers: Mapping[str, bool]
    sure: float = 0.5  # the least probability of learning or of not learning that is worth a verdict

    def probabilities(self, features: Array) -> Array:
        """Features (N, 7) to probabilities (N, 4) in the order of `VERDICTS`.

        Each question's is sigmoid(w z + b), z = (terms - mean) / scale, the terms being the features and their squares.
        """
        # A dead net has ln 0 = -690, and outside the data a curve through them means nothing.
        z = (terms_of(np.clip(features, self.low, self.high)) - self.mean) / self.scale
        learns, converges, diverges = (self.questions[name].probabilities(z) for name in QUESTIONS)
        odds = [learns * converges, learns * (1 - converges), (1 - learns) * (1 - diverges), (1 - learns) * diverges]
        return np.stack(odds, axis=1)

    def outside(self, features: Array) -> tuple[str, ...]:
        """A sentence for each feature that lies outside the calibrated range."""
        return tuple(
            f"{name} {value:.3g} is outside {low:.3g} to {high:.3g} ({MEANINGS[name]})"
            for name, value, low, high in zip(FEATURES, features, self.low, self.high, strict=True)
            if not low - SLACK * (high - low) <= value <= high + SLACK * (high - low)
        )

    def unknown(self, family: str, train: Train) -> str:
        """Why nothing is known of a family under an optimiser; "" where held-out trials bore the forecast out."""
        for what, value, known in (
            ("nets", family or "a net of your own", self.families),
            ("optimiser", train.optimizer, self.optimizers),
        ):
            if value not in known:
                return f"the calibration had no such {what} (got {value}); it had: {'; '.join(known)}"
            if not known[value]:
                return f"of {value} it was no better than a simple rule when it had not seen any"
        return ""


def terms_of(features: Array) -> Array:
    """Features (N, 7), and their squares: steps may be too short or too long, signals vanish or go chaotic."""
    return np.hstack([features, features**2])


@cache
def shipped() -> Fit:
    """The fit that comes with initlab."""
    return fit_from(json.loads(FITTED.read_text()))


def fit_from(content: dict[str, Any]) -> Fit:
    """A fit from its JSON object."""
    questions = {name: Question(**content["questions"][name]) for name in QUESTIONS}
    return Fit(
        questions=questions,
        **{key: content[key] for key in ("mean", "scale", "low", "high", "families", "optimizers", "sure")},
    )


def forecast_of(features: Array, family: str, train: Train, fit: Fit | None = None) -> Forecast:
    """The forecast for the numbers of `FEATURES`; None takes the fit that comes with initlab."""
    fit = fit or shipped()
    probabilities = dict(zip(VERDICTS, map(float, fit.probabilities(features[None])[0]), strict=True))
    named = dict(zip(FEATURES, map(float, features), strict=True))
    unknown = fit.unknown(family, train)
    outside = (*filter(None, [unknown]), *fit.outside(features))
    learns = probabilities["converged"] + probabilities["slow"]
    doubt = unknown
    if not unknown and max(learns, 1 - learns) < fit.sure:
        doubt = f"it learns with {learns:.0%}; verdicts are given from {fit.sure:.0%} either way on"
    return Forecast(**probabilities, features=named, outside=outside, doubt=doubt)
