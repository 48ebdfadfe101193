"""`initlab bench exponents`: how well the two exponents of a trunk at the start foretell the loss after training.

Each trial's net is built and initialised again, and its exponents are measured on its probe images in float64
(`initlab.signal.exponents`); nothing is trained. Trials that differ in depth and seed alone are near twins: what
foretells one has seen none of them, and intervals are bootstraps over such groups.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from initlab.analysis.panels import DEPTH
from initlab.attempt.assemble import build_net, load_data
from initlab.bench.tables import read_table
from initlab.engine.task import DataAccess
from initlab.errors import UserError
from initlab.plots.exponents import NORM, exponents
from initlab.plots.save import write
from initlab.signal.exponents import exponents_of
from initlab.signal.trunk import trunk_of
from initlab.store.results import Results
from initlab.store.studies import load
from initlab.study.paths import getattr_path

Array = NDArray[np.float64]
# Fields within which trials are twins.
TWINS = [NORM, "net.branch_factor", "init.scheme", "init.std", "init.embedding_std", "init.branches"]
FIELDS = [DEPTH, "seed", *TWINS]
COLUMNS = ["trial", *FIELDS, "loss", "chance", "angle", "gradient", "blocks", "angle_spread", "gradient_spread"]
# A rate per block below which blocks change next to nothing, added before the logarithm is taken.
FLOOR = 0.01
RESAMPLES = 1000
# Groups of twins from which on anything is said.
FEWEST = 8


def bench_exponents(source: Path) -> Iterator[str]:
    """Lines of text: rank correlations with the loss, and how much of it regressions foretell; draws the figure too.

    Args:
        source: an output folder of a study of transformers, whose figures get exponents.csv, .png and .svg; or such a
            csv, which is read and drawn again.

    Raises:
        UserError: not such a folder or table, or unfinished trials.
    """
    if source.suffix == ".csv":
        folder, table = source.parent, read_table(source, COLUMNS, "exponents", "exponents", "exponents.csv")
    else:
        results = load(source)
        folder, table = results.figures, trial_table(results)
        folder.mkdir(exist_ok=True)
    paths = write(folder, "exponents", table, exponents(table))
    finite = np.isfinite(table[["angle", "gradient"]].to_numpy(float)).all(axis=1)
    known = table[finite].reset_index(drop=True)
    yield f"{len(table)} trials, {len(table) - len(known)} of them without a finite exponent and left out"
    learn = known[(known.loss < known.chance).to_numpy()].reset_index(drop=True)
    for name, part in (("foretold by", known), (f"of the {len(learn)} below chance", learn)):
        few = len(part.groupby(TWINS, dropna=False)) < FEWEST
        lines = (
            [f"too few nets that differ in more than depth and seed; {FEWEST} are needed"] if few else score_lines(part)
        )
        yield from ["", f"{name:<26} {'rank correlation':<20}  R2 of trials left out", *lines]
    yield ""
    for norm in known[NORM].unique():
        part = known[(known[NORM] == norm).to_numpy()].reset_index(drop=True)
        if len(part.groupby(TWINS, dropna=False)) >= FEWEST:
            ranks = [f"{name} {interval(part, size(part), rank_correlation)}" for name, size in SIZES.items()]
            yield f"{f'of norm {norm}, by rank':<26} {', '.join(ranks)}"
    yield from ["", *(f"wrote {path}" for path in paths)]


def trial_table(results: Results) -> pd.DataFrame:
    """One row per trial with `COLUMNS`: its fields, the last validation loss and what equal odds have, its exponents.

    A loss above chance, or of a trial that diverged, is chance's.

    Raises:
        UserError: unfinished trials, or code of the user's.
    """
    device, access, rows = torch.device("cpu"), DataAccess(), []
    losses = results.scalars.dropna(subset="val_loss").groupby("trial").val_loss.last()
    verdicts = results.verdicts.set_index("trial").verdict
    for trial in results.stored:
        spec = trial.spec
        if not isinstance(verdicts[trial.id], str):
            raise UserError(f"{results.out}: {trial.id} is not finished; the same `initlab run` goes on")
        data = load_data(spec, device, access, {}, lambda line: None)
        # In float64: of a net that explodes float32 gives no gradient.
        net = build_net(spec, data, device).double()
        measured = exponents_of(trunk_of(net, *data.probe_batch(spec.probe.examples)))
        chance = math.log(data.num_classes)
        loss = chance if verdicts[trial.id] == "diverged" else min(losses[trial.id], chance)
        fields = {path: getattr_path(spec, path) for path in FIELDS}
        rows.append({"trial": trial.id, **fields, "loss": loss, "chance": chance, **measured._asdict()})
    return pd.DataFrame(rows, columns=COLUMNS)


def logs(table: pd.DataFrame) -> Array:
    """ln of both exponents' sizes (N, 2), next to nothing being -4.6."""
    sizes: Array = table[["angle", "gradient"]].abs().to_numpy(float)
    return np.log(sizes + FLOOR)


def curved(table: pd.DataFrame) -> Array:
    """Both logarithms, their squares and their product (N, 5)."""
    angle, gradient = logs(table).T
    return np.column_stack([angle, gradient, angle**2, gradient**2, angle * gradient])


def norms(table: pd.DataFrame) -> Array:
    """Which norm a trial has, 0 or 1 each."""
    return pd.get_dummies(table[NORM]).to_numpy(float)


SIZES: dict[str, Callable[[pd.DataFrame], Array]] = {
    "|angle|": lambda table: table.angle.abs().to_numpy(float),
    "|gradient|": lambda table: table.gradient.abs().to_numpy(float),
}
# What each regression is on; by rank, one on a single exponent is that exponent's size.
PREDICTORS: dict[str, Callable[[pd.DataFrame], Array]] = {
    "|angle|": lambda table: logs(table)[:, :1],
    "|gradient|": lambda table: logs(table)[:, 1:],
    "both": logs,
    "both, curved": curved,
    "the norm alone": norms,
    "the norm and both, curved": lambda table: np.hstack([norms(table), curved(table)]),
}


def score_lines(table: pd.DataFrame) -> Iterator[str]:
    """One line per predictor: rank correlation with the loss, and R2."""
    for name, features in PREDICTORS.items():
        foretold = left_out(features(table), table)
        ranked = SIZES[name](table) if name in SIZES else foretold
        ranks = interval(table, ranked, rank_correlation)
        yield f"{name:<26} {ranks:<20}  {interval(table, foretold, explained)}"


def left_out(features: Array, table: pd.DataFrame) -> Array:
    """The loss of each trial by least squares on those that are not its twins."""
    groups = table.groupby(TWINS, dropna=False).ngroup().to_numpy()
    inputs, loss = np.column_stack([np.ones(len(table)), features]), table.loss.to_numpy(float)
    foretold = np.empty(len(table))
    for group in range(groups.max() + 1):
        out = groups == group
        foretold[out] = inputs[out] @ np.linalg.lstsq(inputs[~out], loss[~out], rcond=None)[0]
    return foretold


def rank_correlation(values: Array, loss: Array) -> float:
    """Spearman's: 1 where the loss rises with the values throughout; NaN where one of them does not vary."""
    with np.errstate(invalid="ignore"):
        return float(np.corrcoef(rankdata(values), rankdata(loss))[0, 1])


def explained(foretold: Array, loss: Array) -> float:
    """R2: the share of the loss's variance that is foretold; below 0 the mean would be nearer."""
    return float(1 - np.mean((loss - foretold) ** 2) / loss.var())


def interval(table: pd.DataFrame, values: Array, score: Callable[[Array, Array], float]) -> str:
    """A score with the 95 % interval of a bootstrap over groups of twins: `0.71 [0.52, 0.83]`."""
    loss, rng = table.loss.to_numpy(float), np.random.default_rng(0)
    groups = [np.asarray(rows) for rows in table.groupby(TWINS, dropna=False).indices.values()]
    samples = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([groups[group] for group in rng.integers(len(groups), size=len(groups))])
        samples.append(score(values[rows], loss[rows]))
    low, high = np.nanquantile(samples, [0.025, 0.975])
    return f"{score(values, loss):.2f} [{low:.2f}, {high:.2f}]"
