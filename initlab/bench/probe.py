"""`initlab bench probe`: what watching signals costs on this machine, in one run, beside what people use today."""

import tempfile
from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import Any

import torch

from initlab.bench.timing import in_turn
from initlab.bench.trials import silent_trial
from initlab.bench.watch import PROBE_EVERY, RUNNING_EVERY, compare
from initlab.engine.task import DataAccess
from initlab.launch.run import run
from initlab.plan.plan import plan
from initlab.study.study import Study
from initlab.train.trial import Trial

# He trials of plain nets that train at 30 and at 22 layers.
CASES: dict[int, dict[str, Any]] = {
    30: {"train.epochs": 14.0, "init.mode": "fan_in"},
    22: {"train.epochs": 42.0, "init.mode": "fan_out", "data.scale": 16.0, "init.last_factor": 0.0625},
}
WHOLE: dict[str, dict[str, Any]] = {
    "unwatched": {"probe.every": 0},
    "probe": {"probe.every": PROBE_EVERY},
    "running": {"probe.every": 0, "probe.running_every": RUNNING_EVERY},
}
# Blocks of every arm behind one median.
ROUNDS = 3
CPU = torch.device("cpu")


def bench_probe(repeats: int, whole: int) -> Iterator[str]:
    """Lines of text: per depth every arm's share of the bare step, over so many medians; then `whole` whole trials."""
    torch.set_num_threads(1)
    for depth, case in CASES.items():
        yield f"{depth} layers: shares of a bare step, median of {repeats} (their range); a He trial, one thread"
        shares, left_out = compare(partial(endless, {**case, "net.depth": depth}), repeats, ROUNDS, CPU)
        for cost in shares:
            cadence = "every step" if cost.every == 1 else f"every {cost.every} steps"
            yield f"  {cost.name + ', ' + cadence:<44} {cost.share:>8.2%}  ({cost.low:.2%} to {cost.high:.2%})"
        yield from (f"  {name}: {reason}" for name, reason in left_out)
    if whole:
        yield from (whole_line(depth, case, whole) for depth, case in CASES.items())


def study(case: dict[str, Any]) -> Study:
    """A study of the one trial of a case."""
    return Study.model_validate({"name": "bench", "data": {"name": "digits", "image_size": 16}, "cases": [case]})


def endless(case: dict[str, Any]) -> Trial:
    """The trial of a case with more steps than anyone takes, before the first."""
    (planned,) = plan(study({**case, "train.epochs": 1e5, "probe.every": 0}))
    return silent_trial(planned.spec, CPU, DataAccess())


def whole_line(depth: int, case: dict[str, Any], repeats: int) -> str:
    """Wall time of whole trials, watched over unwatched, each round's ratio in turn."""
    arms = {name: partial(one_trial, {**case, "net.depth": depth, **fields}) for name, fields in WHOLE.items()}
    results, parts = in_turn(arms, repeats), []
    for name, every in (("probe", PROBE_EVERY), ("running", RUNNING_EVERY)):
        pairs = zip(results[name], results["unwatched"], strict=True)
        ratios = [watched["wall_s"] / unwatched["wall_s"] for watched, unwatched in pairs]
        parts.append(f"{name} every {every} {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    inside = median(result["probe_s"] / result["wall_s"] for result in results["probe"])
    return f"{depth} layers, {repeats} whole trials, wall/unwatched: {'; '.join(parts)}; probes timed {inside:.2%}"


def one_trial(case: dict[str, Any]) -> dict[str, Any]:
    """Run one trial in this process; returns its result."""
    with tempfile.TemporaryDirectory(prefix="initlab-bench-") as out:
        (stored,) = run(study(case), out, engine="inline", jobs=1, device="cpu", show="nothing").stored
        return stored.result or {}
