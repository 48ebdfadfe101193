"""The work of one trial: from its folder and a few plain settings to a finished attempt.

`run_one` is the function that engines run, here or in another process; it wires data, nets, init, training and store.
"""

import json
import math
import os
import platform
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from initlab import __version__
from initlab.code import import_callable, is_code, source_hash
from initlab.data.dataset import Images, prepare
from initlab.data.facts import FACTS, is_pictures
from initlab.data.sources import Raw, load_raw
from initlab.engine.gang import followers
from initlab.engine.worker import orphaned
from initlab.init.apply import init_
from initlab.layout import describe, input_side
from initlab.nets.build import to_modules
from initlab.shallow import shallow_of
from initlab.spec import Data, TrialSpec, code_names
from initlab.store.checkpoint import read_checkpoint
from initlab.store.files import CHECKPOINT, RESULT, STOP, TRIAL, TRIALS, attempts, read_json
from initlab.store.writer import AttemptWriter, Superseded
from initlab.streams import stream_seed
from initlab.train.cuda import kernels
from initlab.train.group import ALONE, Group, join, leave, standing
from initlab.train.records import Outcome, Silent
from initlab.train.start import start_from
from initlab.train.trial import Trial

STOP_CHECK_S = 0.2
LOSS_S = 10.0  # until an engine has noticed for certain that a process died
FOLLOW = "initlab.work:join_and_follow"  # by name: it runs in processes of its own


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
            resumed = group.share(writer.resumed)
            outcome = trial.run(resumed, should_stop, task["checkpoint_every_s"], task["skip_hopeless"])
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
    if name == "cuda" and standing().size > 1:  # its own of several, which was set before
        return torch.device(name, torch.cuda.current_device())
    return torch.device(name)


def claim(task: dict[str, Any], trial: str, device: torch.device) -> tuple[dict[str, Any], TrialSpec, AttemptWriter]:
    """The trial's description and spec, and the writer of a new attempt at it."""
    folder = Path(task["out"]) / TRIALS / trial
    described = read_json(folder / TRIAL)
    spec = TrialSpec.model_validate(described["spec"])
    writer = AttemptWriter(folder, described["first_attempt"], environment(device, spec, task["launch"]))
    return described, spec, writer


def ready(
    task: dict[str, Any], described: dict[str, Any], spec: TrialSpec, writer: AttemptWriter, device: torch.device,
    loaded: dict[str, Images], group: Group = ALONE,
) -> Trial:  # fmt: skip
    """The trial before its first step, or before it takes up a checkpoint; `loaded` keeps images for the next ones."""
    check_source(spec, described["source"])
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
    size, group = task.get("devices", 1), standing()
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
                yield join(0, size, meeting, device)
            finally:
                leave()


def join_and_follow(task: dict[str, Any]) -> None:
    """`follow` in a process that the leader started: on a device of its own, in the group that meets in a file."""
    device = device_of(task)
    if device.type == "cuda":
        torch.cuda.set_device(task["rank"])
    join(task["rank"], task["devices"], Path(task["meeting"]), device)
    follow(task)
    leave()


def follow(task: dict[str, Any]) -> None:
    """A follower's part of a trial: the same steps as the leader, on its slice of each batch, without records."""
    described = read_json(Path(task["out"]) / TRIALS / task["trial"] / TRIAL)
    spec = TrialSpec.model_validate(described["spec"])
    device, group = device_of(task), standing()
    torch.set_num_threads(task["threads"])
    data = load_images(spec, device, task, described["source"], lambda line: None)
    trial = Trial(spec, build(spec, data, device), data, Silent(), task["compile"], group, task["channels_last"])
    with kernels(device):
        trial.run(group.share(None), lambda: False, math.inf, task["skip_hopeless"])


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


def load_images(
    spec: TrialSpec, device: torch.device, task: dict[str, Any], source: dict[str, str], say: Callable[[str], None]
) -> Images:
    """The trial's images on its device; the last few raw sets stay in memory for the next trials."""
    data = spec.data
    if is_pictures(data.name):
        return load_pictures(spec, device, task, say)
    raw = cached_raw(
        data.model_dump_json(), task["data_dir"], task["download"], task["allow_code"], source.get("data.name")
    )
    return prepare(
        raw, scale=data.scale, train_examples=data.train_examples, val_examples=data.val_examples, flip=data.flip,
        shift=data.shift, device=device, dtype=DTYPES[spec.train.precision],
    )  # fmt: skip


def load_pictures(spec: TrialSpec, device: torch.device, task: dict[str, Any], say: Callable[[str], None]) -> Images:
    """The trial's pictures in class folders, listed and measured."""
    from initlab.data.folder_set import open_folder  # here: torchvision's transforms take seconds to import
    from initlab.data.views import Views

    data, crop = spec.data, input_side(spec.data)
    val_side = data.val_side or round(crop * 8 / 7)
    views = Views(
        crop=crop, val_side=val_side, jitter=data.jitter or (val_side, val_side),
        flip=FACTS[data.name].flip if data.flip is None else data.flip, color_std=data.color_std,
    )  # fmt: skip
    return open_folder(
        data.name, Path(task["data_dir"]) if task["data_dir"] else None, classes=data.classes, views=views,
        side=data.image_size, scale=data.scale, train_examples=data.train_examples, val_examples=data.val_examples,
        workers=task["workers"], cache=Path(task["cache"]), keep_decoded=task["keep_decoded"], device=device,
        dtype=DTYPES[spec.train.precision], say=say,
    )  # fmt: skip


@lru_cache(maxsize=2)
def cached_raw(data_json: str, data_dir: str | None, download: bool, allow_code: bool, source: str | None) -> Raw:
    """A raw set; `source` is the hash of the code that makes it, so that edited code is run again."""
    data = Data.model_validate(json.loads(data_json))
    if is_code(data.name):
        if not allow_code:
            raise PermissionError(f"data.name: {data.name!r} is your code; add --allow-code to import it")
        return import_callable("data.name", data.name)(**data.options)
    folder = Path(data_dir) if data_dir else None
    return load_raw(
        data.name, folder=folder, download=download, image_size=data.image_size, classes=data.classes,
        channels=data.channels,
    )  # fmt: skip


# of weights and images; under bfloat16 the step casts on the way
DTYPES = {
    "auto": torch.float32, "float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32,
}  # fmt: skip


def build(spec: TrialSpec, data: Images, device: torch.device) -> nn.Module:
    """The trial's net, initialised, on its device, in its precision."""
    net = bare_net(spec, data)
    init = spec.init
    scheme = import_callable("init.scheme", init.scheme) if is_code(init.scheme) else init.scheme
    batch = data.probe_batch(spec.probe.examples)[0] if init.scheme == "lsuv" else None
    init_(
        net, scheme, mode=init.mode, distribution=init.distribution, std=init.std, seed=spec.seed,
        linear_std=init.linear_std, last_std=init.last_std, last_factor=init.last_factor, batch=batch,
    )  # fmt: skip
    return net.to(device)


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


def bare_net(spec: TrialSpec, data: Images) -> nn.Module:
    """The trial's net in its precision, on the CPU, before its init."""
    if is_code(spec.net.name):
        make = import_callable("net.name", spec.net.name)
        torch.manual_seed(stream_seed(spec.seed, "net"))  # for parameters that no scheme draws
        net: nn.Module = make(num_classes=data.num_classes, input_shape=data.input_shape, **spec.net.options)
    else:
        net = to_modules(describe(spec, data.num_classes, data.input_shape))
    return net.to(DTYPES[spec.train.precision])


def check_source(spec: TrialSpec, planned: dict[str, str]) -> None:
    """Refuse to run code that was edited since the launch planned this trial."""
    for path, digest in planned.items():
        name = code_names(spec)[path]
        if source_hash(path, name) != digest:
            raise RuntimeError(f"{path}: the source of {name!r} changed since this sweep was launched; launch it again")


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
