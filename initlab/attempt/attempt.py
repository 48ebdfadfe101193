"""One attempt at a trial: opened in its folder, built to a `Trial`, ended with what came of it.

For a trial on its own, each trial of a pack and the benchmarks alike.
"""

import os
import platform
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from initlab.attempt.assemble import build_net, load_data
from initlab.data.dataset import Dataset
from initlab.data.text import digest
from initlab.engine.signs import log_to
from initlab.engine.task import Provenance, State, Task, TrialEnd, cause_of
from initlab.plan.plan import shallow_of
from initlab.store.checkpoint import read_checkpoint
from initlab.store.files import LOG, no_room
from initlab.store.trial_folder import TrialFolder
from initlab.store.writer import AttemptWriter, Superseded
from initlab.study.sections import Data
from initlab.study.spec import TrialSpec
from initlab.study.trial_code import check_sources
from initlab.train.group import ALONE, Group
from initlab.train.records import Outcome, Raised, caught
from initlab.train.start import start_from
from initlab.train.trial import Trial
from initlab.version import __version__


class Attempt:
    """An attempt that has claimed its folder; `writer` keeps its records, `trial` is there once it is built."""

    trial: Trial

    def __init__(self, task: Task, trial_id: str, device: torch.device) -> None:
        """Open the next attempt at a trial of the task.

        Raises:
            StoreError: the trial's folder is damaged, or of a newer initlab.
        """
        folder = TrialFolder(Path(task.out), trial_id)
        if task.specs and not (folder.attempts() and folder.trial_file.exists()):
            folder.describe(*task.description_of(trial_id))
        self.task, self.trial_id, self.device = task, trial_id, device
        self.spec = folder.spec()
        self.sources: dict[str, str] = folder.description()["source"]
        ground = environment(precision_of(self.spec, device), device, task.provenance)
        # Which text it is depends on the version of Python.
        text = {"text": digest()} if self.spec.data.name == "topics" else {}
        self.writer = AttemptWriter(folder, ground | text)
        log_to(self.writer.folder / LOG)

    def build(self, images: dict[Data, Dataset], group: Group = ALONE) -> Trial:
        """The trial as it is before its first step, or before it resumes its checkpoint.

        Args:
            images: those loaded so far by the attempts that go with this one, each under its data section; added to.

        Raises:
            RuntimeError: the user's code changed since the launch, or a shallow net to start from is not trained.
        """
        spec, run = self.spec, self.task.run
        check_sources(spec, self.sources)
        if spec.data not in images:
            images[spec.data] = load_data(spec, self.device, self.task.access, self.sources, self.writer.doing)
        net = build_net(spec, images[spec.data], self.device)
        if not self.writer.resumed and (shallow := shallow_of(spec)):
            start_from(net, trained_weights(TrialFolder(Path(self.task.out), shallow.trial_id)))
        self.trial = Trial(spec, net, images[spec.data], self.writer, run.compile, group, run.channels_last)
        return self.trial

    def end(self, outcome: Outcome | Raised) -> TrialEnd:
        """Record how the trial ended, or what it raised."""
        end = caught(partial(self.close, outcome)) if isinstance(outcome, Outcome) else outcome
        return end if isinstance(end, TrialEnd) else self.fail(end)

    def close(self, outcome: Outcome) -> TrialEnd:
        """Record the end of a trial that raised nothing."""
        state, figures = outcome.state, outcome.figures
        self.writer.close(state, figures, figures if state.finished else None)
        return TrialEnd(trial=self.trial_id, state=state, uncompiled_because=figures.get("eager"))

    def fail(self, error: Raised) -> TrialEnd:
        """Record what the trial raised, with its traceback; nothing where a later attempt is at work."""
        with suppress(Superseded):
            if no_room(error, self.writer.folder):
                return TrialEnd(trial=self.trial_id, state=State.INTERRUPTED, no_room=True)
            if not isinstance(error, Superseded):
                trace = "".join(traceback.format_exception(error))
                self.writer.close(State.FAILED, {"error": in_one_line(error), "traceback": trace})
                full = isinstance(error, torch.OutOfMemoryError)
                cause = cause_of(in_one_line(error))
                return TrialEnd(trial=self.trial_id, state=State.FAILED, cause=cause, out_of_memory=full)
        return TrialEnd(trial=self.trial_id, state=State.SUPERSEDED)


def in_one_line(error: BaseException) -> str:
    """`ValueError: what was wrong`."""
    return f"{type(error).__name__}: {error}"


def trained_weights(folder: TrialFolder) -> dict[str, Tensor]:
    """The weights of a finished trial in the same output folder.

    Raises:
        RuntimeError: it has not been trained to its end.
    """
    result = folder.result()
    state, checkpoint = result["state"] if result else "not finished", folder.checkpoint()
    if state != State.DONE or checkpoint is None:
        raise RuntimeError(
            f"train.shallow_depth: the shallow net's trial {folder.id} is {state}; run the study without --only, "
            "or mend what failed there"
        )
    weights: dict[str, Tensor] = read_checkpoint(checkpoint)["net"]
    return weights


def precision_of(spec: TrialSpec, device: torch.device) -> str:
    """The precision that a trial is trained in on a device."""
    precision = spec.train.precision
    in_float32 = precision == "auto" or (precision == "bfloat16" and device.type == "cpu")
    return "float32" if in_float32 else precision


def environment(precision: str, device: torch.device, provenance: Provenance) -> dict[str, Any]:
    """Where and with what an attempt runs, as attempt.json keeps it."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "precision": precision,
        "threads": torch.get_num_threads(),
        "torch_version": torch.__version__,
        "python_version": platform.python_version(),
        "initlab_version": __version__,
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        **provenance.model_dump(),
    }
