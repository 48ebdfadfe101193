"""`initlab bench store` makes stores that are whole, and measures their reading."""

from pathlib import Path

import pytest

from initlab import load
from initlab.bench import store
from initlab.bench.store import LAYERS, PROBES, READINGS, bench_store
from initlab.store.verify import faults


def test_a_made_store_is_whole_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = ("trials", "signals figure")
    monkeypatch.setattr(store, "READINGS", {name: READINGS[name] for name in measured})
    lines = list(bench_store([2], tmp_path))
    results = load(tmp_path / "store-2")
    assert faults(results) == [] and len(results.signals) == 2 * (PROBES + 1) * LAYERS
    header, row = lines[-2:]
    assert header.startswith("trials  files") and row.split()[0] == "2"
    assert all(float(number) >= 0 for number in row.split()) and len(row.split()) == 3 + 2 * len(measured)
    # The others, each of which would take a process of its own.
    for name in READINGS.keys() - measured:
        READINGS[name](tmp_path / "store-2")
