"""`initlab bench coverage`: how many of the signals of fresh draws lie in the 95 % band that `predict` gave beforehand.

Of each net theory is asked once, for draws with the second moments that its weights have. Then its weights are drawn
many times and measured on the same batch. A band that is right holds 92 to 98 % of the points over draws.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from initlab.bench.coverage_nets import COVERAGE_NETS
from initlab.bench.sound_nets import SoundNet
from initlab.errors import UserError
from initlab.signal.survey import variances
from initlab.signal.theory.passes import DIRECTIONS
from initlab.signal.theory.predict import predict
from initlab.signal.theory.redraw import band, draw_normals, weights_of

# What a 95 % band has to hold, of all its points over draws.
FEWEST, MOST = 0.92, 0.98


@dataclass(frozen=True)
class Covered:
    """What draws of one net showed: a row per layer that was measured, and what became of its prediction.

    `table` has name, basis ("none" where there is no prediction), and of forward and backward the share of draws inside
    the band and the median ratio of measured to predicted; NaN where there is no band.
    """

    name: str
    table: pd.DataFrame
    seconds: float


def bench_coverage(nets: Sequence[str], draws: int, seed: int, redrawn: int, layers: bool) -> Iterator[str]:
    """Lines of text: a row per net as it comes, the layers of each if asked for, and a summary.

    Args:
        nets: names of `COVERAGE_NETS`, all where there are none.
        draws: of each net.
        seed: of the net, its data and the first draw.
        redrawn: instead of theory, judge the bands that so many draws give.

    Raises:
        UserError: an unknown net.
    """
    for name in nets:
        if name not in COVERAGE_NETS:
            raise UserError(f"--nets: unknown (got {name!r}); allowed: {', '.join(COVERAGE_NETS)}")
    yield f"{draws} draws; share of points inside the 95 % band, median of measured over predicted"
    yield f"{'net':<28} {'theory':>8} {'forward':>8} {'backward':>8} {'last':>5} {'ratios':>11}  by basis"
    every = []
    for name in nets or COVERAGE_NETS:
        covered = cover(name, draws, seed, redrawn)
        every.append(covered)
        yield line_of(covered)
        if layers:
            yield covered.table.round(2).to_string(index=False)
    yield from summary(every)


def cover(name: str, draws: int, seed: int, redrawn: int) -> Covered:
    """Predict a net, draw it and compare."""
    started = time.perf_counter()
    net = COVERAGE_NETS[name](seed)
    theory = predict(net.model, batch=net.batch, labels=net.labels, loss=net.loss).set_index("name")
    names, measured = measured_draws(net, draws, seed + 1)
    theory = theory.reindex(names)
    columns: dict[str, object] = {"name": names, "basis": theory.basis.fillna("none").to_numpy()}
    for direction in DIRECTIONS:
        values = measured[direction]
        if redrawn:
            columns["basis"], shares, middle = "redrawn", *redrawn_shares(values, redrawn)
        else:
            low, middle, high = (theory[f"{direction}_{end}"].to_numpy() for end in ("low", "median", "high"))
            inside = (values >= low) & (values <= high)
            shares = np.where(np.isfinite(low + high), inside.mean(0), np.nan)
        columns[direction] = shares
        with np.errstate(divide="ignore", invalid="ignore"):
            columns[f"{direction}_ratio"] = np.median(values, axis=0) / middle
    return Covered(name, pd.DataFrame(columns), time.perf_counter() - started)


def measured_draws(net: SoundNet, draws: int, seed: int) -> tuple[list[str], dict[str, np.ndarray]]:
    """The layers that ran, and the variances of each draw, (draws, layers), forward and backward."""
    stds = {weight.name: weight.std for weight in weights_of(net.model)}
    rows = []
    for number in range(draws):
        draw_normals(stds, net.model, seed + number)
        rows.append(variances(net.model, net.batch, net.labels, loss=net.loss))
    values = np.array([[pair for *_, pair in draw] for draw in rows])
    return [name for name, *_ in rows[0]], {way: values[..., i] for i, way in enumerate(DIRECTIONS)}


def redrawn_shares(values: np.ndarray, few: int) -> tuple[np.ndarray, np.ndarray]:
    """Of bands from so many draws each: the share of the other draws inside, per layer, and the mean of the medians."""
    groups = np.arange(len(values) // few * few).reshape(-1, few)
    shares, medians = [], []
    for group in groups:
        low, median, high = (band(values[group], share) for share in (0.025, 0.5, 0.975))
        others = np.delete(values, group, axis=0)
        shares.append(((others >= low) & (others <= high)).mean(0))
        medians.append(median)
    return np.mean(shares, axis=0), np.mean(medians, axis=0)


def line_of(covered: Covered) -> str:
    """One net's line."""
    table = covered.table
    last = table.iloc[[-1]]
    parts = [
        f"{basis} {percent(rows.forward)}/{percent(rows.backward)} ({len(rows)})"
        for basis, rows in table.groupby("basis", sort=False)
    ]
    ratios = "/".join(f"{table[f'{way}_ratio'].replace(np.inf, np.nan).median():.2f}" for way in DIRECTIONS)
    says = f"{(table.basis == 'theory').sum()}/{len(table)}"
    ends = f"{percent(last.forward)}/{percent(last.backward)}"
    return (
        f"{covered.name:<28} {says:>8} {percent(table.forward):>8} {percent(table.backward):>8} {ends:>5} "
        f"{ratios:>11}  {', '.join(parts)}; {covered.seconds:.0f} s"
    )


def percent(shares: pd.Series) -> str:
    """The mean share as a whole per cent; – where there is no band."""
    return f"{100 * shares.mean():.0f}" if shares.notna().any() else "–"


def summary(every: Sequence[Covered]) -> Iterator[str]:
    """How many nets have bands that hold, and of the rows that say `theory` how many points are inside."""
    rows = pd.concat([covered.table.assign(net=covered.name) for covered in every])
    for basis, group in rows.groupby("basis", sort=False):
        held = [f"{way} {percent(group[way])} % of points, {holding(group, way)} nets hold" for way in DIRECTIONS]
        yield f"{basis}: {len(group)} rows of {group.net.nunique()} nets: {'; '.join(held)} {FEWEST:.0%} to {MOST:.0%}"


def holding(rows: pd.DataFrame, way: str) -> str:
    """Of how many nets with a band it holds as often as it should."""
    shares = rows.groupby("net")[way].mean().dropna()
    return f"{shares.between(FEWEST, MOST).sum()} of {len(shares)}"
