"""One trial: train a net as its spec says, measure its signals on the way, and hand every record to a recorder.

The same spec gives the same numbers on every engine, with or without probes, and whether or not it was interrupted:
whatever is random comes from (seed, stream, step), and a checkpoint holds the rest.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initlab.data.dataset import Images
from initlab.nets.layers import set_dropout_step
from initlab.random_streams import stream_seed
from initlab.signal.probe import measure
from initlab.signal.running import Running
from initlab.study.spec import TrialSpec
from initlab.train.auxiliary import Auxiliary
from initlab.train.cuda import Compiled
from initlab.train.evaluate import Evaluation, evaluate
from initlab.train.group import ALONE, Group
from initlab.train.records import Outcome, Recorder
from initlab.train.schedule import Plateau, learning_rate
from initlab.train.sgd import sgd
from initlab.train.slopes import slope_rows
from initlab.user_code import is_code
from initlab.verdict.hopeless import Evidence

NAN = math.nan
COMPILE_STEPS = 20_000  # from which torch.compile, about a minute a net, is taken to pay; not measured on a GPU yet


class Trial:
    """The state of one trial between steps; `run` takes it to its end."""

    def __init__(
        self,
        spec: TrialSpec,
        net: nn.Module,
        data: Images,
        recorder: Recorder,
        compiled: bool | None = False,
        group: Group = ALONE,
        channels_last: bool | None = None,
    ) -> None:
        """On CUDA alone, `compiled`: whether torch.compile makes the step's forward and backward, None is as it pays;
        `channels_last`: whether maps lie in memory with their channels last, None is yes."""
        self.spec, self.net, self.data, self.recorder, self.group = spec, net, data, recorder, group
        self.on_gpu = data.mean.device.type == "cuda"
        self.layout = torch.contiguous_format if channels_last is False else torch.channels_last
        if self.on_gpu:
            net.to(memory_format=self.layout)
        self.per_epoch, self.steps = spec.steps(len(data.train_labels))
        if self.steps < 1:
            raise ValueError(
                f"train.batch_size: no step to train (got {spec.train.batch_size}, {spec.train.epochs:g} epochs, "
                f"for {len(data.train_labels)} images); allowed: a smaller batch or more epochs"
            )
        auxiliary, weight = spec.train.auxiliary, spec.train.auxiliary_weight
        worth = compiled or (compiled is None and self.steps >= COMPILE_STEPS)
        self.plain: Callable[[Tensor], Tensor] = group.wrap(net)
        worth = worth and self.on_gpu and group.size == 1  # a group's gradients are averaged by its wrapper
        self.forward = Compiled(net) if worth else self.plain
        self.auxiliary = Auxiliary(net, auxiliary, weight, data.num_classes, spec.seed) if auxiliary else None
        self.optimizer = sgd(nn.ModuleList([net, self.auxiliary]) if self.auxiliary else net, spec)
        self.plateau = Plateau()
        self.evidence = Evidence()
        self.step = 0
        self.packed = 1  # trials that took their steps with this one, itself included
        self.validated: Evaluation | None = None  # at this step, by its pack
        self.eager: str | None = None  # why a pack's steps, or its own, ran uncompiled against the wish
        self.sums = torch.zeros(2, dtype=torch.float64, device=data.mean.device)  # loss, errors since the last row
        self.sums_from = 0  # the step of the last row
        self.moments = Running(net, data.mean.device) if spec.probe.running_every else None
        self.wall_before = 0.0  # seconds spent by earlier attempts
        self.probe_s = 0.0  # seconds of them spent in probes
        self.started = self.row_time = time.perf_counter()
        self.last: dict[str, Any] = {}
        self.batches: Iterator[tuple[Tensor, Tensor]] = iter(())  # those of the steps to come
        self.known = {  # what a reader of its figures needs, from the first row on
            "steps": self.steps,
            "epochs": spec.train.epochs,
            "train_examples": self.per_epoch * spec.train.batch_size,
            "num_classes": data.num_classes,
            "chance": data.chance,
        }

        self.rows = set(spec.row_steps(self.per_epoch, self.steps))
        self.validations = set(spec.validation_steps(self.per_epoch, self.steps))
        self.probes = set(spec.probe_steps(self.steps))

    def run(
        self,
        resumed: dict[str, Any] | None,
        should_stop: Callable[[], bool],
        checkpoint_every_s: float,
        skip_hopeless: bool = False,
    ) -> Outcome:
        """Train from the start or from a checkpoint's state to the end, or until `should_stop()`.

        With `skip_hopeless`, also until the evidence says that it has stalled (`initlab.verdict.hopeless`).
        """
        self.begin(resumed)
        return self.go_on(should_stop, checkpoint_every_s, skip_hopeless)

    def begin(self, resumed: dict[str, Any] | None) -> None:
        """Take up a checkpoint's state, or record step 0."""
        if resumed:
            self.restore(resumed)
        else:
            self.record(validate=True, probe=0 in self.probes)
        self.net.train()

    def open_batches(self) -> None:
        """Make ready the batches of the steps to come."""
        size = self.spec.train.batch_size
        self.batches = self.data.train_batches(self.spec.seed, size, self.step, self.steps, self.group.part(size))

    def go_on(self, should_stop: Callable[[], bool], checkpoint_every_s: float, skip_hopeless: bool = False) -> Outcome:
        """Train from where `begin`, or a pack, left off."""
        self.open_batches()
        saved = time.perf_counter()
        outcome = self.ended()
        while outcome is None:
            if self.group.agree(should_stop()):
                return self.interrupted()
            if skip_hopeless and (outcome := self.given_up()):
                return outcome
            self.update()
            self.record_due()
            outcome = self.ended()
            if outcome is None and self.group.agree(time.perf_counter() - saved > checkpoint_every_s):
                self.recorder.checkpoint(self.state())
                saved = time.perf_counter()
        return outcome

    def record_due(self) -> None:
        """Record what this step is to leave behind."""
        if self.step in self.rows or self.step in self.probes:
            self.record(self.step in self.validations, self.step in self.probes, row=self.step in self.rows)

    def ended(self) -> Outcome | None:
        """Whether this step was the last: of the trial, or before a loss that is not finite in its row."""
        if self.step and self.step in self.rows and not math.isfinite(self.last["train_loss"]):
            return self.outcome("diverged")
        if self.step < self.steps:
            return None
        return self.kept("done")

    def interrupted(self) -> Outcome:
        """Keep a checkpoint to go on from."""
        return self.kept("interrupted")

    def kept(self, state: str) -> Outcome:
        """An end with a checkpoint of all that led to it."""
        self.recorder.checkpoint(self.state())
        return self.outcome(state)

    def update(self) -> None:
        """One step of stochastic gradient descent; nothing here waits for the device."""
        images, labels = next(self.batches)
        if self.on_gpu:
            images = images.contiguous(memory_format=self.layout)
        if self.spec.train.dropout:
            set_dropout_step(self.net, self.spec.seed, self.step, self.group.rank, self.group.size)
        # of the weights, then of the slopes where there are any; see `sgd`
        for group, factor in zip(self.optimizer.param_groups, (1.0, self.spec.train.slope_lr_factor), strict=False):
            group["lr"] = self.lr() * factor
        if is_code(self.spec.net.name):  # it may draw from torch's own generators, as nn.Dropout does
            torch.manual_seed(stream_seed(self.spec.seed, "step", self.step))
        self.optimizer.zero_grad(set_to_none=True)
        sample = self.moments if self.spec.samples_update(self.step) else None
        heads = self.auxiliary.listen() if self.auxiliary else nullcontext()
        with heads, sample.listen() if sample else nullcontext(), self.autocast():
            logits = (self.plain if sample else self.forward)(images)  # hooks do not reach into a compiled forward
        logits = logits.to(self.data.mean.dtype)
        loss = F.cross_entropy(logits, labels)
        (loss + self.auxiliary.loss(labels) if self.auxiliary else loss).backward()
        if sample:
            sample.sampled(len(labels))
        self.optimizer.step()
        self.step += 1
        # summed on the device, read where a row is due
        self.sums[0].add_(loss.detach() / self.group.size)
        self.sums[1].add_((logits.detach().argmax(1) != labels).sum())

    def given_up(self) -> Outcome | None:
        """Whether an epoch has just ended and the evidence says that it has stalled."""
        hopeless = self.step % self.per_epoch == 0 and self.evidence.hopeless(self.step, self.steps)
        return self.kept("stopped") if self.group.agree(hopeless) else None

    def autocast(self) -> torch.autocast:
        """Convolutions and products in bfloat16 where asked for; weights, updates and probes keep their own type.

        On a CPU in float32 all the same: without units for bfloat16 it takes a hundred times as long.
        """
        wanted = self.spec.train.precision == "bfloat16" and self.on_gpu
        return torch.autocast(self.data.mean.device.type, dtype=torch.bfloat16, enabled=wanted)

    def lr(self) -> float:
        """Learning rate of the next update."""
        return learning_rate(self.spec.train, self.step, self.per_epoch, self.steps, self.plateau.cuts)

    def record(self, validate: bool, probe: bool, row: bool = True) -> None:
        """Write what is due at this step: signals, running moments, learned slopes, a row of scalars, progress."""
        epoch = self.step / self.per_epoch
        if probe and self.group.leads:
            started = time.perf_counter()
            images, labels = self.data.probe_batch(self.spec.probe.examples)
            decay = self.spec.train.weight_decay
            signals = measure(self.net, images, labels, weight_decay=decay)
            self.evidence.see_probe(signals)
            self.recorder.signals(self.step, epoch, signals)
            self.probe_s += time.perf_counter() - started
        if not row:
            return
        since = self.step - self.sums_from
        examples = since * self.spec.train.batch_size
        loss, errors = self.group.total(self.sums).tolist()
        self.evidence.see_errors(errors, examples, self.known["chance"], epoch_ends=self.step % self.per_epoch == 0)
        row_wall = time.perf_counter() - self.row_time
        with self.autocast():
            measured = (self.validated or evaluate(self.net, self.data)) if validate and self.group.leads else None
        found, self.validated = self.group.share(measured) if validate else None, None
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
        moments = self.moments.take(self.group.total) if self.moments else []
        if moments:
            self.recorder.moments(self.step, epoch, moments)
        slopes = slope_rows(self.net) if found else []
        if slopes:
            self.recorder.slopes(self.step, epoch, slopes)
        self.last.update({key: value for key, value in scalars.items() if value == value or key == "train_loss"})
        if found:
            self.plateau.see(found.error, self.spec.train.patience)
        self.sums.zero_()
        self.sums_from, self.row_time = self.step, time.perf_counter()
        self.recorder.running({**self.last, **self.known})

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
            "evidence": self.evidence.state(),
            "sums": self.group.total(self.sums),
            "sums_from": self.sums_from,
            "moments": self.moments.state(self.group.total) if self.moments else None,
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
        # a checkpoint of before there was evidence: as if it had learned, so it is never given up
        self.evidence = Evidence(**state["evidence"]) if "evidence" in state else Evidence(learned=True)
        if self.group.leads:  # what they hold is summed over the group
            self.sums.copy_(state["sums"])
        if self.moments:
            self.moments.restore(state["moments"], self.group.leads)
        self.step, self.sums_from = state["step"], state["sums_from"]
        self.row_time = time.perf_counter() - state["row_s"]
        self.wall_before, self.probe_s, self.last = state["wall_s"], state["probe_s"], state["last"]

    def outcome(self, state: str) -> Outcome:
        """The end as plain data."""
        if isinstance(self.forward, Compiled):
            self.eager = self.forward.why or self.eager
        figures = {
            **self.last,
            "step": self.step,
            "epoch": self.step / self.per_epoch,
            **self.known,
            "wall_s": self.wall(),
            "probe_s": self.probe_s,
            **({"packed": self.packed} if self.packed > 1 else {}),
            **({"eager": self.eager} if self.eager else {}),
        }
        return Outcome(state, figures)
