"""`initlab bench gpu`: right numbers on the device, large nets against its limit, many small trials, watching.

One run, so that ratios mean something. Each section leaves rows, a failed or left out one a row that says why; the
JSON file (with chip, versions and command) is written anew after each, so that a kill loses nothing. The table is last.
"""

import gc
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from initlab.bench.gpu_net import ceiling
from initlab.bench.gpu_rows import (
    FULL,
    PRODUCT,
    QUICK,
    TESTS_S,
    Rows,
    Sizes,
    arm_rows,
    compiled_pack_rows,
    net_rows,
    pack_rows,
    row,
    sync_rows,
    tests_row,
    watching_rows,
)
from initlab.bench.gpu_study import fitted
from initlab.bench.gpu_trials import arms
from initlab.errors import UserError
from initlab.launch.machine import provenance
from initlab.report.text_table import text_table
from initlab.store.files import writable, write_json
from initlab.train.cuda import in_a_line, kernels
from initlab.version import __version__

# The most that sections are thought to take, but for the tests: a compilation and a run, an arm, anything else.
COMPILE_S, ARM_S, SHORT_S = 90.0, 30.0, 15.0


@dataclass(frozen=True)
class Section:
    """A part of the run: its name, the most that it is thought to take, and what makes its rows from those so far."""

    name: str
    most_s: float
    measure: Callable[[Rows], Rows]


def bench_gpu(
    device: str,
    quick: bool,
    out: Path | None,
    minutes: float = 8.0,
    only: Sequence[str] = (),
    study: Path | None = None,
    data_dir: Path | None = None,
    overrides: Sequence[str] = (),
) -> Iterator[str]:
    """Lines of text as the sections end, then the table; writes `out`, by default named after the card.

    Args:
        quick: nets and images so small that a CPU does it in minutes, to try the command.
        minutes: a section begins only where the most that it is thought to take is left of them.
        only: beginnings of the names of the sections to run; none runs all.
        study: trained after them, as far as the minutes that are left hold; its data lie in `data_dir`.
        overrides: `dotted.path=value` texts for the study.

    Raises:
        UserError: no GPU, a CPU asked for without `quick`, or no section of such a name.
        StudyError: a mistake in the study, or its results are there already.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("bench gpu: needs a CUDA GPU (got none); --device cpu --quick tries the same on a CPU")
    if device == "cpu" and not quick:
        raise UserError("bench gpu: too much for a CPU (got --device cpu); add --quick")
    sizes, place = QUICK if quick else FULL, torch.device(device)
    chosen = [section for section in sections(sizes, place) if not only or section.name.startswith(tuple(only))]
    if not chosen:
        names = ", ".join(section.name for section in sections(sizes, place))
        raise UserError(f"bench gpu: no section begins so (got {', '.join(only)}); allowed: beginnings of {names}")
    started = time.perf_counter()
    if study:
        plan = fitted(study, overrides, data_dir, device, sizes.pace_steps)
        chosen.append(Section(study.stem, SHORT_S, partial(plan.rows, started + 60 * minutes)))
    card = about(place)
    out = out or Path("results/bench") / f"gpu-{re.sub('[^a-z0-9]+', '-', card['device'].lower()).strip('-')}.json"
    with writable(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    rows: Rows = []
    with kernels(place):
        for section in chosen:
            rows += measured(section, rows, time.perf_counter() - started, 60 * minutes)
            spent = time.perf_counter() - started
            with writable(out):
                write_json(out, {"rows": rows, "quick": quick, "wall_s": spent, **card})
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

    def net(name: str, how: str = "eager", precision: str = "bfloat16") -> Section:
        """The section of one net at a precision, and how its steps run."""
        most = COMPILE_S if how == "compiled" else SHORT_S
        return Section(f"{name} {precision} {how}", most, partial(net_rows, sizes, device, name, precision, how))

    yield Section(PRODUCT, SHORT_S, lambda rows: [row(PRODUCT, ceiling(sizes.matrix, device), "FLOP/s")])
    yield Section("tests", TESTS_S, lambda rows: [tests_row(device)])
    yield from (net(name, how) for how in ("eager", "CUDA graph", "compiled") for name in sizes.nets)
    yield Section("packs", 3 * SHORT_S, partial(pack_rows, sizes, device))
    for arm in arms(sizes.processes, sizes.streams):
        yield Section(f"24 small trials, {arm.name}", ARM_S, partial(arm_rows, sizes, device, arm))
    yield Section("watching", 2 * SHORT_S, partial(watching_rows, sizes, device))
    yield Section("host syncs", 2 * SHORT_S, partial(sync_rows, sizes, device))
    yield Section("compiled pack", COMPILE_S, partial(compiled_pack_rows, sizes, device))
    yield from (net("B", "contiguous"), net("B", precision="float32"), net("small-30", precision="float32"))


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
