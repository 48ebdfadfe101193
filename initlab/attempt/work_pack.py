"""The work of a pack: several trials in one process, their steps taken as one, each with a folder of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from initlab.attempt.work import claim, device_of, failed, finish, ready, run_one, settled_already, stop_check
from initlab.data.dataset import Images
from initlab.plan.cost import cost
from initlab.plan.packs import unpackable_because
from initlab.store.files import TRIAL, TRIALS, StoreError, read_json
from initlab.store.writer import AttemptWriter
from initlab.study.spec import TrialSpec
from initlab.train.cuda import Capture, cuda_graph, kernels
from initlab.train.packed import OnEnd, Pack
from initlab.train.records import Outcome
from initlab.train.trial import COMPILE_STEPS, Trial

Answer = dict[str, Any]


def run_task(task: dict[str, Any]) -> Answer:
    """Run what an engine was given: a trial, or the `pack` of trials that the task lists."""
    if "pack" not in task and replayed(task):
        task = {**task, "pack": [task["trial"]]}
    return run_pack(task) if "pack" in task else run_one(task)


def replayed(task: dict[str, Any]) -> bool:
    """Whether a trial on its own is run as a pack of one: asked to compile, and too short for torch.compile to pay."""
    if not task["compile"] or device_of(task).type != "cuda" or task["devices"] > 1:
        return False
    try:
        spec = TrialSpec.model_validate(read_json(Path(task["out"]) / TRIALS / task["trial"] / TRIAL)["spec"])
    except (StoreError, ValidationError):
        return False  # `run_one` records it
    return unpackable_because(spec) is None and (cost(spec).steps or COMPILE_STEPS) < COMPILE_STEPS


def run_pack(task: dict[str, Any]) -> Answer:
    """Run the trials of `task["pack"]` as one, each to its end, its failure or a stop, and record which.

    Where torch cannot run their net for several at once they run one after another.

    Args:
        task: as `run_one` takes it, with `pack`: ids of trials put together by `initlab.plan.packs`, `trial` the first.

    Returns:
        `trial`, `state` (of a stopped trial where there is one), `pack`, an answer of each trial as `run_one` gives
        it, and `alone`, why several ran one after another, None where they did not.
    """
    should_stop = stop_check(Path(task["out"]))
    device, threads = device_of(task), torch.get_num_threads()
    answers: dict[str, Answer] = {}
    begun: dict[Trial, tuple[str, AttemptWriter]] = {}

    def ended(trial: Trial, outcome: Outcome | Exception) -> None:
        name, writer = begun[trial]
        answers[name] = ending(name, writer, outcome)

    try:
        torch.set_num_threads(task["threads"])
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), kernels(device):
            loaded: dict[str, Images] = {}
            for name in task["pack"]:
                begin(task, name, device, should_stop, loaded, begun, answers)
            capture = cuda_graph if device.type == "cuda" and task["compile"] is not False else None
            why = run_together(
                list(begun), should_stop, task["checkpoint_every_s"], ended, capture, task["skip_hopeless"]
            )
    finally:
        torch.set_num_threads(threads)
    parts = [answers[name] for name in task["pack"]]
    stopped = [part["state"] for part in parts if part["state"] in ("pending", "interrupted")]
    state = (stopped or [parts[0]["state"]])[0]
    return {"trial": task["trial"], "state": state, "pack": parts, "alone": why if len(parts) > 1 else None}


def begin(
    task: dict[str, Any],
    name: str,
    device: torch.device,
    should_stop: Callable[[], bool],
    loaded: dict[str, Images],
    begun: dict[Trial, tuple[str, AttemptWriter]],
    answers: dict[str, Answer],
) -> None:
    """Take one trial of the pack to its first step, into `begun`; or into `answers`, where it gets no further."""
    if settled := settled_already(task, name, should_stop):
        answers[name] = settled
        return
    writer = None
    try:
        described, spec, writer = claim(task, name, device)
        trial = ready(task, described, spec, writer, device, loaded)
        trial.begin(writer.resumed)
        begun[trial] = (name, writer)
    except Exception as error:  # the trial's boundary: it is recorded, and the others go on
        answers[name] = failed(name, writer, error)


def run_together(
    trials: list[Trial],
    should_stop: Callable[[], bool],
    checkpoint_every_s: float,
    ended: OnEnd,
    capture: Capture | None = None,
    skip_hopeless: bool = False,
) -> str | None:
    """Run the trials as a pack, or what is left of them one after another; returns why, None for a pack."""
    if not trials:
        return None
    pack = Pack(trials, capture, ended)
    why = pack.unpackable_because()
    if why is None:
        try:
            pack.run(should_stop, checkpoint_every_s, skip_hopeless)
        except torch.OutOfMemoryError:
            why = "the device has too little memory for all of them; lower --pack"
    for trial in pack.trials:
        try:
            ended(trial, trial.run(should_stop, checkpoint_every_s, skip_hopeless).plus(eager=pack.eager))
        except Exception as error:  # the trial's boundary
            ended(trial, error)
    return why


def ending(name: str, writer: AttemptWriter, outcome: Outcome | Exception) -> Answer:
    """Record how a trial ended; the answer to the engine."""
    if isinstance(outcome, Exception):
        return failed(name, writer, outcome)
    try:
        return finish(name, writer, outcome)
    except Exception as error:  # the trial's boundary: the others go on
        return failed(name, writer, error)
