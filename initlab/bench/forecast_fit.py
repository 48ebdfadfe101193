"""The forecast's fit, and what it is compared with, on trials of which whole families of nets are held out."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from initlab.bench.forecast_trials import outcomes
from initlab.verdict.features import FEATURES
from initlab.verdict.odds import FITTED, QUESTIONS, VERDICTS, Fit, Question, terms_of

Array = NDArray[np.float64]
# From trials to learn from and trials to predict to the odds (N, 4) of the latter.
Predict = Callable[[pd.DataFrame, pd.DataFrame], Array]
OPTIMIZER = "train.optimizer"
# L2, of the standardised weights: scikit-learn's default.
REGULARISATION = 1.0
# Of each feature's values, which are left out of the range that is told and used, on either side.
TAIL = 0.01
# The share of verdicts that are to come true, of those that are given.
WANTED = 0.9


def fit(table: pd.DataFrame, known: Mapping[str, Mapping[str, bool]] | None = None, sure: float = 0.5) -> Fit:
    """Logistic regressions on the standardised features and their squares, L2-regularised.

    Nets of which a single layer is measured, as LSTMs, are left out: nothing is known of their change over depth.
    """
    table = table[table.depth > 0]
    features = table[list(FEATURES)].to_numpy(float)
    low, high = np.quantile(features, [TAIL, 1 - TAIL], axis=0)
    terms = terms_of(np.clip(features, low, high))
    mean, scale = terms.mean(axis=0), terms.std(axis=0)
    z = (terms - mean) / np.where(scale > 0, scale, 1.0)
    learns = table.verdict.isin(VERDICTS[:2]).to_numpy()
    asked = zip(QUESTIONS, (learns, table.verdict == "converged", table.verdict == "diverged"), strict=True)
    among = (np.full(len(table), True), learns, ~learns)
    questions = {name: regression(z[of], np.asarray(yes)[of]) for (name, yes), of in zip(asked, among, strict=True)}
    told = known or {"families": {}, "optimizers": {}}
    numbers = {"mean": mean, "scale": np.where(scale > 0, scale, 1.0), "low": low, "high": high}
    return Fit(
        questions=questions,
        families=told["families"],
        optimizers=told["optimizers"],
        sure=sure,
        **{key: values.tolist() for key, values in numbers.items()},
    )


def regression(z: Array, yes: Array) -> Question:
    """A logistic regression; where all answers are alike, their share with one of either kind added."""
    if len(set(yes)) < 2:
        share = (yes.sum() + 1) / (len(yes) + 2)
        return Question([0.0] * z.shape[1], float(np.log(share / (1 - share))))
    model = LogisticRegression(C=1 / REGULARISATION, max_iter=10_000, tol=1e-8).fit(z, yes)
    return Question(model.coef_[0].tolist(), float(model.intercept_[0]))


def write_fit(new: Fit, trials: int) -> None:
    """Keep a fit as the one that comes with initlab, with nine significant digits."""
    digits: Any = np.vectorize(lambda value: float(f"{value:.9g}"))
    content: dict[str, Any] = {"studies": "sweeps/forecast-*.yaml", "trials": trials, "features": FEATURES}
    content |= {"families": new.families, "optimizers": new.optimizers, "sure": new.sure}
    content |= {key: digits(getattr(new, key)).tolist() for key in ("low", "high", "mean", "scale")}
    content["questions"] = {
        name: {"weights": digits(question.weights).tolist(), "intercept": float(digits(question.intercept))}
        for name, question in new.questions.items()
    }
    FITTED.write_text(json.dumps(content, indent=1) + "\n")


def forecast(known: pd.DataFrame, new: pd.DataFrame) -> Array:
    """Odds (N, 4) by the forecast's own kind of fit."""
    return fit(known).probabilities(new[list(FEATURES)].to_numpy(float))


def base_rates(known: pd.DataFrame, new: pd.DataFrame) -> Array:
    """The shares of the verdicts under the same optimiser in the known trials, the same for every trial."""
    shares = {name: outcomes(own).mean(axis=0) for name, own in known.groupby(OPTIMIZER)}
    return np.array([shares.get(name, outcomes(known).mean(axis=0)) for name in new[OPTIMIZER]])


def single(feature: str) -> Predict:
    """The forecast's kind of fit on one feature and its square."""

    def predict(known: pd.DataFrame, new: pd.DataFrame) -> Array:
        # The others are the same everywhere, which leaves them without a weight.
        alone = dict.fromkeys(set(FEATURES) - {feature}, 1.0)
        return forecast(known[known.depth > 0].assign(**alone), new.assign(**alone))

    return predict


def held_out(table: pd.DataFrame, predict: Predict, by: str = "family") -> Array:
    """Odds (N, 4) for every trial, from a fit that saw none of its family, or of its value of another column."""
    odds = np.zeros((len(table), len(VERDICTS)))
    for value in table[by].unique():
        own = (table[by] == value).to_numpy()
        odds[own] = predict(table[~own], table[own])
    return odds


def learn_brier(table: pd.DataFrame, odds: Array) -> Array:
    """(p - outcome)^2 of learning, per trial: 0.25 is a coin's."""
    return np.asarray((odds[:, :2].sum(axis=1) - outcomes(table)[:, :2].sum(axis=1)) ** 2)


def beats(own: NDArray[np.bool_], ours: Array, base: Array, alone: Mapping[str, Array]) -> bool:
    """Whether the forecast of learning beat base rates and every rule of one feature on these trials.

    All are Brier scores per trial, by fits that had not seen the trial's family.
    """
    return bool(
        own.any() and ours[own].mean() < min(base[own].mean(), *(scores[own].mean() for scores in alone.values()))
    )


def known_nets(table: pd.DataFrame, ours: Array, base: Array, alone: Mapping[str, Array]) -> dict[str, dict[str, bool]]:
    """`families` and `optimizers` of a fit: of which the forecast was better than all that it is compared with.

    Optimisers are judged on the families where it was.
    """
    families = {f: beats((table.family == f).to_numpy(), ours, base, alone) for f in sorted(set(table.family))}
    told = table.family.map(families).to_numpy(bool)
    optimizers = sorted(set(table[OPTIMIZER]))
    passed = {o: beats(told & (table[OPTIMIZER] == o).to_numpy(), ours, base, alone) for o in optimizers}
    return {"families": families, "optimizers": passed}


def least_sure(table: pd.DataFrame, odds: Array) -> float:
    """The least probability of learning, or of not learning, from which on enough of what was said came true."""
    learns, said = outcomes(table)[:, :2].sum(axis=1), odds[:, :2].sum(axis=1)
    sure, right = np.maximum(said, 1 - said), (said > 0.5) == (learns > 0)
    levels = np.arange(0.5, 0.96, 0.05)
    return float(round(next((c for c in levels if right[sure >= c].mean() >= WANTED), levels[-1]), 2))
