"""`initlab bench store` makes stores that are whole, and measures their reading."""

from pathlib import Path

from initlab import load
from initlab.bench.store import LAYERS, PROBES, bench_store
from initlab.store.verify import faults


def test_a_made_store_is_whole_and_measured(tmp_path: Path) -> None:
    lines = list(bench_store([2], tmp_path))
    results = load(tmp_path / "store-2")
    assert faults(results) == [] and len(results.signals) == 2 * (PROBES + 1) * LAYERS
    header, row = lines[-2:]
    assert header.startswith("trials  files") and row.split()[0] == "2"
    assert all(float(number) >= 0 for number in row.split())
