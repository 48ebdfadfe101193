"""The figures of one trial: sums for its next row of scalars, what its rows have shown so far, and its times."""

import math
import time
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from initlab.data.dataset import Dataset
from initlab.study.spec import TrialSpec
from initlab.train.evaluate import Evaluation
from initlab.train.group import Group
from initlab.train.objective import Objective
from initlab.verdict.hopeless import Evidence

NAN = math.nan
Figures = dict[str, Any]


class RowLog:
    """Figures of a trial from row to row; `state` and `restore` carry them over an interruption."""

    def __init__(
        self, spec: TrialSpec, data: Dataset, objective: Objective, group: Group, per_epoch: int, steps: int
    ) -> None:
        """`per_epoch`, `steps`: the trial's updates, in an epoch and in all."""
        self.group, self.batch_size, self.per_epoch, self.steps = group, spec.train.batch_size, per_epoch, steps
        # Since the last row: the batches' mean losses and errors, on the device.
        self.sums = torch.zeros(2, dtype=torch.float64, device=data.device)
        self.guess = objective.guess
        self.row_step = 0  # of the last row
        self.latest: Figures = {}  # by column, the last value that was not missing
        self.constants = {  # what a reader of the figures needs beside them
            "steps": steps,
            "epochs": spec.train.epochs,
            "train_examples": per_epoch * self.batch_size,
            "num_classes": data.num_classes,
            **objective.figures(),
        }
        self.evidence = Evidence()
        self.wall_before = 0.0  # seconds of earlier attempts
        self.probe_s = 0.0  # seconds of all attempts that went into probes
        self.started = self.row_time = time.perf_counter()

    def add(self, loss: Tensor, misses: Tensor) -> None:
        """Take in a step's mean loss and misclassified examples; nothing here waits for the device."""
        self.sums[0].add_(loss)
        self.sums[1].add_(misses)

    def row(self, step: int, lr: float) -> Figures:
        """The row of scalars after `step` updates, not validated; means over the steps since the last row, else NaN."""
        # Reading the sums waits for the device: the time of the steps ends here.
        loss, misses = self.group.total(self.sums).tolist()
        seconds, count = time.perf_counter() - self.row_time, step - self.row_step
        examples = count * self.batch_size
        self.evidence.see_errors(misses, examples, self.guess.error, step % self.per_epoch == 0, self.guess.spread)
        return {
            "step": step,
            "epoch": step / self.per_epoch,
            "train_loss": loss / count if count else NAN,
            "train_error": misses / examples if count else NAN,
            **asdict(Evaluation()),
            "lr": lr,
            "images_per_s": examples / seconds if count else NAN,
        }

    def close(self, row: Figures) -> Figures:
        """End a row: sums and time of the next one begin. Returns the figures to show while the trial goes on."""
        self.latest.update({key: value for key, value in row.items() if value == value or key == "train_loss"})
        self.sums.zero_()
        self.row_step, self.row_time = row["step"], time.perf_counter()
        return {**self.latest, **self.constants}

    @property
    def diverged(self) -> bool:
        """Whether the last row's training loss was not finite."""
        return self.row_step > 0 and not math.isfinite(self.latest["train_loss"])

    def hopeless(self, step: int) -> bool:
        """Whether an epoch has just ended and the evidence says that the trial has stalled."""
        return step % self.per_epoch == 0 and self.evidence.hopeless(step, self.steps)

    def wall_s(self) -> float:
        """Seconds of the trial so far, all attempts together."""
        return self.wall_before + time.perf_counter() - self.started

    def final_figures(self, step: int) -> Figures:
        """The figures of a trial that ends after `step` updates."""
        counted = {"step": step, "epoch": step / self.per_epoch}
        return {**self.latest, **counted, **self.constants, "wall_s": self.wall_s(), "probe_s": self.probe_s}

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {
            "evidence": asdict(self.evidence),
            "sums": self.group.total(self.sums),
            "sums_from": self.row_step,
            "row_s": time.perf_counter() - self.row_time,
            "wall_s": self.wall_s(),
            "probe_s": self.probe_s,
            "last": self.latest,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a checkpoint's; its sums are those of all processes, so that only the leader takes them."""
        # A checkpoint from before there was evidence counts as if the net had learned: it is never given up.
        self.evidence = Evidence(**state["evidence"]) if "evidence" in state else Evidence(learned=True)
        if self.group.leads:
            self.sums.copy_(state["sums"])
        self.row_step, self.latest = state["sums_from"], state["last"]
        self.row_time = time.perf_counter() - state["row_s"]
        self.wall_before, self.probe_s = state["wall_s"], state["probe_s"]
