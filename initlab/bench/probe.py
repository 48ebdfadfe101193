"""`initlab bench probe`: what the signal measurements cost, in one run against the same trial with them off."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from initlab.launch import run
from initlab.spec import Probe, TrialSpec
from initlab.store.files import RESULT, TRIALS, read_json
from initlab.study import Study

CASES: dict[int, dict[str, Any]] = {  # the He trials of sweeps/demo.yaml
    30: {"train.epochs": 14.0, "init.mode": "fan_in"},
    22: {"train.epochs": 42.0, "init.mode": "fan_out", "data.scale": 16.0, "init.last_factor": 0.0625},
}
LONG_RUN_CADENCE = 200


def bench_probe(repeats: int) -> Iterator[str]:
    """Lines of text: per depth the probe's seconds as a share of the trial's, and both arms' wall times.

    The share is timed inside the trials with probes (measuring and writing), over the mean wall time of those without,
    which alternate with them; for a long run it is that of one probe over 200 steps.
    """
    yield f"the demo's He trials on one thread, probes every {LONG_RUN_CADENCE} steps or off, {repeats} runs of each"
    for depth, case in CASES.items():
        arms: dict[int, list[dict[str, Any]]] = {0: [], LONG_RUN_CADENCE: []}
        for _ in range(repeats):
            for every, results in arms.items():
                results.append(one_trial({"net.depth": depth, **case, "probe.every": every}))
        off, on = (mean(r["wall_s"] for r in arms[every]) for every in arms)
        probed = arms[LONG_RUN_CADENCE]
        seconds = mean(r["probe_s"] for r in probed)
        probes = len(TrialSpec(probe=Probe(every=LONG_RUN_CADENCE)).probe_steps(probed[0]["steps"]))
        long_run = seconds / probes / (LONG_RUN_CADENCE * off / probed[0]["steps"])
        yield (
            f"{depth} layers: {probes} probes of {seconds / probes * 1000:.1f} ms are {seconds / off:.2%} of the trial "
            f"and {long_run:.2%} of a long run; wall with/without {on:.2f}/{off:.2f} s = {on / off:.3f}"
        )


def one_trial(case: dict[str, Any]) -> dict[str, Any]:
    """Run one trial in this process; returns its result."""
    study = Study.model_validate({"name": "bench", "data": {"name": "digits", "image_size": 16}, "cases": [case]})
    with tempfile.TemporaryDirectory(prefix="initlab-bench-") as out:
        run(study, out, engine="inline", jobs=1, device="cpu", show="nothing")
        (result,) = (Path(out) / TRIALS).glob(f"*/{RESULT}")
        return read_json(result)
