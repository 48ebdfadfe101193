"""A training loop of the user's, watched: its model is measured on the way, and kept in a store as a trial is.

Of a trial that initlab runs everything is in its spec. Of a loop that is not ours no more is known than the model's
class, the batch that is measured, and what the user's tags say: the spec has these alone, and trial.json no defaults.
"""

import math
import time
import traceback
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from initlab.attempt.attempt import environment, in_one_line
from initlab.engine.lease import lease
from initlab.engine.task import State
from initlab.errors import UserError
from initlab.launch.machine import provenance
from initlab.launch.watched import add_to_study, begin_anew, described
from initlab.launch.watched_batch import WatchedBatch, watched_batch
from initlab.nets.undisturbed import Batch
from initlab.plan.plan import PlannedTrial
from initlab.signal.probe import Loss
from initlab.store.files import StoreError, writable
from initlab.store.trial_folder import TrialFolder
from initlab.store.writer import AttemptWriter
from initlab.train.evaluate import Evaluation

NAN = math.nan


class Watch:
    """A context in which `step` is called after each update of the loop; see `watch`."""

    def __init__(
        self,
        model: nn.Module,
        out: Path,
        trial: PlannedTrial,
        batch: WatchedBatch,
        every: int,
        steps_per_epoch: int,
        step: int,
    ) -> None:
        self.model, self.out, self.trial, self.batch = model, out, trial, batch
        self.every, self.steps_per_epoch = every, steps_per_epoch
        self.steps = self.row_step = step
        # Since the last row, wherever the loop's numbers are.
        self.losses = self.errors = torch.zeros((), dtype=torch.float64)
        self.lr = NAN
        self.latest: dict[str, Any] = {}
        self.held = ExitStack()
        self.writer: AttemptWriter

    def __enter__(self) -> "Watch":
        # Whatever cannot be measured is refused before anything is written.
        signals = self.batch.signals()
        self.started = time.perf_counter()
        folder = TrialFolder(self.out, self.trial.id)
        with writable(self.out), ExitStack() as held:
            if self.steps and not folder.trial_file.exists():
                text = f"nothing kept to go on from (got step {self.steps})"
                raise StoreError(f"{folder.path}: {text}; give step=0 to begin anew")
            self.out.mkdir(parents=True, exist_ok=True)
            add_to_study(self.out, self.trial)
            folder.path.mkdir(parents=True, exist_ok=True)
            held.enter_context(lease(folder.path))
            if self.steps:
                self.started -= folder.status().get("wall_s", 0.0)
            else:
                begin_anew(folder, self.trial)
            self.writer = AttemptWriter(folder, environment_of(self.model), self.steps)
            folder.result_file.unlink(missing_ok=True)
            self.held = held.pop_all()
        # Of a loop that goes on, the attempt before has this row.
        if not self.steps:
            self.record(signals)
        return self

    def step(self, *, loss: Any, error: Any = None, lr: float | None = None) -> None:
        """Count an update that the optimiser has just made, and every `every` of them measure the model.

        Args:
            loss: the batch's mean loss, a number or a tensor of one.
            error: the batch's error, as the share of examples that are wrong; without it the verdict goes by the loss.
            lr: the learning rate of the update.
        """
        self.losses = self.losses + one_number("loss", loss)
        self.errors = self.errors + (NAN if error is None else one_number("error", error))
        self.lr = NAN if lr is None else lr
        self.steps += 1
        if self.steps % self.every == 0:
            self.record(self.batch.signals())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.held:
            if error is None or not isinstance(error, Exception):
                if self.steps > self.row_step:
                    self.record(self.batch.signals())
                self.end(State.DONE if error is None else State.INTERRUPTED)
            else:
                text = "".join(traceback.format_exception(error))
                self.writer.close(State.FAILED, {"error": in_one_line(error), "traceback": text})

    def end(self, state: State) -> None:
        """Close the attempt of a loop that raised nothing, or that was stopped."""
        if state == State.DONE and self.steps and not math.isfinite(self.latest["train_loss"]):
            state = State.DIVERGED
        figures = {**self.figures(), "steps": self.steps}
        self.writer.close(state, figures, figures if state.finished else None)

    def record(self, signals: list[dict[str, Any]]) -> None:
        """Keep what was measured, and a row of scalars with the means since the last one."""
        point = {"step": self.steps, "epoch": self.steps / self.steps_per_epoch}
        self.writer.record("signals", [{**point, **row} for row in signals])
        # Of no updates there is no mean.
        count = self.steps - self.row_step or NAN
        row = {
            **point,
            "train_loss": float(self.losses) / count,
            "train_error": float(self.errors) / count,
            **asdict(Evaluation(*map(float, self.batch.evaluation))),
            "lr": self.lr,
            "images_per_s": NAN,
            "wall_s": time.perf_counter() - self.started,
        }
        self.writer.record("scalars", [row])
        self.latest.update({key: value for key, value in row.items() if value == value or key == "train_loss"})
        self.losses = self.errors = torch.zeros((), dtype=torch.float64)
        self.row_step = self.steps
        self.writer.progress(self.figures())

    def figures(self) -> dict[str, Any]:
        """The latest figures, with what a reader needs beside them."""
        return {**self.latest, "train_examples": self.steps_per_epoch * self.batch.examples, **self.batch.figures()}


def watch(
    model: nn.Module,
    out: str | Path,
    *,
    batch: tuple[Batch, Any],
    every: int = 200,
    loss: Loss | None = None,
    name: str = "model",
    tags: Mapping[str, Any] = MappingProxyType({}),
    weight_decay: float | None = None,
    steps_per_epoch: int = 1,
    step: int = 0,
) -> Watch:
    """Watch a training loop: `with initlab.watch(model, out, batch=(x, y)) as w:`, and `w.step(loss=loss)` per update.

    The loop trains as it would unwatched, to the bit. The model is measured on `batch` before the first update, every
    `every` of them and at the end, and what `initlab.load(out)` gives is as of a study: signals, loss and error curves,
    a verdict. Several loops may go into one folder, at the same time too, each under its own name or tags.

    Args:
        batch: inputs and labels of the examples that are measured, the same throughout: best of the batch size of the
            loop. Their loss and error are the columns `val_loss` and `val_error`, of the pass that measures: dropout
            off, BatchNorm on the batch. Labels are as `initlab.data.examples.Examples` has them, or what `loss` takes.
        every: updates between measurements.
        loss: (output, labels) -> per-example losses (N,), or their mean (); None is what fits the labels: cross-entropy
            of classes, squared error of numbers, binary cross-entropy of bools.
        name: what figures call it where no tag says how it is initialised.
        tags: what is to be told of it, under the paths of a study's fields: `{"init.scheme": "he", "seed": 1}`.
        weight_decay: of the optimiser, for `decay_ratio`.
        steps_per_epoch: updates in an epoch; where it is not given, each update counts as one.
        step: updates that the loop has made already, where it goes on from a checkpoint of its own; a loop that begins
            at 0 takes the place of an earlier one with its name and tags.

    Raises:
        UserError: a batch, labels, name, tag or number that cannot be used; nothing was written.
        StoreError: `out` holds a study that initlab ran, or nothing that the loop could go on from.
        Held: another process watches a loop of this name and these tags.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"watch: takes an nn.Module (got {type(model).__name__})")
    for argument, value, least in (("every", every, 1), ("steps_per_epoch", steps_per_epoch, 1), ("step", step, 0)):
        if type(value) is not int or value < least:
            raise UserError(f"watch: {argument}: not a number of updates (got {value!r}); allowed: at least {least}")
    watched = watched_batch(model, batch, loss, weight_decay)
    return Watch(model, Path(out), described(model, name, tags), watched, every, steps_per_epoch, step)


def one_number(name: str, value: Any) -> Tensor:
    """A number that the loop gives, without its graph."""
    tensor = torch.as_tensor(value).detach()
    if tensor.numel() != 1:
        fix = "give the batch's mean, as loss.mean()"
        raise UserError(f"watch: {name}: not a single number (got shape {tuple(tensor.shape)}); {fix}")
    return tensor.reshape(())


def environment_of(model: nn.Module) -> dict[str, Any]:
    """Where and with what a loop runs, as attempt.json keeps it."""
    parameter = next(model.parameters(), torch.empty(0))
    return environment(str(parameter.dtype).removeprefix("torch."), parameter.device, provenance())
