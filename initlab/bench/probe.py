"""`initlab bench probe`: what watching signals costs on this machine, in one run, beside what people use today."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from initlab.attempt.assemble import build_net, load_images
from initlab.bench.watch import PROBE_EVERY, RUNNING_EVERY, Share, compare
from initlab.engine.task import DataAccess
from initlab.launch.run import run
from initlab.plan.plan import plan
from initlab.store.trial_folder import TrialFolder
from initlab.study.spec import TrialSpec
from initlab.study.study import Study
from initlab.train.records import Silent
from initlab.train.trial import Trial

CASES: dict[int, dict[str, Any]] = {  # the He trials of sweeps/demo.yaml
    30: {"train.epochs": 14.0, "init.mode": "fan_in"},
    22: {"train.epochs": 42.0, "init.mode": "fan_out", "data.scale": 16.0, "init.last_factor": 0.0625},
}
WHOLE: dict[str, dict[str, Any]] = {
    "unwatched": {"probe.every": 0},
    "probe": {"probe.every": PROBE_EVERY},
    "running": {"probe.every": 0, "probe.running_every": RUNNING_EVERY},
}
ROUNDS = 3  # blocks of every arm behind one median
CPU = torch.device("cpu")


def bench_probe(repeats: int, whole: int) -> Iterator[str]:
    """Lines of text: per depth every way's share of the bare step, then whole trials with and without watching.

    Args:
        repeats: medians per way, over which the range goes.
        whole: whole trials of each way, in turn; 0 leaves them out.
    """
    torch.set_num_threads(1)
    for depth, case in CASES.items():
        yield f"{depth} layers: shares of a bare step, median of {repeats} (their range); the demo's He trial, a thread"
        shares, left_out = compare(partial(endless, {**case, "net.depth": depth}), repeats, ROUNDS, CPU)
        yield from map(line, shares)
        yield from (f"  {name}: {reason}" for name, reason in left_out)
    for depth, case in CASES.items() if whole else ():
        yield whole_line(depth, case, whole)


def line(one: Share) -> str:
    often = "every step" if one.every == 1 else f"every {one.every} steps"
    return f"  {one.name + ', ' + often:<44} {one.share:>8.2%}  ({one.low:.2%} to {one.high:.2%})"


def study(case: dict[str, Any]) -> Study:
    return Study.model_validate({"name": "bench", "data": {"name": "digits", "image_size": 16}, "cases": [case]})


def endless(case: dict[str, Any]) -> Trial:
    """The trial of a case with more steps than anyone takes, before the first; it records nothing."""
    (planned,) = plan(study({**case, "train.epochs": 1e5, "probe.every": 0}))
    spec: TrialSpec = planned.spec
    data = load_images(spec, CPU, DataAccess(), {}, lambda line: None)
    trial = Trial(spec, build_net(spec, data, CPU), data, Silent())
    trial.net.train()
    trial.open_batches()
    return trial


def whole_line(depth: int, case: dict[str, Any], repeats: int) -> str:
    """Wall time of whole trials, watched over unwatched, each round's ratio in turn."""
    rounds = []
    for _ in range(repeats):
        rounds.append({name: one_trial({**case, "net.depth": depth, **fields}) for name, fields in WHOLE.items()})
    found = []
    for name, every in (("probe", PROBE_EVERY), ("running", RUNNING_EVERY)):
        ratios = [arms[name]["wall_s"] / arms["unwatched"]["wall_s"] for arms in rounds]
        found.append(f"{name} every {every} {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    inside = median(arms["probe"]["probe_s"] / arms["probe"]["wall_s"] for arms in rounds)
    return f"{depth} layers, {repeats} whole trials, wall/unwatched: {'; '.join(found)}; probes timed {inside:.2%}"


def one_trial(case: dict[str, Any]) -> dict[str, Any]:
    """Run one trial in this process; returns its result."""
    with tempfile.TemporaryDirectory(prefix="initlab-bench-") as out:
        run(study(case), out, engine="inline", jobs=1, device="cpu", show="nothing")
        (folder,) = TrialFolder.all_in(Path(out))
        result = folder.result()
        assert result
        return result
