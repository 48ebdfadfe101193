"""The paper's pattern is really there: 30 layers train under He alone, 22 under Xavier too, but later.

The ordinary test has the 30-layer nets on 8 x 8 digits and one pair of 22-layer nets; the slow one is ten seeds of
`sweeps/demo.yaml`, where every seed must show it.
"""

from pathlib import Path

import pandas as pd
import pytest

import initlab
from initlab.study import Study

DEMO = Path(__file__).parent.parent / "sweeps" / "demo.yaml"
SMALL = {
    "name": "pattern",
    "verdict": {"threshold": 0.2},
    "cases": [
        *(
            {"net.depth": 30, "train.lr": 0.004, "init.scheme": scheme, "data.image_size": 8, "seed": seed}
            for scheme in ("he", "xavier", "gaussian")
            for seed in (0, 2)
        ),
        *(
            {"net.depth": 22, "train.epochs": 20.0, "init.scheme": scheme, "data.image_size": 16, "data.scale": 16.0,
             "init.mode": "fan_out", "init.last_factor": 0.0625}
            for scheme in ("he", "xavier")
        ),
    ],
}  # fmt: skip


def judged(results: initlab.Results) -> pd.DataFrame:
    """Trials by (depth, scheme, seed) with their verdicts and the lowest validation error after the first epoch."""
    trained = results.scalars[results.scalars.epoch >= 1].groupby("trial").val_error.min().rename("lowest")
    frame = results.trials.merge(results.verdicts[["trial", "epoch_reached"]], on="trial").merge(trained, on="trial")
    return frame.set_index(["net.depth", "init.scheme", "seed"]).sort_index()


def assert_pattern(frame: pd.DataFrame) -> None:
    he = frame.loc[(30, "he")]
    assert (he.val_error <= 0.15).all(), he.val_error
    for scheme in ("xavier", "gaussian"):
        stalled = frame.loc[(30, scheme)]
        assert (stalled.verdict == "stalled").all()
        assert (stalled.lowest >= 0.85).all(), stalled.lowest
    early, late = frame.loc[(22, "he")].epoch_reached, frame.loc[(22, "xavier")].epoch_reached
    assert (early <= 6).all(), early
    assert (late >= 2 * early).all(), (early, late)


def test_he_trains_30_layers_xavier_and_fixed_std_stall_and_xavier_is_late_at_22(tmp_path: Path) -> None:
    results = initlab.run(Study.model_validate(SMALL), tmp_path / "out", jobs=2, device="cpu", show="nothing")
    assert_pattern(judged(results))
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
    assert_pattern(frame)
    assert (frame.loc[(22, "xavier")].verdict == "converged").all()
