"""`initlab bench gpu`: how close large nets come to the chip's limit, what probes cost, many small trials at once.

One run, so that ratios mean something. Each section leaves rows, a failed or left out one a row that says why; the
JSON file (with chip, versions and command) is written anew after each, so that a kill loses nothing. The table is last.
"""

import gc
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from initlab.bench.gpu_net import Large, ceiling, flop_per_image, host_syncs, large_trial, rate, row_cost
from initlab.bench.gpu_trials import Arm, arms, span
from initlab.bench.watch import BLOCK, compare
from initlab.errors import UserError
from initlab.launch.machine import provenance
from initlab.report.text_table import text_table
from initlab.store.files import writable, write_json
from initlab.study.study import Study
from initlab.train.cuda import cuda_graph, in_a_line, kernels
from initlab.train.packed import Pack
from initlab.version import __version__

# The most that a compilation and a run, an arm, and anything else are thought to take; not measured on a GPU.
COMPILE_S, ARM_S, SHORT_S = 120.0, 60.0, 30.0
PRODUCT = "bf16 matrix product"
BASE = "24 small trials, one after another"
# Three schemes through the epochs that the figure shows, of ImageNet's training set.
FIG3_IMAGES = 3 * 9.9 * 1_281_167

# What, value (None where there is none), unit and note.
Row = dict[str, Any]
Rows = list[Row]


@dataclass(frozen=True)
class Sizes:
    """What to measure on."""

    matrix: int
    nets: dict[str, Large]  # B, and small-30 for Fig 3; B is watched too
    small: Large  # packed, to look for host syncs
    trials: dict[str, Any]  # sections of the small trials' study, on digits
    processes: int
    streams: int
    limit_s: float  # of the whole: a section begins only where its `most_s` is left


@dataclass(frozen=True)
class Section:
    """A part of the run: its name, the most that it is thought to take, and what makes its rows from those so far."""

    name: str
    most_s: float
    measure: Callable[[Rows], Rows]


# Times two depths, that makes 24 trials.
GRID = {"seed": [0, 1, 2, 3], "init.scheme": ["gaussian", "xavier", "he"]}
FULL = Sizes(
    matrix=8192, nets={name: Large({"name": name}, 224, 128, classes=1000, steps=20) for name in ("B", "small-30")},
    small=Large({"depth": 22, "width": 16}, side=32, batch=32, classes=10, steps=20, precision="float32"),
    trials={
        "data": {"image_size": 32}, "train": {"epochs": 5.0, "batch_size": 32, "lr": 0.003},
        "grid": {**GRID, "net.depth": [22, 30]},
    },
    processes=4, streams=4, limit_s=470.0,
)  # fmt: skip
TINY = Large({"depth": 6, "width": 2}, side=16, batch=4, classes=10, steps=2)
QUICK = Sizes(
    matrix=64, nets={"B": TINY, "small-30": TINY}, small=replace(TINY, precision="float32"),
    trials={
        "data": {"train_examples": 64, "val_examples": 16}, "net": {"width": 2},
        "train": {"epochs": 1.0, "batch_size": 8, "lr": 0.003}, "probe": {"examples": 8},
        "grid": {**GRID, "net.depth": [6, 8]},
    },
    processes=2, streams=4, limit_s=math.inf,
)  # fmt: skip


def bench_gpu(device: str, quick: bool, out: Path) -> Iterator[str]:
    """Lines of text as the sections end, then the table; writes `out`.

    `quick` takes nets and images so small that a CPU does it in a minute, to try the command.

    Raises:
        UserError: no GPU, or a CPU asked for without `quick`.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("bench gpu: needs a CUDA GPU (got none); --device cpu --quick tries the same on a CPU")
    if device == "cpu" and not quick:
        raise UserError("bench gpu: too much for a CPU (got --device cpu); add --quick")
    with writable(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    sizes, place = QUICK if quick else FULL, torch.device(device)
    rows: Rows = []
    started = time.perf_counter()
    with kernels(place):
        for section in sections(sizes, place):
            rows += measured(section, rows, time.perf_counter() - started, sizes.limit_s)
            spent = time.perf_counter() - started
            with writable(out):
                write_json(out, {"rows": rows, "quick": quick, "wall_s": spent, **about(place)})
            yield f"{spent:4.0f} s  {section.name}"
    yield from table(rows)
    yield f"written to {out}" + (" (tiny sizes: the figures mean nothing)" if quick else "")


def measured(section: Section, rows: Rows, spent: float, limit_s: float) -> Rows:
    """A section's rows; where there is no time for it, or it fails, one row that says so."""
    if spent + section.most_s > limit_s:
        return [row(section.name, None, "", f"left out: {spent:.0f} of {limit_s:.0f} s are gone")]
    try:
        return section.measure(rows)
    # A section that fails is a result, and the others go on.
    except Exception as error:
        return [row(section.name, None, "", f"failed: {in_a_line(error)}")]
    finally:
        # Nets and captured steps may still hold the device's memory.
        gc.collect()
        if "torch._dynamo" in sys.modules:
            torch.compiler.reset()
        # A failure may have left the device unusable, as every later row then says.
        with suppress(RuntimeError):
            torch.cuda.empty_cache()


def sections(sizes: Sizes, device: torch.device) -> Iterator[Section]:
    """What is measured, the most wanted first."""

    def net(name: str, precision: str = "bfloat16", how: str = "eager") -> Section:
        """The section of one net at a precision, eager or compiled."""
        most = COMPILE_S if how == "compiled" else SHORT_S
        return Section(f"{name} {precision} {how}", most, partial(net_rows, sizes, device, name, precision, how))

    trial_arms = [
        Section(f"24 small trials, {arm.name}", ARM_S, partial(arm_rows, sizes, device, arm))
        for arm in arms(sizes.processes, sizes.streams)
    ]
    yield Section(PRODUCT, SHORT_S, lambda rows: [row(PRODUCT, ceiling(sizes.matrix, device), "FLOP/s")])
    yield from (net("B"), net("B", how="compiled"), net("small-30"))
    yield Section("host syncs", SHORT_S, lambda rows: sync_rows(sizes, device))
    yield from trial_arms[:7]
    yield Section("watching", SHORT_S, lambda rows: watching_rows(sizes, device))
    yield net("small-30", how="compiled")
    yield from trial_arms[7:]
    yield from (net("B", how="contiguous"), net("B", "float32"), net("small-30", "float32"))


def row(what: str, value: float | None, unit: str, note: str = "") -> Row:
    """A row of the table."""
    return {"what": what, "value": value, "unit": unit, "note": note}


def value_of(rows: Rows, what: str) -> float | None:
    """The value of an earlier row."""
    return next((float(entry["value"]) for entry in rows if entry["what"] == what and entry["value"] is not None), None)


def net_rows(sizes: Sizes, device: torch.device, name: str, precision: str, how: str, rows: Rows) -> Rows:
    """Images per second of a net, its share of the matrix product's, and Fig 3's time by it."""
    what, product = f"{name} {precision} {how}", value_of(rows, PRODUCT)
    layout = False if how == "contiguous" else None
    net = replace(sizes.nets[name], precision=precision, compiled=how == "compiled", channels_last=layout)
    speed, uncompiled = rate(net, device)
    new_rows = [row(what, speed, "images/s", f"ran uncompiled: {uncompiled}" if uncompiled else "")]
    if product:
        target = "target >= 60 %" if (name, precision) == ("B", "bfloat16") else ""
        share = 100 * speed * flop_per_image(net) / product
        new_rows.append(row(f"{what}, of the matrix product", share, "%", target))
    if (name, precision) == ("small-30", "bfloat16"):
        minutes = FIG3_IMAGES / speed / 60
        new_rows.append(row(f"Fig 3 by {what}", minutes, "min", "target <= 50 min on one H200, three schemes"))
    return new_rows


def arm_rows(sizes: Sizes, device: torch.device, arm: Arm, rows: Rows) -> Rows:
    """Trials per hour of an arm, and its ratio to one after another."""
    took, uncompiled = span(Study.model_validate({"name": "bench-gpu", **sizes.trials}), device.type, arm)
    per_hour, base = 24 * 3600 / took, value_of(rows, BASE)
    notes = [f"{per_hour / base:.2f} times one after another"] if base else []
    if arm.graphs and device.type == "cpu":
        notes.append("no graphs on a CPU")
    if uncompiled:
        notes.append(f"without graphs: {uncompiled}")
    return [row(f"24 small trials, {arm.name}", per_hour, "trials/h", "; ".join(notes))]


def sync_rows(sizes: Sizes, device: torch.device) -> Rows:
    """How often the host waits in steady steps, of one trial, a pack and its replays; and what a row's wait costs."""
    updates = {"": large_trial(sizes.nets["B"], device).update}
    graph = cuda_graph if device.type == "cuda" else None
    for name, capture in {" of a pack": None, " of a pack, CUDA graph": graph}.items():
        updates[name] = Pack([large_trial(sizes.small, device) for _ in range(4)], capture).update
    syncs = {f"host syncs in 10 steps{name}": host_syncs(update, device) for name, update in updates.items()}
    cost = row("a row of scalars every 50 steps", row_cost(sizes.nets["B"], device), "of a step")
    return [*(row(what, count, "", "target 0") for what, count in syncs.items()), cost]


def watching_rows(sizes: Sizes, device: torch.device) -> Rows:
    """What watching costs, as shares of a step; a tracker that is not there is a row that says so."""
    net = sizes.nets["B"]
    shares, left_out = compare(partial(large_trial, net, device), 1, max(1, net.steps // BLOCK), device)
    measured = [row(f"{arm.name}, every {arm.every} steps", arm.share, "of a step") for arm in shares]
    return measured + [row(name, None, "", f"left out: {reason}") for name, reason in left_out]


def about(device: torch.device) -> dict[str, Any]:
    """Chip, versions and command."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "torch_version": torch.__version__,
        "cuda_version": torch.version.cuda if cuda else None,
        "cudnn_version": torch.backends.cudnn.version() if cuda else None,
        "python_version": platform.python_version(),
        "initlab_version": __version__,
        **provenance().model_dump(),
    }


def table(rows: Rows) -> list[str]:
    """One line per figure, with four digits."""
    cells = []
    for entry in rows:
        value = entry["value"]
        digits = "–" if value is None else f"{value:,.4g}" if value < 1e6 else f"{value:.4g}"
        cells.append([entry["what"], f"{digits:>12} {entry['unit']:<9}", entry["note"]])
    return text_table(cells)
