"""One trial: train a net as its spec says, measure its signals on the way, and hand every record to a recorder.

The same spec gives the same numbers on every engine, with or without probes, and whether or not it was interrupted:
whatever is random comes from (seed, stream, step), and a checkpoint holds the rest.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from initlab.data.dataset import Dataset
from initlab.engine.task import State
from initlab.nets.any_module import weight_layers
from initlab.nets.undisturbed import untouched
from initlab.random_streams import stream_seed
from initlab.signal.probe import measure
from initlab.signal.running import RunningMoments
from initlab.study.spec import TrialSpec
from initlab.train.evaluate import Evaluation, evaluate
from initlab.train.group import ALONE, Group
from initlab.train.objective import objective_of
from initlab.train.optimizer import DECOUPLED, Updates, parameter_groups
from initlab.train.passes import Passes
from initlab.train.records import Due, Outcome, Recorder, slope_rows
from initlab.train.row_log import RowLog
from initlab.train.schedule import Plateau, learning_rate
from initlab.user_code import is_code


class Trial:
    """The state of one trial between steps: `begin` takes it to its first step, `run` from there to its end."""

    def __init__(
        self,
        spec: TrialSpec,
        net: nn.Module,
        data: Dataset,
        recorder: Recorder,
        compiled: bool | None = False,
        group: Group = ALONE,
        channels_last: bool | None = None,
    ) -> None:
        """`compiled`, `channels_last`: as `Passes` takes them."""
        self.spec, self.net, self.data, self.recorder, self.group = spec, net, data, recorder, group
        self.objective = objective_of(spec.train.loss, data)
        self.per_epoch, self.steps = spec.steps(len(data.train_labels))
        if self.steps < 1:
            raise ValueError(
                f"train.batch_size: no step to train (got {spec.train.batch_size}, {spec.train.epochs:g} epochs, "
                f"for {len(data.train_labels)} examples); allowed: a smaller batch or more epochs"
            )
        validations = spec.validation_steps(self.per_epoch, self.steps)
        steps = (spec.row_steps(self.per_epoch, self.steps), validations, spec.probe_steps(self.steps))
        self.due = Due(*map(frozenset, steps))
        self.objective.check_settings(data.train_labels, spec.train.auxiliary, group.size * spec.train.accumulate)
        self.passes = Passes(spec, net, data, self.objective, group, self.steps, compiled, channels_last)
        auxiliary = self.passes.auxiliary
        model = nn.ModuleList([net, auxiliary]) if auxiliary else net
        self.updates = Updates(parameter_groups(model, spec.train), spec.train)
        self.plateau = Plateau()
        self.moments = RunningMoments(net, data.device) if spec.probe.running_every else None
        self.step = 0
        # Last, as the trial's time begins here: the optimiser's imports alone take seconds.
        self.log = RowLog(spec, data, self.objective, group, self.per_epoch, self.steps)

    def begin(self, resumed: dict[str, Any] | None) -> None:
        """Take up where a checkpoint left off, or record step 0."""
        if resumed:
            self.step = resumed["step"]
            self.net.load_state_dict(resumed["net"])
            if self.passes.auxiliary:
                self.passes.auxiliary.load_state_dict(resumed["auxiliary"])
            self.updates.restore(resumed["optimizer"])
            self.plateau = Plateau(**resumed["plateau"])
            if self.moments:
                self.moments.restore(resumed["moments"], self.group.leads)
            self.log.restore(resumed)
        else:
            self.check_fit()
            self.record_due()
        self.net.train()

    def check_fit(self) -> None:
        """See on two examples that output, labels and loss fit, where the net or the loss is the user's.

        Raises:
            UserError: they don't; says what was given.
        """
        if self.objective.task == "classes" and not is_code(self.spec.net.name) and not self.objective.own_loss:
            return
        inputs, labels = self.data.probe_batch(2)
        with untouched(self.net, backward=True):
            self.objective.check_output(self.net(inputs), labels, self.data.num_classes)

    def run(self, should_stop: Callable[[], bool], checkpoint_every_s: float, skip_hopeless: bool = False) -> Outcome:
        """Train from where `begin`, or a pack, left off to the end, or until `should_stop()`.

        With `skip_hopeless`, also until the evidence says that it has stalled (`initlab.verdict.hopeless`).
        """
        saved = time.perf_counter()
        outcome = self.end(should_stop(), skip_hopeless)
        while outcome is None:
            self.update()
            self.record_due()
            outcome = self.end(should_stop(), skip_hopeless)
            if outcome is None and self.group.agree(time.perf_counter() - saved > checkpoint_every_s):
                self.checkpoint()
                saved = time.perf_counter()
        return outcome

    @property
    def draws_ahead(self) -> bool:
        """Whether the next step's masks are drawn during this one; on a CPU the thread would take the step's core."""
        return self.passes.on_gpu and self.step + 1 < self.steps

    @cached_property
    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Those of the steps to come, from the first one that this trial takes itself."""
        size = self.spec.train.batch_size
        return self.data.train_batches(self.spec.seed, size, self.step, self.steps, self.group.part(size))

    def end(self, stop: bool = False, skip_hopeless: bool = False) -> Outcome | None:
        """End the trial if this step was its last, if it is to `stop`, or if it is hopeless and may be skipped.

        Returns:
            How it ended, None where it goes on. All ends but a diverged trial's leave a checkpoint.
        """
        if self.log.diverged:
            state = State.DIVERGED
        elif self.step >= self.steps:
            state = State.DONE
        elif self.group.agree(stop):
            state = State.INTERRUPTED
        elif skip_hopeless and self.group.agree(self.log.hopeless(self.step)):
            state = State.STOPPED
        else:
            return None
        if state != State.DIVERGED:
            self.checkpoint()
        return Outcome(state, self.log.final_figures(self.step)).plus(eager=self.passes.eager)

    def update(self) -> None:
        """One update of the weights, by one batch; nothing here waits for the device."""
        images, labels = next(self.batches)
        self.seed_users_code()
        self.updates.optimizer.zero_grad(set_to_none=True)
        sample = self.moments if self.spec.samples_update(self.step) else None
        for part, (some, their_labels) in enumerate(self.passes.parts(images, labels)):
            self.log.add(*self.passes.add_gradients(some, their_labels, self.step, part, sample, self.draws_ahead))
        if sample:
            sample.sampled(len(labels))
        self.updates.step(self.lr())
        self.count_step()

    def seed_users_code(self) -> None:
        """The user's code may draw from torch's own generators, as nn.Dropout does: the same at every try of a step."""
        if any(map(is_code, (self.spec.net.name, self.spec.train.optimizer, self.spec.train.loss or ""))):
            torch.manual_seed(stream_seed(self.spec.seed, "step", self.step))

    def count_step(self) -> None:
        """Count an update, which the trial has taken or a pack has taken for it."""
        self.step += 1

    def lr(self) -> float:
        """Learning rate of the next update."""
        return learning_rate(self.spec.train, self.step, self.per_epoch, self.steps, self.plateau.cuts)

    def record_due(self, evaluation: Evaluation | None = None) -> None:
        """Record what is due after this step; `evaluation` of the net as it is now, where a pack has made it."""
        if self.step in self.due.probes and self.group.leads:
            started = time.perf_counter()
            self.record("signals", self.probed())
            self.log.probe_s += time.perf_counter() - started
        if self.step in self.due.rows:
            self.record_row(self.step in self.due.validations, evaluation)

    def probed(self) -> list[dict[str, Any]]:
        """What a probe measures now; under another optimiser than SGD, also the update that its batch would make."""
        train, gradients = self.spec.train, dict[Tensor, Tensor]()
        images, labels = self.data.probe_batch(self.spec.probe.examples)
        # The probe's own loss is cross-entropy over examples.
        loss = None if self.objective.task == "classes" and not self.objective.own_loss else self.objective.loss
        if train.optimizer == "sgd":
            signals = measure(self.net, images, labels, loss=loss, weight_decay=train.weight_decay)
            # What follows from decay was found for SGD, whose updates are as small as its gradients.
            self.log.evidence.see_probe(signals)
            return signals
        decay = None if is_code(train.optimizer) else train.weight_decay
        signals = measure(self.net, images, labels, loss=loss, weight_decay=decay, gradients=gradients)
        weights = {name: layer.weight for name, layer in weight_layers(self.net)}
        with torch.random.fork_rng([self.data.device] if self.passes.on_gpu else []):
            self.seed_users_code()
            ratios = self.updates.ratios([weights[row["name"]] for row in signals], gradients, self.lr())
        for row, (update, of_decay) in zip(signals, ratios, strict=True):
            row["update_ratio"] = update
            if train.optimizer in DECOUPLED:
                row["decay_ratio"] = of_decay
        return signals

    def record_row(self, validate: bool, evaluation: Evaluation | None = None) -> None:
        """A row of scalars, validated or not, with the running moments and learned slopes that come with it."""
        row = self.log.row(self.step, self.lr())
        if validate:
            if evaluation is None and self.group.leads:
                with self.passes.autocast():
                    evaluation = evaluate(self.net, self.data, self.objective)
            if evaluation := self.group.share(evaluation):
                row |= asdict(evaluation)
                self.plateau.see(evaluation.val_error, self.spec.train.patience)
            self.record("slopes", slope_rows(self.net))
        row["wall_s"] = self.log.wall_s()
        self.record("scalars", [row])
        if self.moments:
            self.record("running", self.moments.take(self.group.total))
        self.recorder.progress(self.log.close(row))

    def record(self, frame: str, rows: list[dict[str, Any]]) -> None:
        """Hand rows to the recorder, each with the point that it was reached at; none where there are none."""
        point = {"step": self.step, "epoch": self.step / self.per_epoch}
        if rows:
            self.recorder.record(frame, [{**point, **row} for row in rows])

    def checkpoint(self) -> None:
        """Keep all that the rest of the trial depends on, to go on from."""
        state = {
            "step": self.step,
            "net": self.net.state_dict(),
            "auxiliary": self.passes.auxiliary.state_dict() if self.passes.auxiliary else {},
            "optimizer": self.updates.optimizer.state_dict(),
            "plateau": asdict(self.plateau),
            "moments": self.moments.state(self.group.total) if self.moments else None,
        }
        self.recorder.checkpoint({**state, **self.log.state()})
