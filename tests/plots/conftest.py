"""Studies made by hand, see `fake_study.Fake`."""

from pathlib import Path

import pytest
from fake_study import Fake


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(out=tmp_path)


@pytest.fixture
def two_depths(fake: Fake) -> Fake:
    """He and Xavier, 22 and 30 layers, seeds 0 and 1: all numbers can be followed by hand.

    He's validation error is 0.9, then 0.5 and 0.3 (seed 0, 1), then 0.2 and 0.1; Xavier's stays at 0.9.
    """
    for depth in (30, 22):
        for seed in (0, 1):
            he = {0: 0.9, 1: (0.5, 0.3)[seed], 2: (0.2, 0.1)[seed]}
            layers = [(2.0, 1e-3), (1.0 * 4**seed, 1e-2)]
            fading = [(1e-20, 1e-57), (1e-30, 0.0 if seed else 1e-40)]
            fake.add(
                "he",
                seed,
                depth,
                val=he,
                train={10: (2.0, 0.8), 15: (1.0, 0.4), 20: (0.5, 0.2)},
                probes={0: layers, 20: layers},
                verdict="converged",
            )
            fake.add(
                "xavier",
                seed,
                depth,
                val={0: 0.9, 1: 0.9, 2: 0.9},
                train={10: (2.3, 0.9), 20: (2.3, 0.9)},
                probes={0: fading, 20: fading},
                verdict="stalled",
            )
    return fake
