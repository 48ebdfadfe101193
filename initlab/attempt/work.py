"""The work of one trial: from its folder and a few plain settings to a finished attempt.

`run_one` is the function that engines run, here or in another process; it wires data, nets, init, training and store.
"""

import math
import os
import platform
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from initlab.attempt.assemble import build, load_images
from initlab.data.dataset import Images
from initlab.engine.gang import followers
from initlab.engine.worker import orphaned
from initlab.plan.pretraining import shallow_of
from initlab.store.checkpoint import read_checkpoint
from initlab.store.files import CHECKPOINT, RESULT, STOP, TRIAL, TRIALS, attempts, read_json
from initlab.store.trial_folder import TrialFolder
from initlab.store.writer import AttemptWriter, Superseded
from initlab.study.spec import TrialSpec
from initlab.study.trial_code import check_sources
from initlab.train.cuda import kernels
from initlab.train.group import ALONE, Group, current_group, join_group, leave_group
from initlab.train.records import Outcome, Silent
from initlab.train.start import start_from
from initlab.train.trial import Trial
from initlab.version import __version__

STOP_CHECK_S = 0.2
LOSS_S = 10.0  # until an engine has noticed for certain that a process died
FOLLOW = "initlab.attempt.work:join_and_follow"  # by name: it runs in processes of its own


def run_one(task: dict[str, Any]) -> dict[str, Any]:
    """Run one trial to its end, its failure or a stop, and record which.

    Args:
        task: plain data: out, trial (id), device (None = cuda where there is one), threads, checkpoint_every_s,
            data_dir, download, allow_code, workers (that decode pictures), cache (folder), keep_decoded (pictures in
            it), compile and channels_last (see `Run`), skip_hopeless, launch (command and commit, for the record).

    Returns:
        `trial` and `state`, plain data too; `pending` where a stop was asked for before it began.
    """
    should_stop = stop_check(Path(task["out"]))
    if settled := settled_already(task, task["trial"], should_stop):
        return settled
    writer = None
    device = device_of(task)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(task["threads"])
        described, spec, writer = claim(task, task["trial"], device)
        gpus = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=gpus), kernels(device), gathered(task, device) as group:
            trial = ready(task, described, spec, writer, device, {}, group)
            trial.begin(group.share(writer.resumed))
            outcome = trial.run(should_stop, task["checkpoint_every_s"], task["skip_hopeless"])
        return finish(task["trial"], writer, outcome)
    except Exception as error:  # the trial's boundary: it is recorded, and the others go on
        return failed(task["trial"], writer, error)
    finally:
        torch.set_num_threads(threads)


def settled_already(task: dict[str, Any], trial: str, should_stop: Callable[[], bool]) -> dict[str, Any] | None:
    """The answer where there is nothing to do: a stop was asked for, or the trial is finished."""
    if should_stop():
        return {"trial": trial, "state": "pending"}
    if (Path(task["out"]) / TRIALS / trial / RESULT).exists():  # an engine may ask twice, e.g. after it lost a node
        return {"trial": trial, "state": "done"}
    return None


def device_of(task: dict[str, Any]) -> torch.device:
    """Where to compute."""
    name = task["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and current_group().size > 1:  # its own of several, which was set before
        return torch.device(name, torch.cuda.current_device())
    return torch.device(name)


def claim(task: dict[str, Any], trial: str, device: torch.device) -> tuple[dict[str, Any], TrialSpec, AttemptWriter]:
    """The trial's description and spec, and the writer of a new attempt at it."""
    folder = Path(task["out"]) / TRIALS / trial
    described = read_json(folder / TRIAL)
    spec = TrialSpec.model_validate(described["spec"])
    writer = AttemptWriter(TrialFolder(Path(task["out"]), trial), environment(device, spec, task["launch"]))
    return described, spec, writer


def ready(
    task: dict[str, Any],
    described: dict[str, Any],
    spec: TrialSpec,
    writer: AttemptWriter,
    device: torch.device,
    loaded: dict[str, Images],
    group: Group = ALONE,
) -> Trial:
    """The trial before its first step, or before it takes up a checkpoint; `loaded` keeps images for the next ones."""
    check_sources(spec, described["source"])
    what = spec.data.model_dump_json()
    data = loaded[what] if what in loaded else load_images(spec, device, task, described["source"], writer.doing)
    loaded[what] = data
    net = build(spec, data, device)
    if not writer.resumed and (shallow := shallow_of(spec)):
        start_from(net, trained(Path(task["out"]), shallow.trial_id))
    return Trial(spec, net, data, writer, task["compile"], group, task["channels_last"])


def finish(trial: str, writer: AttemptWriter, outcome: Outcome) -> dict[str, Any]:
    """End the attempt; the answer to the engine."""
    finished = outcome.state in ("done", "diverged")
    writer.close(outcome.state, outcome.figures, outcome.figures if finished else None)
    eager = outcome.figures.get("eager")
    return {"trial": trial, "state": outcome.state, **({"eager": eager} if eager else {})}


@contextmanager
def gathered(task: dict[str, Any], device: torch.device) -> Iterator[Group]:
    """The group of `task["devices"]` processes, led by this one; it is over when the block is left.

    The others are there already where the engine started them along with this one.
    """
    size, group = task.get("devices", 1), current_group()
    if size == 1:
        yield ALONE
        return
    if group.size == size:
        try:
            yield group
        except Exception:
            time.sleep(LOSS_S)  # if it is that another one died, the engine ends this one too: no failure to record
            raise
        return
    with tempfile.TemporaryDirectory(prefix="initlab-group-") as folder:
        meeting = Path(folder) / "meeting"
        tasks = [{**task, "rank": rank, "meeting": str(meeting)} for rank in range(1, size)]
        with followers(FOLLOW, tasks, task["threads"]):
            try:
                yield join_group(0, size, meeting, device)
            finally:
                leave_group()


def join_and_follow(task: dict[str, Any]) -> None:
    """`follow` in a process that the leader started: on a device of its own, in the group that meets in a file."""
    device = device_of(task)
    if device.type == "cuda":
        torch.cuda.set_device(task["rank"])
    join_group(task["rank"], task["devices"], Path(task["meeting"]), device)
    follow(task)
    leave_group()


def follow(task: dict[str, Any]) -> None:
    """A follower's part of a trial: the same steps as the leader, on its slice of each batch, without records."""
    described = read_json(Path(task["out"]) / TRIALS / task["trial"] / TRIAL)
    spec = TrialSpec.model_validate(described["spec"])
    device, group = device_of(task), current_group()
    torch.set_num_threads(task["threads"])
    data = load_images(spec, device, task, described["source"], lambda line: None)
    trial = Trial(spec, build(spec, data, device), data, Silent(), task["compile"], group, task["channels_last"])
    with kernels(device):
        trial.begin(group.share(None))
        trial.run(lambda: False, math.inf, task["skip_hopeless"])


def failed(trial: str, writer: AttemptWriter | None, error: Exception) -> dict[str, Any]:
    """Record a failure; where no attempt could be made, the launch does, from the answer's `error`."""
    if isinstance(error, Superseded):
        return {"trial": trial, "state": "superseded"}
    text = f"{type(error).__name__}: {error}"
    if writer is None:
        return {"trial": trial, "state": "failed", "error": text}
    try:
        writer.close("failed", {"error": text, "traceback": "".join(traceback.format_exception(error))})
    except Superseded:
        return {"trial": trial, "state": "superseded"}
    return {"trial": trial, "state": "failed"}


def stop_check(out: Path) -> Callable[[], bool]:
    """A cheap `should_stop()`: a STOP file in OUT, or the launching process gone."""
    last, answer = 0.0, False

    def should_stop() -> bool:
        nonlocal last, answer
        now = time.monotonic()
        if now - last > STOP_CHECK_S:
            last, answer = now, (out / STOP).exists() or orphaned.is_set()
        return answer

    return should_stop


def trained(out: Path, trial: str) -> dict[str, Tensor]:
    """The weights of a finished trial in the same output folder."""
    folder = out / TRIALS / trial
    state = read_json(folder / RESULT)["state"] if (folder / RESULT).exists() else "not finished"
    if state != "done":
        raise RuntimeError(
            f"train.shallow_depth: the shallow net's trial {trial} is {state}; run the study without --only, "
            "or mend what failed there"
        )
    weights: dict[str, Tensor] = read_checkpoint(attempts(folder)[-1] / CHECKPOINT)["net"]
    return weights


def environment(device: torch.device, spec: TrialSpec, launch: dict[str, Any]) -> dict[str, Any]:
    """Where and with what an attempt ran."""
    asked = spec.train.precision
    in_float32 = asked == "auto" or (asked == "bfloat16" and device.type == "cpu")
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "precision": "float32" if in_float32 else asked,
        "threads": torch.get_num_threads(),
        "torch_version": torch.__version__,
        "python_version": platform.python_version(),
        "initlab_version": __version__,
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        **launch,
    }
