"""What the sections of `initlab bench gpu` measure, as rows of its table; and the sizes at which they do."""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from initlab.bench.gpu_net import Large, flop_per_image, host_syncs, large_trial, rate, row_cost
from initlab.bench.gpu_packs import alone, pack_rate
from initlab.bench.gpu_trials import Arm, span
from initlab.bench.watch import BLOCK, compare
from initlab.study.study import Study
from initlab.train.cuda import cuda_graph, in_a_line
from initlab.train.packed import Pack

# Seconds after which the tests on the device are given up.
TESTS_S = 120.0
PRODUCT = "bf16 matrix product"
BASE = "24 small trials, one after another"
# Three schemes through the epochs that the figure shows, of ImageNet's training set.
FIG3_IMAGES = 3 * 9.9 * 1_281_167
TESTS = Path(__file__).parents[2] / "tests" / "gpu"

# What, value (None where there is none), unit and note.
Row = dict[str, Any]
Rows = list[Row]


@dataclass(frozen=True)
class Sizes:
    """What to measure on."""

    matrix: int
    nets: dict[str, Large]  # B, and small-30 for Fig 3; B is watched too
    small: dict[str, Large]  # to be packed
    packs: Sequence[int]
    trials: dict[str, Any]  # sections of the small trials' study, on digits
    processes: int
    streams: int
    pace_steps: int  # of the trial that tells how much of a study fits


# Times two depths, that makes 24 trials.
GRID = {"seed": [0, 1, 2, 3], "init.scheme": ["gaussian", "xavier", "he"]}
# A plain net of 30 layers, and a perceptron whose operations are nothing to a GPU.
DEMO_NET = Large({"depth": 30, "width": 16}, side=16, batch=32, classes=10, steps=40, precision="float32", flip=False)
PERCEPTRON = replace(DEMO_NET, side=8, perceptron=64)
FULL = Sizes(
    matrix=8192,
    nets={name: Large({"name": name}, 224, 128, classes=1000, steps=20) for name in ("B", "small-30")},
    small={"demo net": DEMO_NET, "perceptron": PERCEPTRON},
    packs=(1, 4, 16, 64),
    trials={
        "data": {"image_size": 32},
        "train": {"epochs": 3.0, "batch_size": 32, "lr": 0.003},
        "grid": {**GRID, "net.depth": [22, 30]},
    },
    processes=4,
    streams=4,
    pace_steps=450,
)
TINY = Large({"depth": 6, "width": 2}, side=16, batch=4, classes=10, steps=2)
QUICK = Sizes(
    matrix=64,
    nets={"B": TINY, "small-30": TINY},
    small={"demo net": replace(TINY, precision="float32"), "perceptron": replace(TINY, perceptron=4)},
    packs=(1, 2),
    trials={
        "data": {"train_examples": 64, "val_examples": 16},
        "net": {"width": 2},
        "train": {"epochs": 1.0, "batch_size": 8, "lr": 0.003},
        "probe": {"examples": 8},
        "grid": {**GRID, "net.depth": [6, 8]},
    },
    processes=2,
    streams=4,
    pace_steps=4,
)


def row(what: str, value: float | None, unit: str, note: str = "") -> Row:
    """A row of the table."""
    return {"what": what, "value": value, "unit": unit, "note": note}


def value_of(rows: Rows, what: str) -> float | None:
    """The value of an earlier row."""
    return next((float(entry["value"]) for entry in rows if entry["what"] == what and entry["value"] is not None), None)


def tests_row(device: torch.device) -> Row:
    """How many of the tests on the device passed, and the last line of those that did not."""
    if not TESTS.is_dir():
        return row("tests on the device", None, "", f"left out: no {'/'.join(TESTS.parts[-2:])}; run from a checkout")
    command = [
        sys.executable,
        *["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-o", "addopts="],
        str(TESTS),
    ]
    ran = subprocess.run(command, cwd=TESTS.parents[1], capture_output=True, text=True, timeout=TESTS_S)
    lines = [line for line in ran.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    summary = ran.stdout.strip().splitlines()[-1] if ran.stdout.strip() else in_a_line(RuntimeError(ran.stderr))
    passed = re.search(r"(\d+) passed", summary)
    return row("tests on the device", int(passed[1]) if passed else 0, "passed", "; ".join([summary, *lines]))


def net_rows(sizes: Sizes, device: torch.device, name: str, precision: str, how: str, rows: Rows) -> Rows:
    """Images per second of a net, its share of the matrix product's, and Fig 3's time by it."""
    what, product = f"{name} {precision} {how}", value_of(rows, PRODUCT)
    layout = False if how == "contiguous" else None
    ways: dict[str, Any] = {"compiled": how == "compiled", "captured": how == "CUDA graph", "channels_last": layout}
    net = replace(sizes.nets[name], precision=precision, **ways)
    speed, notes = rate(net, device)
    new_rows = [row(what, speed, "images/s", "; ".join(notes))]
    if product:
        target = "target >= 60 %" if (name, precision) == ("B", "bfloat16") else ""
        share = 100 * speed * flop_per_image(net) / product
        new_rows.append(row(f"{what}, of the matrix product", share, "%", target))
    if (name, precision) == ("small-30", "bfloat16"):
        minutes = FIG3_IMAGES / speed / 60
        new_rows.append(row(f"Fig 3 by {what}", minutes, "min", "target <= 50 min on one H200, three schemes"))
    return new_rows


def pack_rows(sizes: Sizes, device: torch.device, rows: Rows) -> Rows:
    """Steps a second of packs, all trials together, as they are and as CUDA graphs; beside one trial's alone."""
    new_rows = []
    for name, net in sizes.small.items():
        base = alone(net, device)
        new_rows.append(row(f"{name} alone", base, "steps/s"))
        for size in sizes.packs:
            for captured, how in ((False, ""), (True, ", CUDA graph")):
                new_rows.append(pack_row(f"{name}, pack of {size}{how}", net, size, device, base, captured))
    return new_rows


def pack_row(
    what: str, net: Large, size: int, device: torch.device, base: float, captured: bool, compiled: bool = False
) -> Row:
    """The row of one pack; where it fails, as for want of memory, the row says so."""
    try:
        rate = pack_rate(net, size, device, captured, compiled)
    except RuntimeError as error:
        return row(what, None, "", f"failed: {in_a_line(error)}")
    notes = [f"{rate.steps_per_s / base:.2f} times one alone", f"peak {rate.peak_gib:.2f} GiB"]
    return row(what, rate.steps_per_s, "steps/s", "; ".join([*notes, *filter(None, [rate.eager])]))


def compiled_pack_rows(sizes: Sizes, device: torch.device, rows: Rows) -> Rows:
    """The demo net's pack, its forward and backward made by torch.compile, replayed as a CUDA graph."""
    net, size = sizes.small["demo net"], sizes.packs[-1]
    base = value_of(rows, "demo net alone") or alone(net, device)
    return [pack_row(f"demo net, pack of {size}, compiled, CUDA graph", net, size, device, base, True, True)]


def arm_rows(sizes: Sizes, device: torch.device, arm: Arm, rows: Rows) -> Rows:
    """Trials per hour of an arm, and its ratio to one after another."""
    took = span(Study.model_validate({"name": "bench-gpu", **sizes.trials}), device.type, arm)
    per_hour, base = 24 * 3600 / took.seconds, value_of(rows, BASE)
    notes = [f"{per_hour / base:.2f} times one after another"] if base else []
    notes.append(f"{took.begin_s:.2f} s before the first step, {1e3 * took.step_s:.1f} ms a step")
    if arm.graphs and device.type == "cpu":
        notes.append("no graphs on a CPU")
    if took.uncompiled:
        notes.append(f"without graphs: {took.uncompiled}")
    return [row(f"24 small trials, {arm.name}", per_hour, "trials/h", "; ".join(notes))]


def sync_rows(sizes: Sizes, device: torch.device, rows: Rows) -> Rows:
    """How often the host waits in steady steps, of one trial, a pack and its replays; and what a row's wait costs."""
    updates = {"": large_trial(sizes.nets["B"], device).update}
    graph = cuda_graph if device.type == "cuda" else None
    for name, capture in {" of a pack": None, " of a pack, CUDA graph": graph}.items():
        updates[name] = Pack([large_trial(sizes.small["demo net"], device) for _ in range(4)], capture).update
    syncs = {f"host syncs in 10 steps{name}": host_syncs(update, device) for name, update in updates.items()}
    cost = row("a row of scalars every 50 steps", row_cost(sizes.nets["B"], device), "of a step")
    return [*(row(what, count, "", "target 0") for what, count in syncs.items()), cost]


def watching_rows(sizes: Sizes, device: torch.device, rows: Rows) -> Rows:
    """What watching costs, as shares of a step; a tracker that is not there is a row that says so."""
    net = sizes.nets["B"]
    shares, left_out = compare(partial(large_trial, net, device), 1, max(1, net.steps // BLOCK), device)
    measured = [row(f"{arm.name}, every {arm.every} steps", arm.share, "of a step") for arm in shares]
    return measured + [row(name, None, "", f"left out: {reason}") for name, reason in left_out]
