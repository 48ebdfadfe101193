"""A pack: trials of one architecture and batch size whose training steps are taken together, as one.

A small net leaves a large device idle: most of a step's time goes into starting its operations. Here the weights of K
trials lie side by side and one operation serves them all (`torch.func.vmap`, by which a convolution becomes a grouped
one). Everything else is the trials' own: data order, dropout masks, learning rate, momentum, decay, rows, probes,
validations and checkpoints. Each trial's parameters and momentum are views into the pack's, so that it can be measured,
saved and taken up alone at any step; its numbers are those of the trial alone to rounding.

A step works on tensors that stay in place, so that on CUDA it is recorded once and replayed (`Captured`).

Suffixes: K trials, N images a batch.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from initlab.to_device import sent
from initlab.train.cuda import Captured, Record, Step
from initlab.train.evaluate import evaluate_together
from initlab.train.feed import Feed
from initlab.train.masks import dropout_shapes, dropouts_of
from initlab.train.records import Outcome
from initlab.train.trial import Trial

Ended = Callable[[Trial, Outcome | Exception], None]


class Pack:
    """Trials after `begin`, between steps; `run` takes them all to their ends."""

    def __init__(self, trials: Sequence[Trial], record: Record | None = None) -> None:
        """`record`: makes a recording of a step, `initlab.train.cuda.cuda_graph`; None takes every step as it is."""
        first = trials[0]
        self.dropout_shapes = dropout_shapes(first.net, first.data.probe_batch(first.spec.train.batch_size)[0])
        self.record = record
        self.eager: str | None = None  # why steps are not replayed although `record` was given
        self.apart = False  # whether the trials cannot be validated together
        for trial in trials:
            trial.packed = len(trials)
        sets = list(dict.fromkeys(id(trial.data) for trial in trials))  # those of one set of images side by side
        self.stack(sorted(trials, key=lambda trial: sets.index(id(trial.data))))

    def stack(self, trials: Sequence[Trial]) -> None:
        """Lay the trials' weights, momentum and sums side by side, and make their own views of them.

        Flat, parameter by parameter and trial by trial in each, so that an update is four operations in all.
        """
        self.trials = list(trials)
        self.net = trials[0].net  # stands for all of them
        own = [dict(trial.net.named_parameters()) for trial in trials]
        columns = {name: [params[name] for params in own] for name in own[0]}
        slopes = {id(p) for group in trials[0].optimizer.param_groups[1:] for p in group["params"]}
        with torch.no_grad():
            self.flat = torch.cat([p.reshape(-1) for column in columns.values() for p in column])
            self.velocity = torch.cat(
                [velocity(t, p).reshape(-1) for column in columns.values() for t, p in zip(trials, column, strict=True)]
            )
        # the group of every number: 2 k for the weights of trial k, 2 k + 1 for its slopes
        groups = [
            torch.full((p.numel(),), 2 * k + (id(column[0]) in slopes))
            for column in columns.values()
            for k, p in enumerate(column)
        ]
        self.group = torch.cat(groups).to(self.flat.device)
        self.momentum = self.spread([(t.spec.train.momentum,) * 2 for t in trials])
        self.decay = self.spread([(t.spec.train.weight_decay, 0.0) for t in trials])
        self.lrs: list[tuple[float, float]] = []
        self.lr = torch.zeros_like(self.flat)
        self.sums = torch.stack([trial.sums for trial in trials])
        for k, trial in enumerate(trials):
            trial.sums = self.sums[k]
        self.view(columns)
        self.feed = Feed(self.trials, self.dropout_shapes)
        self.advance: Step = self.step
        if self.record and not self.eager:
            self.advance = Captured(self.step, [self.flat, self.velocity, self.sums], self.record)

    def view(self, columns: Mapping[str, Sequence[nn.Parameter]]) -> None:
        """Name the parts of the flat weights and momentum, for the pack and for each of its trials."""
        self.weights: dict[str, Tensor] = {}  # (K, ...) each
        at, count = 0, len(self.trials)
        for name, column in columns.items():
            shape, size = column[0].shape, count * column[0].numel()
            stacked = self.flat[at : at + size].view(count, *shape)
            momenta = self.velocity[at : at + size].view(count, *shape)
            self.weights[name] = stacked.detach().requires_grad_()
            for k, (trial, parameter) in enumerate(zip(self.trials, column, strict=True)):
                parameter.data = stacked[k]
                if trial.spec.train.momentum:
                    trial.optimizer.state[parameter]["momentum_buffer"] = momenta[k]
            at += size

    def spread(self, values: Sequence[tuple[float, float]]) -> Tensor:
        """(weights, slopes) of each trial, laid out as `flat` is."""
        table = torch.tensor(values, dtype=self.flat.dtype).flatten()
        return sent(table, self.flat.device)[self.group]

    def update(self) -> None:
        """One step of every trial; nothing here waits for the device."""
        self.feed.take()
        lrs = [(trial.lr(), trial.lr() * trial.spec.train.slope_lr_factor) for trial in self.trials]
        if lrs != self.lrs:
            self.lrs = lrs
            self.lr.copy_(self.spread(lrs))
        self.advance()
        if isinstance(self.advance, Captured):
            self.eager = self.advance.why
        for trial in self.trials:
            trial.step += 1
            trial.eager = self.eager

    def step(self) -> None:
        """The step on the device: from what `feed` took in to new weights, all in tensors that stay in place."""
        images_KN, labels_KN = self.feed.batch()
        losses_K, logits_KN = self.forward(images_KN, labels_KN, self.feed.masks)
        # the sum's gradient by each loss is 1: a loss that is not finite stays with its trial
        grads = torch.autograd.grad(losses_K.sum(), list(self.weights.values()))
        self.descend(torch.cat([grad.reshape(-1) for grad in grads]))
        self.sums[:, 0].add_(losses_K.detach())
        self.sums[:, 1].add_((logits_KN.detach().argmax(2) != labels_KN).sum(1))

    def forward(self, images_KN: Tensor, labels_KN: Tensor, masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Mean losses (K,) and logits (K, N, classes).

        Raises:
            RuntimeError: a net that cannot be run this way: it draws random numbers, or branches on its activations.
        """
        dropouts = dropouts_of(self.net)

        def one(weights: dict[str, Tensor], images: Tensor, labels: Tensor, own: Sequence[Tensor]) -> tuple:
            for module, mask in zip(dropouts, own, strict=True):
                module.mask = mask
            with self.trials[0].autocast():
                logits = functional_call(self.net, weights, (images,))
            return F.cross_entropy(logits.to(self.flat.dtype), labels), logits

        try:
            found: tuple[Tensor, Tensor] = vmap(one, randomness="error")(self.weights, images_KN, labels_KN, masks)
        finally:
            for module in dropouts:
                module.mask = None
        return found

    @torch.no_grad()
    def descend(self, grad: Tensor) -> None:
        """Gradient descent with momentum, as `torch.optim.SGD` does it; gradients laid out as `flat` is."""
        self.velocity.mul_(self.momentum).add_(grad.addcmul_(self.flat, self.decay))
        self.flat.addcmul_(self.velocity, self.lr, value=-1)

    def why_alone(self) -> str | None:
        """Why the trials cannot be trained as one, as shows once their nets are there; None where they can."""
        if next(self.net.buffers(), None) is not None:
            return "the net keeps buffers, as BatchNorm does"
        images, labels = self.trials[0].data.probe_batch(self.trials[0].spec.train.batch_size)
        count = len(self.trials)
        try:
            losses, _ = self.forward(torch.stack([images] * count), torch.stack([labels] * count), self.feed.masks)
            torch.autograd.grad(losses.sum(), list(self.weights.values()))
        except RuntimeError as error:
            return f"torch cannot run the net for several at once ({str(error).splitlines()[0]})"
        return None

    def validate(self) -> None:
        """Where the trials are due to be validated on the same images, do it for all of them at once."""
        data = self.trials[0].data
        alike = all(trial.data is data and trial.step in trial.validations for trial in self.trials)
        if self.apart or not alike:
            return  # each will do it for itself

        def forward(images: Tensor) -> Tensor:
            with self.trials[0].autocast():
                logits: Tensor = vmap(lambda own: functional_call(self.net, own, (images,)))(self.weights)
            return logits

        self.net.eval()
        try:
            for trial, found in zip(self.trials, evaluate_together(forward, len(self.trials), data), strict=True):
                trial.validated = found
        except RuntimeError:  # too little memory, or a net of the user's that in testing cannot be run for several
            self.apart = True  # each does it for itself, now and from here on
        finally:
            self.net.train()

    def run(
        self, should_stop: Callable[[], bool], checkpoint_every_s: float, ended: Ended, skip_hopeless: bool = False
    ) -> None:
        """Train to the end or until `should_stop()`; `ended` hears how each trial ends, the others go on.

        With `skip_hopeless`, a trial also ends where the evidence says that it has stalled (`verdict/hopeless.py`).

        A trial whose records cannot be written ends with that exception. Where a step cannot be taken, as for want
        of memory, this raises and every trial of `trials` is as it was before that step.
        """
        self.leave(Trial.ended, ended)
        saved = time.perf_counter()
        try:
            while self.trials:
                if should_stop():
                    self.leave(Trial.interrupted, ended)
                    return
                if skip_hopeless:
                    self.leave(Trial.given_up, ended)
                    if not self.trials:
                        return
                self.update()
                self.validate()
                self.leave(recorded, ended)
                if time.perf_counter() - saved > checkpoint_every_s:
                    self.leave(keep_checkpoint, ended)
                    saved = time.perf_counter()
        finally:
            self.advance = self.step  # a recording holds memory

    def leave(self, do: Callable[[Trial], Outcome | None], ended: Ended) -> None:
        """Do this for every trial; those that end by it leave the pack."""
        rest = []
        for trial in self.trials:
            outcome: Outcome | Exception | None
            try:
                outcome = do(trial)
            except Exception as error:  # the trial's boundary: it is recorded, and the others go on
                outcome = error
            if outcome is None:
                rest.append(trial)
            else:
                ended(trial, outcome)
        if 0 < len(rest) < len(self.trials):
            self.stack(rest)
        self.trials = rest


def recorded(trial: Trial) -> Outcome | None:
    """Record what is due after a step; how the trial ended, where it did."""
    trial.record_due()
    return trial.ended()


def keep_checkpoint(trial: Trial) -> None:
    """Keep a point to go on from."""
    trial.recorder.checkpoint(trial.state())


def velocity(trial: Trial, parameter: Tensor) -> Tensor:
    """The momentum of a trial's parameter, zeros before its first step."""
    kept: Tensor | None = trial.optimizer.state.get(parameter, {}).get("momentum_buffer")
    return torch.zeros_like(parameter) if kept is None else kept
