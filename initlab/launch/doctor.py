"""What `initlab doctor` looks at: this machine, a folder and a Ray cluster, with the fix for each lack."""

import fcntl
import importlib.util
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from initlab.data.facts import FACTS, absence
from initlab.errors import UserError
from initlab.launch.machine import cache_folder, gpu_count

WRITTEN_MB = 32
# Below these a sweep waits for the disk, or a shared clock says nothing of who wrote last.
LEAST_MB_PER_S, LEAST_FREE_GB, MOST_CLOCK_S = 20.0, 2.0, 2.0


class Finding(NamedTuple):
    """One thing that was looked at: whether it works, whether a run needs it, what was seen, and the fix."""

    what: str
    works: bool
    seen: str
    fix: str = ""
    needed: bool = True

    def __str__(self) -> str:
        """A line."""
        word = "ok" if self.works else "BROKEN" if self.needed else "absent"
        return f"{word:<7} {self.what:<9} {self.seen}" + (f"; {self.fix}" if not self.works else "")


def examine(out: Path, data_dir: Path | None, address: str | None) -> Iterator[Finding]:
    """Look at everything; `out` is an output folder, or where one would be made."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", sys.version_info >= (3, 11), f"{version}, {sys.executable}", "install python 3.11 or later")
    yield from torch_findings()
    ray = importlib.util.find_spec("ray") is not None
    yield Finding("ray", ray, "installed" if ray else "not installed", "pip install 'ray[tune]'", needed=bool(address))
    place = next(folder for folder in [out.absolute(), *out.absolute().parents] if folder.is_dir())
    try:
        yield from folder_findings(place)
    except OSError as error:
        yield Finding("folder", False, f"{place}: {error.strerror}", "give --out a folder that can be written")
    yield Finding("cache", True, str(cache_folder()))
    yield data_finding(data_dir)
    if address and ray:
        yield cluster_finding(address, place)


def torch_findings() -> Iterator[Finding]:
    """torch, and the GPUs that the driver and torch each see."""
    try:
        import torch
    except ImportError as error:
        yield Finding("torch", False, f"cannot be imported ({error})", "pip install torch")
        return
    yield Finding("torch", bool(torch.ones(2).sum() == 2), torch.__version__, "install torch again")
    offered = gpu_count()
    seen = torch.cuda.device_count() if offered else 0
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(seen)) or "none: trials run on the CPU"
    text = names if seen == offered else f"the driver offers {offered} GPUs, torch sees {seen}"
    yield Finding("gpus", seen == offered, text, "install a torch built for this driver's CUDA")
    cores = len(os.sched_getaffinity(0))
    yield Finding("cores", True, f"{cores} of {os.cpu_count()} are for this process")


def folder_findings(place: Path) -> Iterator[Finding]:
    """Room, speed, locks and clock of the file system that a folder lies on."""
    free = shutil.disk_usage(place).free / 1e9
    yield Finding("room", free > LEAST_FREE_GB, f"{free:.1f} GB free in {place}", "make room, or give another --out")
    with tempfile.NamedTemporaryFile(dir=place, prefix=".initlab-doctor-") as file:
        start = time.perf_counter()
        file.write(bytes(WRITTEN_MB * 10**6))
        file.flush()
        os.fsync(file.fileno())
        speed = WRITTEN_MB / (time.perf_counter() - start)
        yield Finding("disk", speed > LEAST_MB_PER_S, f"writes {speed:.0f} MB/s", "give --out on a faster disk")
        skew = abs(os.stat(file.name).st_mtime - time.time())
        text = f"{skew:.1f} s between this machine and the files' times"
        yield Finding("clock", skew < MOST_CLOCK_S, text, "set both machines' clocks by NTP")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            text = f"none ({error.strerror})"
            yield Finding(
                "locks", False, text, "a run holds its folder by a file that it touches instead", needed=False
            )
        else:
            yield Finding("locks", True, "files can be locked")


def data_finding(data_dir: Path | None) -> Finding:
    """Which of the built-in data sets are at hand."""
    sets = [name for name in FACTS if not absence(name, data_dir)]
    absent = [name for name in FACTS if name not in sets]
    text = f"{', '.join(sets)} in {data_dir or 'the package (no data folder given)'}"
    fix = "give --data-dir DIR or set INITLAB_DATA=DIR"
    return Finding("data", not absent, f"{text}; not {', '.join(absent)}" if absent else text, fix, needed=False)


def cluster_finding(address: str, place: Path) -> Finding:
    """The nodes of a Ray cluster, what they have, and whether all see a folder."""
    from initlab.engine.cluster import check_out_shared, ray_running

    try:
        with ray_running(1, address=address) as seconds:
            import ray

            total, nodes = ray.cluster_resources(), sum(node["Alive"] for node in ray.nodes())
            check_out_shared(str(place))
    except UserError as error:
        return Finding("cluster", False, str(error), "start it with `ray start --head`, or mend --address")
    text = f"{nodes} nodes, {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs, joined in {seconds:.1f} s"
    return Finding("cluster", nodes > 0, f"{text}; all see {place}", "start nodes")
