"""One trial: train a net as its spec says, measure its signals on the way, and hand every record to a recorder.

The same spec gives the same numbers on every engine, with or without probes, and whether or not it was interrupted:
whatever is random comes from (seed, stream, step), and a checkpoint holds the rest.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initlab.data.dataset import Images
from initlab.nets.layers import set_dropout_step
from initlab.signal.probe import measure
from initlab.spec import TrialSpec, is_code
from initlab.streams import stream_seed
from initlab.train.auxiliary import Auxiliary
from initlab.train.evaluate import evaluate
from initlab.train.group import ALONE, Group
from initlab.train.schedule import Plateau, learning_rate
from initlab.train.slopes import slope_rows

NAN = math.nan


class Recorder(Protocol):
    """Where a trial's records go; the store's AttemptWriter is one."""

    def scalars(self, row: dict[str, Any]) -> None: ...
    def signals(self, step: int, epoch: float, rows: list[dict[str, Any]]) -> None: ...
    def slopes(self, step: int, epoch: float, rows: list[dict[str, Any]]) -> None: ...
    def checkpoint(self, state: dict[str, Any]) -> None: ...
    def running(self, progress: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: `done`, `diverged` (non-finite loss) or `interrupted`, with its last figures."""

    state: str
    figures: dict[str, Any]


class Trial:
    """The state of one trial between steps; `run` takes it to its end."""

    def __init__(self, spec: TrialSpec, net: nn.Module, data: Images, recorder: Recorder, group: Group = ALONE) -> None:
        self.spec, self.net, self.data, self.recorder, self.group = spec, net, data, recorder, group
        self.per_epoch, self.steps = spec.steps(len(data.train_labels))
        if self.steps < 1:
            raise ValueError(
                f"train.batch_size: no step to train (got {spec.train.batch_size}, {spec.train.epochs:g} epochs, "
                f"for {len(data.train_labels)} images); allowed: a smaller batch or more epochs"
            )
        auxiliary, weight = spec.train.auxiliary, spec.train.auxiliary_weight
        self.auxiliary = Auxiliary(net, auxiliary, weight, data.num_classes, spec.seed) if auxiliary else None
        self.optimizer = sgd(nn.ModuleList([net, self.auxiliary]) if self.auxiliary else net, spec)
        self.trained = group.wrap(net)
        self.plateau = Plateau()
        self.step = 0
        self.sums = torch.zeros(2, dtype=torch.float64, device=data.mean.device)  # loss, errors since the last row
        self.sums_from = 0  # the step of the last row
        self.wall_before = 0.0  # seconds spent by earlier attempts
        self.probe_s = 0.0  # seconds of them spent in probes
        self.started = self.row_time = time.perf_counter()
        self.last: dict[str, Any] = {}
        self.batches: Iterator[tuple[Tensor, Tensor]] = iter(())  # those of the steps to come

    def run(
        self, resumed: dict[str, Any] | None, should_stop: Callable[[], bool], checkpoint_every_s: float
    ) -> Outcome:
        """Train from the start or from a checkpoint's state to the end, or until `should_stop()`."""
        rows = set(self.spec.row_steps(self.per_epoch, self.steps))
        validations = set(self.spec.validation_steps(self.per_epoch, self.steps))
        probes = set(self.spec.probe_steps(self.steps))
        if resumed:
            self.restore(resumed)
        else:
            self.record(validate=True, probe=0 in probes)
        size = self.spec.train.batch_size
        self.batches = self.data.train_batches(self.spec.seed, size, self.step, self.steps, self.group.part(size))
        saved = time.perf_counter()
        self.net.train()
        while self.step < self.steps:
            if self.group.agree(should_stop()):
                self.recorder.checkpoint(self.state())
                return self.outcome("interrupted")
            self.update()
            if self.step in rows or self.step in probes:
                self.record(self.step in validations, self.step in probes, row=self.step in rows)
                if not math.isfinite(self.last["train_loss"]) and self.step in rows:
                    return self.outcome("diverged")
            due = time.perf_counter() - saved > checkpoint_every_s
            if self.step < self.steps and self.group.agree(due):
                self.recorder.checkpoint(self.state())
                saved = time.perf_counter()
        self.recorder.checkpoint(self.state())
        return self.outcome("done")

    def update(self) -> None:
        """One step of stochastic gradient descent; nothing here waits for the device."""
        images, labels = next(self.batches)
        if self.spec.train.dropout:
            set_dropout_step(self.net, self.spec.seed, self.step, self.group.rank, self.group.size)
        # of the weights, then of the slopes where there are any; see `sgd`
        for group, factor in zip(self.optimizer.param_groups, (1.0, self.spec.train.slope_lr_factor), strict=False):
            group["lr"] = self.lr() * factor
        if is_code(self.spec.net.name):  # it may draw from torch's own generators, as nn.Dropout does
            torch.manual_seed(stream_seed(self.spec.seed, "step", self.step))
        self.optimizer.zero_grad(set_to_none=True)
        with self.auxiliary.listen() if self.auxiliary else nullcontext():
            logits = self.trained(images)
        loss = F.cross_entropy(logits, labels)
        (loss + self.auxiliary.loss(labels) if self.auxiliary else loss).backward()
        self.optimizer.step()
        self.step += 1
        self.sums[0] += loss.detach() / self.group.size
        self.sums[1] += (logits.detach().argmax(1) != labels).sum()

    def lr(self) -> float:
        """Learning rate of the next update."""
        return learning_rate(self.spec.train, self.step, self.per_epoch, self.steps, self.plateau.cuts)

    def record(self, validate: bool, probe: bool, row: bool = True) -> None:
        """Write what is due at this step: signals, learned slopes, a row of scalars, progress."""
        epoch = self.step / self.per_epoch
        if probe and self.group.leads:
            started = time.perf_counter()
            images, labels = self.data.probe_batch(self.spec.probe.examples)
            decay = self.spec.train.weight_decay
            self.recorder.signals(self.step, epoch, measure(self.net, images, labels, weight_decay=decay))
            self.probe_s += time.perf_counter() - started
        if not row:
            return
        since = self.step - self.sums_from
        examples = since * self.spec.train.batch_size
        loss, errors = self.group.total(self.sums).tolist()
        row_wall = time.perf_counter() - self.row_time
        measured = evaluate(self.net, self.data) if validate and self.group.leads else None
        found = self.group.share(measured) if validate else None
        scalars = {
            "step": self.step,
            "epoch": epoch,
            "train_loss": loss / since if since else NAN,
            "train_error": errors / examples if since else NAN,
            "val_loss": found.loss if found else NAN,
            "val_error": found.error if found else NAN,
            "val_error_top5": found.error_top5 if found else NAN,
            "lr": self.lr(),
            "images_per_s": examples / row_wall if since else NAN,
            "wall_s": self.wall(),
        }
        self.recorder.scalars(scalars)
        slopes = slope_rows(self.net) if found else []
        if slopes:
            self.recorder.slopes(self.step, epoch, slopes)
        self.last.update({key: value for key, value in scalars.items() if value == value or key == "train_loss"})
        if found:
            self.plateau.see(found.error, self.spec.train.patience)
        self.sums.zero_()
        self.sums_from, self.row_time = self.step, time.perf_counter()
        self.recorder.running({**self.last, "steps": self.steps, "epochs": self.spec.train.epochs})

    def wall(self) -> float:
        """Seconds of this trial so far, all attempts together."""
        return self.wall_before + time.perf_counter() - self.started

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds: all that the rest of the trial depends on."""
        return {
            "step": self.step,
            "net": self.net.state_dict(),
            "auxiliary": self.auxiliary.state_dict() if self.auxiliary else {},
            "optimizer": self.optimizer.state_dict(),
            "plateau": self.plateau.state(),
            "sums": self.group.total(self.sums),
            "sums_from": self.sums_from,
            "row_s": time.perf_counter() - self.row_time,
            "wall_s": self.wall(),
            "probe_s": self.probe_s,
            "last": self.last,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up where a checkpoint left off."""
        self.net.load_state_dict(state["net"])
        if self.auxiliary:
            self.auxiliary.load_state_dict(state["auxiliary"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.plateau = Plateau(**state["plateau"])
        if self.group.leads:  # what they hold is summed over the group
            self.sums.copy_(state["sums"])
        self.step, self.sums_from = state["step"], state["sums_from"]
        self.row_time = time.perf_counter() - state["row_s"]
        self.wall_before, self.probe_s, self.last = state["wall_s"], state["probe_s"], state["last"]

    def outcome(self, state: str) -> Outcome:
        """The end as plain data."""
        figures = {
            **self.last,
            "step": self.step,
            "epoch": self.step / self.per_epoch,
            "steps": self.steps,
            "epochs": self.spec.train.epochs,
            "wall_s": self.wall(),
            "probe_s": self.probe_s,
            "train_examples": self.per_epoch * self.spec.train.batch_size,
            "num_classes": self.data.num_classes,
            "chance": self.data.chance,
        }
        return Outcome(state, figures)


def sgd(net: nn.Module, spec: TrialSpec) -> torch.optim.SGD:
    """SGD with momentum, in one group or two: all else, and PReLU's slopes.

    No decay on slopes, which it would pull towards ReLU (He et al. 2015, sec. 2.1).
    """
    slopes = {id(p) for m in net.modules() if isinstance(m, nn.PReLU) for p in m.parameters()}
    decayed: list[Tensor] = [p for p in net.parameters() if id(p) not in slopes]
    others: list[Tensor] = [p for p in net.parameters() if id(p) in slopes]
    train = spec.train
    groups = [{"params": decayed, "weight_decay": train.weight_decay}]
    if others:
        groups.append({"params": others, "weight_decay": 0.0})
    return torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum, fused=True)
