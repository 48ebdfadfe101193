"""Committed results give the committed numbers of their figures again, byte for byte where no logarithm is taken."""

from pathlib import Path

import pandas as pd
import pytest

from initlab.plots import FIGURES
from initlab.store.studies import load

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
TABLES = [path for study in sorted(REFERENCE.glob("*/study.yaml")) for path in sorted(study.parent.glob("*.csv"))]
# Theory takes ten seconds, and tests/signal has its numbers.
QUICK = [path for path in TABLES if path.stem != "theory"]


@pytest.mark.parametrize("path", QUICK, ids=lambda path: f"{path.parent.name} {path.stem}")
def test_a_committed_table_is_made_again(path: Path) -> None:
    table = FIGURES[path.stem][0](load(path.parent))
    if path.stem in ("signals", "heatmap", "propagation", "decay", "effects"):
        # Logarithms of another machine may differ in the last digit, and that of 1e-57 is 131.
        committed = pd.read_csv(path, dtype={"moment": str})
        pd.testing.assert_frame_equal(table, committed, rtol=1e-12, check_dtype=False)
    else:
        assert table.to_csv(index=False, lineterminator="\n").encode() == path.read_bytes()


def test_every_committed_study_has_tables() -> None:
    assert len(QUICK) == 17
