"""`initlab bench forecast`: fit the forecast on a phase study and say how right it is on trials that it did not see.

Trials are held out by whole cells, all learning rates and seeds of one (std, depth): trials of one cell have nearly the
same signals at step 0, so a split by trial or by seed would test on twins of the training set. Every trial is predicted
once, by a fit on four fifths of the cells. Beside it stand two harder tests, the largest depth and the largest learning
rate left out whole, and two baselines. The fit that initlab ships is on all trials.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from initlab.errors import UserError
from initlab.plots.phase import STD, critical_std
from initlab.store.results import Results
from initlab.store.studies import load
from initlab.verdict.hopeless import stop_step
from initlab.verdict.odds import FEATURES, FITTED, VERDICTS, Fit

CELL = [STD, "net.depth"]
LR = "train.lr"
COLUMNS = ["trial", *CELL, LR, "seed", "critical_std", "verdict", "steps", "stop_step", *FEATURES]
FOLDS = 5
# L2, of the standardised weights: scikit-learn's default.
REGULARISATION = 1.0
# Of the highest probability, in the reliability table.
BINS = (0.0, 0.5, 0.7, 0.9, 1.0)
Array = NDArray[np.float64]
# From trials to learn from and trials to predict to the odds (N, 4) of the latter.
Predict = Callable[[pd.DataFrame, pd.DataFrame], Array]


def bench_forecast(source: Path, write: bool) -> Iterator[str]:
    """Lines of text: accuracy, Brier score, log loss and reliability on held-out trials; `write` keeps the fit.

    `source` is an output folder of a phase study, or the forecast.csv that this command left in its figures.

    Raises:
        UserError: not such a folder or table, or unfinished trials.
    """
    path = source
    if source.suffix != ".csv":
        results = load(source)
        path = results.figures / "forecast.csv"
        path.parent.mkdir(exist_ok=True)
        trial_table(results).to_csv(path, index=False, lineterminator="\n", float_format="%.6g")
    # The table is read back, so that the file gives the same figures later.
    table = read_table(path)
    counts = ", ".join(f"{(table.verdict == name).sum()} {name}" for name in VERDICTS)
    yield f"{len(table)} trials ({counts}), held out by (std, depth) in {FOLDS} folds"
    yield from ["", f"{'held out':<24} {'predicted by':<22} {'trials':>6}  accuracy  Brier  log loss"]
    yield from score_lines(table)
    odds = held_out(table, regression)
    yield from ["", "highest probability   trials  its mean  share right", *reliability_lines(table, odds)]
    yield from ["", "verdict     said converged   slow  stalled  diverged", *confusion_lines(table, odds)]
    yield from ["", hopeless_line(table)]
    if write:
        write_fit(fit(table), len(table))
        yield f"wrote {FITTED}"


def trial_table(results: Results) -> pd.DataFrame:
    """One row per trial with `COLUMNS`: fields, theory's critical std, verdict, when it would be given up, features.

    Raises:
        UserError: unfinished trials, or a study without a std per trial.
    """
    forecasts = results.forecasts.drop(columns=list(VERDICTS))
    table = results.trials[results.trials.in_study].merge(forecasts, on="trial")
    if STD not in table or LR not in table or table.verdict.isna().any() or len(table) < len(results.planned):
        raise UserError(f"{results.out}: not a finished study over {STD}, net.depth and {LR}; run sweeps/phase.yaml")
    stored = {trial.id: trial for trial in results.stored}
    curves, probes = (dict(iter(frame.groupby("trial"))) for frame in (results.scalars, results.signals))
    rows = []
    for name in table.trial:
        spec, status = stored[name].spec, stored[name].status
        size, facts = spec.train.batch_size, {key: status[key] for key in ("steps", "chance")}
        by_step: Any = {step: layers.to_dict("records") for step, layers in probes[name].groupby("step")}
        curve: Any = curves[name].to_dict("records")
        stop = stop_step(curve, by_step, batch_size=size, steps_per_epoch=status["train_examples"] // size, **facts)
        rows.append({"critical_std": critical_std(spec), "steps": status["steps"], "stop_step": stop})
    return pd.concat([table.reset_index(drop=True), pd.DataFrame(rows)], axis=1)[COLUMNS]


def read_table(path: Path) -> pd.DataFrame:
    """The table that an earlier run of this command left, and theory's `growth`, (depth - 1) ln(std / critical)."""
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give what `initlab bench forecast` left") from None
    if absent := set(COLUMNS) - set(table):
        raise UserError(f"{path}: no table of a phase study (lacks {', '.join(sorted(absent))}); give forecast.csv")
    return table.assign(growth=(table["net.depth"] - 1) * np.log(table[STD] / table.critical_std))


def fit(table: pd.DataFrame, columns: Sequence[str] = FEATURES) -> Fit:
    """Logistic regression on standardised columns, L2-regularised."""
    features = table[list(columns)].to_numpy(float)
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    model = LogisticRegression(C=1 / REGULARISATION, max_iter=10_000, tol=1e-8)
    model.fit((features - mean) / scale, table.verdict)
    weights, intercepts = model.coef_, model.intercept_
    # scikit-learn keeps one row for two classes.
    if len(model.classes_) == 2:
        weights, intercepts = np.vstack([-weights, weights]) / 2, np.concatenate([-intercepts, intercepts]) / 2
    numbers = {"mean": mean, "scale": scale, "weights": weights, "intercepts": intercepts}
    numbers |= {"low": features.min(axis=0), "high": features.max(axis=0)}
    return Fit(classes=model.classes_.tolist(), **{key: values.tolist() for key, values in numbers.items()})


def write_fit(new: Fit, trials: int) -> None:
    """Keep a fit as the one that comes with initlab, with nine significant digits."""
    content = {"study": "sweeps/phase.yaml", "trials": trials, "features": FEATURES, "classes": new.classes}
    for key in ("mean", "scale", "intercepts", "low", "high", "weights"):
        content[key] = np.vectorize(lambda value: float(f"{value:.9g}"))(getattr(new, key)).tolist()
    FITTED.write_text(json.dumps(content, indent=1) + "\n")


def regression(known: pd.DataFrame, new: pd.DataFrame, columns: Sequence[str] = FEATURES) -> Array:
    """Odds (N, 4) by the forecast's own kind of fit."""
    return fit(known, columns).probabilities(new[list(columns)].to_numpy(float))


def most_frequent(known: pd.DataFrame, new: pd.DataFrame) -> Array:
    """The shares of the verdicts in the known trials, the same for every trial."""
    return np.tile(shares(known), (len(new), 1))


def theory_sign(known: pd.DataFrame, new: pd.DataFrame) -> Array:
    """The shares of the verdicts below, and from the critical std on (He et al. 2015, eq. 10): a 2-row table."""
    known_above, new_above = (trials[STD] >= trials.critical_std * 0.999 for trials in (known, new))
    below, above = (shares(known[side] if side.any() else known) for side in (~known_above, known_above))
    return np.where(new_above.to_numpy()[:, None], above, below)


def shares(trials: pd.DataFrame) -> Array:
    """Share of each of `VERDICTS`."""
    return np.array([(trials.verdict == name).mean() for name in VERDICTS])


def held_out(table: pd.DataFrame, predict: Predict) -> Array:
    """Odds (N, 4) for every trial, from fits that saw no trial of its (std, depth)."""
    odds = np.zeros((len(table), len(VERDICTS)))
    cells = table.groupby(CELL).ngroup().to_numpy()
    # A fixed shuffle of the cells, so that a fold is no row of the grid.
    fold = np.random.default_rng(0).permutation(cells.max() + 1)[cells] % FOLDS
    for number in range(FOLDS):
        odds[fold == number] = predict(table[fold != number], table[fold == number])
    return odds


def scores(verdicts: pd.Series, odds: Array) -> tuple[float, float, float]:
    """(accuracy, Brier score, log loss in nats) of odds (N, 4).

    The Brier score is the mean over trials of the sum over verdicts of (p - outcome)^2: 0 is perfect, odds of 1/4 each
    give 0.75, certainty of the wrong verdict 2. In the log loss a probability counts as at least 1e-3.
    """
    truth = np.array([[verdict == name for name in VERDICTS] for verdict in verdicts], dtype=float)
    right = odds.argmax(axis=1) == truth.argmax(axis=1)
    loss = -np.log(np.maximum((odds * truth).sum(axis=1), 1e-3))
    return float(right.mean()), float(((odds - truth) ** 2).sum(axis=1).mean()), float(loss.mean())


PREDICTORS: dict[str, Predict] = {
    "the forecast": regression,
    # One number of theory's, with nothing measured.
    "theory's growth": lambda known, new: regression(known, new, ["growth"]),
    "theory's sign": theory_sign,
    "the most frequent": most_frequent,
}


def score_lines(table: pd.DataFrame) -> Iterator[str]:
    """One line per test and predictor."""
    for field in ("", "net.depth", LR):
        largest = table[field] == table[field].max() if field else np.full(len(table), True)
        test = f"{field} {table[field].max():g}" if field else "cells"
        for name, predict in PREDICTORS.items():
            odds = predict(table[~largest], table[largest]) if field else held_out(table, predict)
            accuracy, brier, loss = scores(table.verdict[largest], odds)
            yield f"{test:<24} {name:<22} {len(odds):>6}  {accuracy:>8.3f}  {brier:>5.3f}  {loss:>8.3f}"


def reliability_lines(table: pd.DataFrame, odds: Array) -> Iterator[str]:
    """Per bin of the highest probability: trials, its mean, and the share in which that verdict came true."""
    best = odds.max(axis=1)
    right = np.array(VERDICTS)[odds.argmax(axis=1)] == table.verdict.to_numpy()
    for low, high in pairwise(BINS):
        inside = (best > low) & (best <= high)
        if inside.any():
            mean, share = best[inside].mean(), right[inside].mean()
            yield f"{f'{low:g} to {high:g}':<21} {inside.sum():>6}  {mean:>8.3f}  {share:>11.3f}"


def confusion_lines(table: pd.DataFrame, odds: Array) -> Iterator[str]:
    """Per verdict that came true, how often each was the most probable."""
    said = np.array(VERDICTS)[odds.argmax(axis=1)]
    for verdict in VERDICTS:
        counts = [int(((table.verdict == verdict) & (said == other)).sum()) for other in VERDICTS]
        yield f"{verdict:<11} {counts[0]:>14} {counts[1]:>6} {counts[2]:>8} {counts[3]:>9}"


def hopeless_line(table: pd.DataFrame) -> str:
    """What `--skip-hopeless` would have done to these trials, and what of it wrongly."""
    learns = table.verdict.isin(["converged", "slow"])
    stopped = table[table.stop_step.notna()]
    saved = (stopped.steps - stopped.stop_step).sum() / table.steps.sum()
    return (
        f"--skip-hopeless would stop {len(stopped)} trials, {(table.verdict == 'stalled').sum()} stalled, "
        f"{(learns & table.stop_step.notna()).sum()} of them wrongly of {learns.sum()} that learn, "
        f"and save {saved:.1%} of the steps"
    )
