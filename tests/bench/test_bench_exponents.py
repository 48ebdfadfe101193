"""Scores by hand, twins unseen by what predicts them, and the documented numbers from the committed table."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from initlab import inspect, run
from initlab.attempt.assemble import build_net, load_data
from initlab.bench.exponents import COLUMNS, TWINS, bench_exponents, explained, left_out, logs, rank_correlation
from initlab.engine.task import DataAccess
from initlab.errors import UserError
from initlab.plots.exponents import exponents
from initlab.store.studies import load

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "results" / "reference" / "transformer-exponents" / "exponents.csv"


def trials(cells: int = 12) -> pd.DataFrame:
    """Twins of 4 and 8 blocks in so many cells, whose loss is linear in the logarithms of their exponents."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(dict.fromkeys(COLUMNS, 0.0), index=range(2 * cells))
    table["net.norm"] = ["none", "pre"] * cells
    table["init.std"] = np.repeat(np.arange(cells), 2) / 10
    table["net.depth"] = [4, 8] * cells
    table["angle"], table["gradient"] = -rng.exponential(size=2 * cells), rng.normal(size=2 * cells)
    table["net.norm"] = table["net.norm"].iloc[np.repeat(np.arange(cells), 2)].to_numpy()
    return table.assign(loss=3 + logs(table) @ [0.5, -0.25], chance=math.log(97))


def test_scores_by_hand() -> None:
    loss = np.array([1.0, 2.0, 3.0, 4.0])
    assert rank_correlation(np.array([0.1, 0.2, 5.0, 4.0]), loss) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert explained(np.array([1.0, 2.0, 3.0, 2.0]), loss) == pytest.approx(1 - 4 / 5)
    assert explained(np.full(4, 2.5), loss) == 0


def test_a_law_is_found_and_no_trial_has_a_part_in_what_foretells_its_twins() -> None:
    table = trials()
    assert left_out(logs(table), table) == pytest.approx(table.loss.to_numpy())
    changed = table.assign(loss=table.loss.where(table.index > 1, 100.0))
    assert left_out(logs(table), changed)[:2] == pytest.approx(table.loss.to_numpy()[:2])
    assert len(table.groupby(TWINS, dropna=False)) == 12


def test_the_figure_has_a_point_per_trial_and_leaves_out_what_is_not_finite() -> None:
    table = trials().assign(angle=lambda table: table.angle.where(table.index > 0, -math.inf))
    angle, gradient = exponents(table).axes
    for axes, name in ((angle, "angle"), (gradient, "gradient")):
        drawn = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
        assert sorted(x for line in drawn for x in line.get_xdata()) == sorted(table[name])
        assert sorted(y for line in drawn for y in line.get_ydata()) == pytest.approx(sorted(table.loss))
        low, high = axes.get_xlim()
        assert low < table[name][np.isfinite(table[name])].min()
        assert high > table[name].max()
    with pytest.raises(UserError, match="no trial to draw"):
        exponents(table.head(0))


STUDY = """
name: tiny
data: {name: topics, sequence: 8, train_examples: 16, val_examples: 16}
net: {name: transformer, width: 16, heads: 2, depth: 3, norm: pre}
train: {epochs: 1, batch_size: 8, optimizer: adamw}
probe: {every: 0, examples: 8}
grid: {init.scheme: [xavier, he]}
"""


def test_a_study_gives_the_exponents_that_inspect_gives_of_its_nets(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(STUDY)
    out = tmp_path / "out"
    run(tmp_path / "tiny.yaml", out, jobs=1, show="nothing")
    printed = list(bench_exponents(out))
    assert printed[0] == "2 trials, 0 of them without a finite exponent and left out"
    assert "too few nets that differ in more than depth and seed; 8 are needed" in printed
    table = pd.read_csv(out / "figures" / "exponents.csv")
    losses = load(out).scalars.groupby("trial").val_loss.last()
    for trial, row in zip(load(out).stored, table.to_dict("records"), strict=True):
        data = load_data(trial.spec, "cpu", DataAccess(), {}, print)
        seen = inspect(build_net(trial.spec, data, "cpu"), *data.probe_batch(trial.spec.probe.examples))
        assert (row["angle"], row["gradient"]) == pytest.approx(seen.exponents[:2], rel=1e-3)
        assert (row["trial"], row["blocks"]) == (trial.id, 3)
        assert row["loss"] == pytest.approx(min(losses[trial.id], math.log(97)))
    assert list(bench_exponents(out / "figures" / "exponents.csv")) == printed


def test_wrong_inputs_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("trial,loss\n")
    with pytest.raises(UserError, match=r"no table of exponents \(lacks angle"):
        list(bench_exponents(tmp_path / "a.csv"))
    with pytest.raises(UserError, match="cannot be read"):
        list(bench_exponents(tmp_path / "b.csv"))


def test_the_documented_table_is_what_the_command_prints_on_the_committed_trials(tmp_path: Path) -> None:
    copied = tmp_path / COMMITTED.name
    copied.write_bytes(COMMITTED.read_bytes())
    printed = list(bench_exponents(copied))
    (documented,) = re.findall(r"```text\n(.*?)```", (ROOT / "docs" / "text.md").read_text(), re.S)
    assert documented.strip().splitlines() == [line.rstrip() for line in printed if not line.startswith("wrote")][:-1]
