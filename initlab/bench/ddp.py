"""`initlab bench ddp`: images per second of one trial over N processes, and how that grows with N.

Strong scaling divides the batch; weak scaling gives each process the batch. Each arm is a launch of its own;
steps before the clock starts warm it up. Efficiency is the rate over N times that of one process: 1 where nothing is
lost to waiting and sending, and at most 1/N where all processes share one core.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from initlab.bench.trials import first_trial
from initlab.data.facts import FACTS
from initlab.launch.machine import gpu_count
from initlab.launch.run import run
from initlab.study.mistakes import StudyError
from initlab.study.spec import TrialSpec
from initlab.study.study import Study

SYNTHETIC = {
    "name": "bench-ddp",
    "data": {"name": "synthetic"},
    "net": {"depth": 14, "width": 16},
    "train": {"batch_size": 64, "dropout": 0.5},
}


def bench_ddp(
    study: Path | None,
    devices: Sequence[int],
    steps: int,
    device: str | None,
    data_dir: Path | None,
    overrides: Sequence[str],
) -> Iterator[str]:
    """Lines of text: a table with a row per number of processes, each arm of so many timed steps.

    The first trial of `study` is measured, without one a plain net on made images; no `devices` takes the powers of two
    up to the GPUs, or the cores, that are here.

    Raises:
        StudyError: as `run`, or fields without a study.
    """
    loaded, trial = first_trial(study, SYNTHETIC, overrides)
    spec, batch = trial.spec, trial.spec.train.batch_size
    gpus = gpu_count() if device != "cpu" else 0
    kind = device or ("cuda" if gpus else "cpu")
    counts = list(devices) or [2**i for i in range(7) if 2**i <= (gpus or os.cpu_count() or 1)]
    yield f"{spec.data.name}, {spec.net.label}, {kind}, {steps} steps of each arm; batch {batch}, weak: {batch} each"
    yield f"{'processes':>9}  {'strong':>11}  {'speed-up':>8}  {'efficiency':>10}  {'weak':>11}  {'efficiency':>10}"
    base: tuple[float, float] | None = None
    for count in counts:
        strong = rate(loaded, spec, batch, count, steps, kind, data_dir)
        weak = rate(loaded, spec, batch * count, count, steps, kind, data_dir) if count > 1 else strong
        # The rates of one process, or its share where more are the fewest.
        base = base or (strong / count, weak / count)
        speed_up = strong / base[0]
        weak_columns = f"{weak:>9,.0f}/s  {weak / base[1] / count:>10.2f}"
        yield f"{count:>9}  {strong:>9,.0f}/s  {speed_up:>8.2f}  {speed_up / count:>10.2f}  {weak_columns}"


def rate(
    study: Study, spec: TrialSpec, batch: int, devices: int, steps: int, device: Any, data_dir: Path | None
) -> float:
    """Images per second over the last `steps` of twice as many steps."""
    examples = spec.data.train_examples or (FACTS[spec.data.name].train if spec.data.name in FACTS else 0)
    if not examples:
        raise StudyError([f"data.train_examples: not known for {spec.data.name} (got none); set it for this command"])
    per_epoch = examples // batch
    if per_epoch < 1:
        raise StudyError([f"train.batch_size: more than the training set for {devices} processes (got {batch} in all)"])
    train = {"batch_size": batch, "epochs": 2 * steps / per_epoch, "log_every": steps, "validate_every": 1e6}
    sections: dict[str, Any] = {
        "data": {**study.data.model_dump(), **spec.data.model_dump()},
        "train": {**spec.train.model_dump(), **train},
        "probe": {"every": 0},
        "run": {**study.run.model_dump(), "engine": "inline"},
    }
    alone = Study.model_validate({**spec.model_dump(), "name": "bench-ddp", **sections})
    with tempfile.TemporaryDirectory(prefix="initlab-bench-") as out:
        results = run(alone, out, jobs=1, device=device, devices=devices, data_dir=data_dir, show="nothing")
        failed = [trial.status["error"] for trial in results.stored if trial.status["state"] == "failed"]
        if failed:
            raise StudyError([f"bench ddp: {devices} processes: {failed[0]}"])
        rows = results.scalars.assign(images=results.scalars.step.diff() * batch)
        # There is a row at the end of every epoch too.
        timed = rows[rows.step > steps]
        return float(timed.images.sum() / (timed.images / timed.images_per_s).sum())
