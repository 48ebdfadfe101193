"""`initlab bench store`: what reading an output folder costs, by the number of its trials.

Each figure is measured in a process of its own: processor seconds of the call alone, and the most memory that the
process had, imports included.
"""

import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from initlab.engine.task import State
from initlab.launch.folder import prepare
from initlab.plan.plan import PlannedTrial, plan
from initlab.report.status_page import status_page
from initlab.report.text_table import text_table
from initlab.store.columns import names as columns
from initlab.store.studies import load
from initlab.store.trial_folder import TrialFolder
from initlab.study.study import Study

PROBES, LAYERS, EPOCHS, PER_EPOCH = 100, 30, 20, 45


def bench_store(counts: Sequence[int], folder: Path | None) -> Iterator[str]:
    """Lines of text: per number of trials, processor seconds and memory of each way to read them."""
    with tempfile.TemporaryDirectory(prefix="initlab-bench-") as temporary:
        rows = [["trials", "files", "MB", *(f"{name} s, MB" for name in READINGS)]]
        for count in counts:
            out = (folder or Path(temporary)) / f"store-{count}"
            if not out.exists():
                yield f"{count} trials of {PROBES} probes of {LAYERS} layers: written in {make(out, count):.0f} s"
            rows.append([str(count), *sizes(out), *(measured(out, name) for name in READINGS)])
        yield from text_table(rows, right=set(range(len(rows[0]))))


def make(out: Path, count: int) -> float:
    """Write a store of finished trials with made-up rows; returns the processor seconds that it took."""
    seeds = math.ceil(count / 4)
    study = Study.model_validate(
        {
            "name": "made",
            "net": {"depth": LAYERS},
            "train": {"epochs": EPOCHS, "log_every": PER_EPOCH // 5},
            "probe": {"every": EPOCHS * PER_EPOCH // PROBES},
            "grid": {"init.scheme": ["xavier", "he"], "train.lr": [0.01, 0.02], "seed": list(range(seeds))},
        }
    )
    trials = plan(study)[:count]
    started = time.process_time()
    out.mkdir(parents=True)
    prepare(out, study, trials, {trial.id: {} for trial in trials}, force=False)
    for trial in trials:
        write_trial(out, trial)
    return time.process_time() - started


def write_trial(out: Path, trial: PlannedTrial) -> None:
    """One finished trial, its rows from a random walk."""
    # Imported here: the processes that are measured need no torch.
    from initlab.store.writer import AttemptWriter

    random, spec = np.random.default_rng(trial.spec.seed), trial.spec
    folder = TrialFolder(out, trial.id)
    folder.describe(spec, {})
    writer = AttemptWriter(folder, {"device": "cpu", "precision": "float32"})
    steps = EPOCHS * PER_EPOCH
    validated = set(spec.validation_steps(PER_EPOCH, steps))
    scalars = []
    for step in spec.row_steps(PER_EPOCH, steps):
        error = 0.9 * math.exp(-step / 300) + 0.01 * random.random()
        row = {"step": step, "epoch": step / PER_EPOCH, "train_loss": 3 * error, "train_error": error, "lr": 0.01}
        values = dict.fromkeys(("val_loss", "val_error", "val_error_top5"), error if step in validated else math.nan)
        scalars.append({**row, **values, "images_per_s": 1e3, "wall_s": step / 100})
    writer.record("scalars", scalars)
    names = columns("signals")[8:]
    probes = spec.probe_steps(steps)
    values = np.exp(random.normal(size=(len(probes), LAYERS, len(names)))).tolist()
    signals = []
    for step, by_layer in zip(probes, values, strict=True):
        for layer, moments in enumerate(by_layer):
            place = {"layer": layer, "name": f"conv{layer}", "op": "conv", "calls": 1}
            signals.append({"step": step, "epoch": step / PER_EPOCH, **place, **dict(zip(names, moments, strict=True))})
    writer.record("signals", signals)
    facts = {"train_examples": PER_EPOCH * spec.train.batch_size, "num_classes": 10, "chance": 0.9}
    figures = {"step": steps, "epoch": float(EPOCHS), "steps": steps, "epochs": float(EPOCHS), **facts}
    figures |= {"val_error": scalars[-1]["val_error"], "wall_s": 9.0}
    writer.checkpoint({"step": steps, "net": {}})
    writer.close(State.DONE, figures, figures)


def sizes(out: Path) -> list[str]:
    """Files and folders below a folder, and their MB."""
    paths = list(out.rglob("*"))
    return [str(len(paths)), f"{sum(path.stat().st_size for path in paths if path.is_file()) / 1e6:.0f}"]


def figure(name: str) -> Callable[[Path], object]:
    """A reading that draws a figure into a temporary folder."""

    def draw(out: Path) -> None:
        """Load the results and save one figure of them."""
        from initlab.plots import save_figures

        with tempfile.TemporaryDirectory() as folder:
            save_figures(load(out), [name], folder)

    return draw


READINGS: dict[str, Callable[[Path], object]] = {
    "trials": lambda out: load(out).trials,
    "signals": lambda out: load(out).signals,
    "status": lambda out: list(status_page(out)),
    **{f"{name} figure": figure(name) for name in ("convergence", "signals", "depth")},
}


def measured(out: Path, name: str) -> str:
    """Processor seconds and megabytes of one reading, in a process of its own."""
    code = f"from pathlib import Path; from initlab.bench.store import report; report(Path({str(out)!r}), {name!r})"
    answer = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout
    seconds, megabytes = json.loads(answer.splitlines()[-1])
    return f"{seconds:.1f} {megabytes:.0f}"


def report(out: Path, name: str) -> None:
    """Print what one reading costs; run by `measured`."""
    # Matplotlib's import and font list are no part of reading a store.
    import initlab.plots  # noqa: F401

    started = time.process_time()
    READINGS[name](out)
    seconds = time.process_time() - started
    # Not getrusage: its maximum is that of the parent too, which has torch.
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(json.dumps([seconds, int(kilobytes) / 1e3]))
