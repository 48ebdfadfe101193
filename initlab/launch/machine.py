"""This machine, as a launch finds it, without torch: GPUs, folders, the command and the commit."""

import ctypes
import os
import shlex
import subprocess
import sys
from pathlib import Path

from initlab.engine.task import Provenance


def gpu_count() -> int:
    """NVIDIA GPUs that the driver offers; asked of the driver, since importing torch takes seconds."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def cache_folder() -> Path:
    """INITLAB_CACHE, or `initlab` in the user's cache folder as the desktop standards have it."""
    named = os.environ.get("INITLAB_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "initlab"


def provenance() -> Provenance:
    """What started this process, and of which commit it is."""
    return Provenance(command=command_line(), git_commit=git_commit())


def command_line() -> str:
    """What started this process, without the folder that its program lies in: `initlab run sweeps/demo.yaml`."""
    program = Path(sys.argv[0])
    # Of `python -m initlab` the program is the package's __main__.py.
    name = program.parent.name if program.name == "__main__.py" else program.name
    return shlex.join([name, *sys.argv[1:]])


def git_commit() -> str | None:
    """The commit of the initlab that runs, `+` where its tree was changed; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        described = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return described.stdout.strip() or None
