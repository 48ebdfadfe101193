"""Many small trials on one device: one after another, packed, and in several processes."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import initlab
from initlab.store.files import ATTEMPT, RESULT, TRIALS
from initlab.study import Study

GRID = {"seed": [0, 1, 2, 3], "init.scheme": ["gaussian", "xavier", "he"]}  # times two depths: 24 trials


def small_trials(depths: tuple[int, int], fields: dict[str, Any]) -> Study:
    """4 seeds x 3 schemes x 2 depths on digits."""
    return Study.model_validate({"name": "bench-gpu", **fields, "grid": {**GRID, "net.depth": [*depths]}})


def arms(study: Study, device: Literal["cpu", "cuda"], processes: int) -> Iterator[tuple[str, float]]:
    """(name, seconds) of each way to run the study, one after another first.

    From the first trial's claim to the last one's result: processes' imports, the same for a sweep of any length, are
    not in it.
    """
    ways = {"one after another": (1, 1), "packed, 6 at once": (6, 1), "packed, 12 at once": (12, 1)}
    if processes > 1:
        ways[f"{processes} processes"] = (1, processes)
    for name, (pack, jobs) in ways.items():
        yield name, span(study, device, pack, jobs)


def span(study: Study, device: Literal["cpu", "cuda"], pack: int, jobs: int) -> float:
    """Seconds between the first claim of a trial and the last result.

    Raises:
        RuntimeError: a trial that failed.
    """
    out = Path(tempfile.mkdtemp(prefix="initlab-bench-"))
    try:
        results = initlab.run(study, out, engine="inline", jobs=jobs, pack=pack, device=device, show="nothing")
        if not results.trials.state.isin(["done", "diverged"]).all():
            raise RuntimeError(f"bench gpu: trials ended as {sorted(set(results.trials.state))}; wanted: all done")
        begun = min(path.stat().st_mtime for path in (out / TRIALS).glob(f"*/*/{ATTEMPT}"))
        return max(path.stat().st_mtime for path in (out / TRIALS).glob(f"*/{RESULT}")) - begun
    finally:
        shutil.rmtree(out)
