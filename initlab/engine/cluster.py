"""Ray itself: a local one of our own for the length of a block, or a running cluster that we join.

Measured on two busy cores: `import ray` 1 s, start 4 s, shutdown 5 s, 0.04 s a trial once workers have started.
"""

import logging
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from initlab.engine.stopping import signals_held
from initlab.errors import UserError

SETTINGS = {  # read by Ray when it is imported
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else workers under `uv run` are started anew through uv
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same as inline
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a box and a path even when told to be quiet
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",  # else a preempted trial is tried again without end
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # five files a trial that the store has already
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is the launch's: see engine/stopping.py
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's own state is never resumed from
}
for name, value in SETTINGS.items():
    os.environ.setdefault(name, value)

import ray  # noqa: E402 - after its settings
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402

CONNECT_S = 5.0
JOIN_S = 60.0
ADDRESSES = "HOST:PORT of a running cluster's head, or auto on one of its nodes"
OBJECT_STORE = 100 * 2**20  # bytes; nothing large goes through it, and the default takes 30 % of the memory


class EngineError(UserError):
    """A request that Ray cannot fulfil, in one line."""


class Died(Exception):
    """A process of a gang died; which, and how."""


def exit_detail(error: Exception) -> str:
    """How a process ended, out of Ray's words for it."""
    end = str(error).strip().splitlines()[-1].rpartition("Worker exit detail: ")[2]
    return end.partition(" Some common causes")[0]


@contextmanager
def ray_running(jobs: int, *, threads: int = 1, address: str | None = None) -> Iterator[float]:
    """Ray for the length of the block, started here for `jobs` processes at once, or joined at `address`.

    Yields:
        Seconds that it took to start or join.

    Raises:
        EngineError: it cannot be started or reached.
    """
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    # OMP_NUM_THREADS: OpenMP reads it once, before a trial could set its threads
    options: dict[str, Any] = {"runtime_env": {"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads)}}}
    folder = None
    if address:
        check_reachable(address)
        check_joins(address)
    else:
        # In /tmp: a path of Ray's sockets may have 107 bytes.
        folder = tempfile.mkdtemp(prefix="initlab-", dir=os.environ.get("RAY_TMPDIR", "/tmp"))
        options |= {"num_cpus": jobs * threads, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
        options |= {"_temp_dir": folder}
    started = time.perf_counter()
    try:
        start(address or "local", options)  # None would join a cluster where RAY_ADDRESS names one
        yield time.perf_counter() - started
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def start(address: str, options: dict[str, Any]) -> None:
    """`ray.init`, quietly, with its errors in one line."""
    # It prints "(raylet) A worker died ..." between our lines; the answers say it.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    try:
        # Its processes must outlive a signal that a whole job is sent, until the trials have their checkpoints.
        with handlers_kept(), stderr_dropped(), signals_held():
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        why = " ".join(str(error).split())[:300]
        if address == "local":
            raise EngineError(f"--engine: Ray does not start ({why}); use --engine inline") from error
        raise EngineError(f"--address: cannot join (got {address!r}: {why}); allowed: {ADDRESSES}") from error


@contextmanager
def stderr_dropped() -> Iterator[None]:
    """No stderr for the block, whose C++ half writes there past Python; what goes wrong is raised too."""
    before = os.dup(2)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def check_reachable(address: str) -> None:
    """Refuse an address that nothing answers at; Ray would try for minutes, then end the process."""
    if address == "auto":  # Ray looks for it on this machine, and says at once
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise EngineError(f"--address: not an address of a Ray cluster (got {address!r}); allowed: {ADDRESSES}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise EngineError(f"--address: nothing answers (got {address!r}: {error}); allowed: {ADDRESSES}") from None


def check_joins(address: str) -> None:
    """Refuse an address that is answered, but where a process that joins waits for ever, as behind a port-forward.

    Tried in another process: Ray waits inside its own code, where nothing reaches it.
    """
    code = f"import ray; ray.init(address={address!r}, log_to_driver=False, logging_level='CRITICAL')"
    try:
        tried = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, timeout=JOIN_S)
    except subprocess.TimeoutExpired:
        why = f"something answers, but joining takes more than {JOIN_S:.0f} s"
        hint = "run on a machine that reaches the cluster's nodes themselves, not through a forwarded port"
        raise EngineError(f"--address: cannot join (got {address!r}: {why}); {hint}") from None
    # What else went wrong, joining it here says.
    if b"AuthToken" in tried.stderr:
        hint = "set RAY_AUTH_MODE=token and provide what `ray get-auth-token` prints there"
        raise EngineError(f"--address: cannot join (got {address!r}: it asks for a token); {hint}")


def check_out_shared(out: str) -> None:
    """Refuse nodes that do not see the output folder: they would train, and nobody would find it."""
    mark = Path(out, f".seen-{os.getpid()}")

    @ray.remote(num_cpus=0)
    def sees(path: str) -> bool:
        """Whether a file is there."""
        return os.path.exists(path)

    mark.touch()
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        to = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
        answers = ray.get([sees.options(scheduling_strategy=node).remote(str(mark)) for node in to], timeout=JOIN_S)
    except ray.exceptions.GetTimeoutError:
        raise EngineError(f"--address: some node of the cluster does not answer within {JOIN_S:.0f} s") from None
    finally:
        mark.unlink()
    blind = [node["NodeManagerAddress"] for node, answer in zip(nodes, answers, strict=True) if not answer]
    if blind:
        text = f"not seen by {len(blind)} of {len(nodes)} nodes (got {out!r}; {', '.join(blind[:3])})"
        raise EngineError(f"--out: {text}; give a folder on a disk that all nodes share")


def check_fits(threads: int, gpus: float, devices: int = 1) -> int:
    """Refuse what the cluster never has room for; Tune would leave it pending without end.

    Returns:
        How many tasks of `devices` processes it has room for at once, where each process takes whole GPUs or none.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    rooms = [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]
    places = [int(min(cpu // threads, gpu // gpus if gpus else math.inf)) for cpu, gpu in rooms]
    got = f"{threads} CPUs and {gpus:g} GPUs"
    if not any(places):
        where, advice = "run.threads", ""
        if all(gpu < gpus for _, gpu in rooms):
            where, advice = "--gpus-per-trial", "; or use --device cpu"
        allowed = " or ".join(sorted({f"{cpu:g} CPUs and {gpu:g} GPUs" for cpu, gpu in rooms})) or "nothing, no node"
        text = f"no node of the cluster has room for a trial (got {got}); allowed: up to {allowed}{advice}"
        raise EngineError(f"{where}: {text}")
    if sum(places) < devices:
        text = f"the cluster has no room for a trial (got {devices} processes of {got} each)"
        raise EngineError(f"--devices: {text}; allowed: up to {sum(places)}")
    return sum(places) // devices


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put back the signal handlers that Ray (SIGTERM) and Tune (SIGUSR1) install for good."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
