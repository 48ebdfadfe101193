"""The paper's pattern is really there: 30 layers train under He alone, fewer under Xavier too, but later.

The ordinary test has one seed, and 12 layers for the later Xavier, which at 22 needs 9 to 20 epochs; the slow one is
ten seeds of `sweeps/demo.yaml`, where every seed must show it.
"""

from pathlib import Path

import pandas as pd
import pytest

import initlab
from initlab.study.study import Study

DEMO = Path(__file__).parent.parent / "sweeps" / "demo.yaml"
SCHEMES = ("he", "xavier", "gaussian")
SMALL = {
    "name": "pattern",
    "verdict": {"threshold": 0.2},
    "data": {"image_size": 8},
    "net": {"widths": [16, 24]},
    "init": {"mode": "fan_in"},
    "run": {"pack": 3},
    "cases": [
        *({"net.depth": 30, "train.epochs": 12.0, "train.lr": 0.004, "init.scheme": scheme} for scheme in SCHEMES),
        *(
            {"net.depth": 12, "train.epochs": 8.0, "train.validate_every": 0.25, "init.scheme": scheme}
            for scheme in ("he", "xavier")
        ),
    ],
}


def judged(results: initlab.Results) -> pd.DataFrame:
    """Trials by (depth, scheme, seed) with their verdicts and the lowest validation error after the first epoch."""
    trained = results.scalars[results.scalars.epoch >= 1].groupby("trial").val_error.min().rename("lowest")
    frame = results.trials.merge(results.verdicts[["trial", "epoch_reached"]], on="trial").merge(trained, on="trial")
    return frame.set_index(["net.depth", "init.scheme", "seed"]).sort_index()


def assert_pattern(frame: pd.DataFrame, both_train: int) -> None:
    """`both_train` is a depth at which He and Xavier learn."""
    he = frame.loc[(30, "he")]
    assert (he.verdict == "converged").all() and (he.lowest <= 0.15).all(), he.lowest
    for scheme in ("xavier", "gaussian"):
        stalled = frame.loc[(30, scheme)]
        assert (stalled.verdict == "stalled").all()
        assert (stalled.lowest >= 0.85).all(), stalled.lowest
    early, late = frame.loc[(both_train, "he")].epoch_reached, frame.loc[(both_train, "xavier")].epoch_reached
    assert (early <= 8).all(), early
    assert (late > early).all() and (late / early).median() >= 2, (early, late)


def test_he_trains_30_layers_xavier_and_fixed_std_stall_and_xavier_is_late_where_it_learns(tmp_path: Path) -> None:
    results = initlab.run(Study.model_validate(SMALL), tmp_path / "out", jobs=1, device="cpu", show="nothing")
    assert_pattern(judged(results), both_train=12)
    signals = results.signals[results.signals.step == 0].merge(
        results.trials[["trial", "net.depth", "init.scheme", "seed"]]
    )
    at_start = signals[(signals["net.depth"] == 30) & (signals.seed == 0)]
    by_scheme = at_start.pivot(index="layer", columns="init.scheme", values="forward_var")
    # the same normals at two scales: Xavier's variance is He's over 2 per layer, to float32's rounding
    assert (by_scheme.xavier / by_scheme.he).tolist() == pytest.approx(
        [0.5 ** (layer + 1) for layer in range(30)], rel=1e-4
    )
    assert 1e-70 < by_scheme.gaussian.iloc[-1] < 1e-40


@pytest.mark.slow
def test_ten_seeds_of_ten_show_the_demos_pattern(tmp_path: Path) -> None:
    results = initlab.run(
        DEMO, tmp_path / "out", jobs=2, device="cpu", overrides=[f"grid.seed={list(range(10))}"], show="lines"
    )
    frame = judged(results)
    assert len(frame) == 60
    assert_pattern(frame, both_train=22)
    assert (frame.loc[(22, "xavier")].verdict == "converged").all()
    assert (frame.loc[(22, "gaussian")].verdict == "stalled").all()
