"""A pack: trials of one architecture and batch size whose training steps are taken together, as one.

A small net leaves a large device idle: most of a step's time goes into starting its operations. Here the weights of K
trials lie side by side and one operation serves them all (`torch.func.vmap`, by which a convolution becomes a grouped
one). Everything else is the trials' own: data order, dropout masks, learning rate, momentum, decay, rows, probes,
validations and checkpoints. Each trial's parameters and momentum are views into the pack's, so that it can be measured,
saved and taken up alone at any step; its numbers are those of the trial alone to rounding.

Suffixes: K trials, N images a batch.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from initlab.nets.layers import StreamDropout, set_dropout_step
from initlab.train.records import Outcome
from initlab.train.trial import Trial
from initlab.transfer import sent

Ended = Callable[[Trial, Outcome | Exception], None]


class Pack:
    """Trials after `begin`, between steps; `run` takes them all to their ends."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self.dropout_shapes = dropout_shapes(trials[0])
        for trial in trials:
            trial.packed = len(trials)
        self.stack(trials)

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
            for column in columns.values() for k, p in enumerate(column)
        ]  # fmt: skip
        self.group = torch.cat(groups).to(self.flat.device)
        self.momentum = self.spread([(t.spec.train.momentum,) * 2 for t in trials])
        self.decay = self.spread([(t.spec.train.weight_decay, 0.0) for t in trials])
        self.lrs: list[tuple[float, float]] = []
        self.sums = torch.stack([trial.sums for trial in trials])
        for k, trial in enumerate(trials):
            trial.sums = self.sums[k]
        self.view(columns)

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
        batches = [next(trial.batches) for trial in self.trials]
        images_KN = torch.stack([images for images, _ in batches])
        labels_KN = torch.stack([labels for _, labels in batches])
        losses_K, logits_KN = self.forward(images_KN, labels_KN, self.masks())
        # the sum's gradient by each loss is 1: a loss that is not finite stays with its trial
        grads = torch.autograd.grad(losses_K.sum(), list(self.weights.values()))
        self.descend(torch.cat([grad.reshape(-1) for grad in grads]))
        self.sums[:, 0] += losses_K.detach()
        self.sums[:, 1] += (logits_KN.detach().argmax(2) != labels_KN).sum(1)
        for trial in self.trials:
            trial.step += 1

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
        lrs = [(trial.lr(), trial.lr() * trial.spec.train.slope_lr_factor) for trial in self.trials]
        if lrs != self.lrs:
            self.lrs, self.lr = lrs, self.spread(lrs)
        self.velocity.mul_(self.momentum).add_(grad.addcmul_(self.flat, self.decay))
        self.flat.addcmul_(self.velocity, self.lr, value=-1)

    def masks(self) -> list[Tensor]:
        """The dropout masks of this step, one (K, N, ...) per layer: what each trial alone would draw."""
        if not self.dropout_shapes:
            return []
        drawn = []
        for trial in self.trials:
            set_dropout_step(trial.net, trial.spec.seed, trial.step)
            own = zip(dropouts_of(trial.net), self.dropout_shapes, strict=True)
            drawn.append([module.drawn(shape, torch.device("cpu")) for module, shape in own])
        return [sent(torch.stack(layer), self.flat.device) for layer in zip(*drawn, strict=True)]

    def why_alone(self) -> str | None:
        """Why the trials cannot be trained as one, as shows once their nets are there; None where they can."""
        if next(self.net.buffers(), None) is not None:
            return "the net keeps buffers, as BatchNorm does"
        images, labels = self.trials[0].data.probe_batch(self.trials[0].spec.train.batch_size)
        count = len(self.trials)
        masks = [torch.ones(count, *shape, device=images.device) for shape in self.dropout_shapes]
        try:
            losses, _ = self.forward(torch.stack([images] * count), torch.stack([labels] * count), masks)
            torch.autograd.grad(losses.sum(), list(self.weights.values()))
        except RuntimeError as error:
            return f"torch cannot run the net for several at once ({str(error).splitlines()[0]})"
        return None

    def run(self, should_stop: Callable[[], bool], checkpoint_every_s: float, ended: Ended) -> None:
        """Train to the end or until `should_stop()`; `ended` hears how each trial ends, the others go on.

        A trial whose records cannot be written ends with that exception. Where a step cannot be taken, as for want
        of memory, this raises and every trial of `trials` is as it was before that step.
        """
        for trial in self.trials:
            trial.open_batches()
        self.leave(Trial.ended, ended)
        saved = time.perf_counter()
        while self.trials:
            if should_stop():
                self.leave(Trial.interrupted, ended)
                return
            self.update()
            self.leave(recorded, ended)
            if time.perf_counter() - saved > checkpoint_every_s:
                self.leave(keep_checkpoint, ended)
                saved = time.perf_counter()

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


def dropouts_of(net: nn.Module) -> list[StreamDropout]:
    """The dropout layers in order."""
    return [module for module in net.modules() if isinstance(module, StreamDropout)]


@torch.no_grad()
def dropout_shapes(trial: Trial) -> list[tuple[int, ...]]:
    """The shape of what each dropout layer takes in a training step, (N, ...)."""
    shapes: list[tuple[int, ...]] = []
    size = trial.spec.train.batch_size
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: shapes.append((size, *inputs[0].shape[1:])))
        for module in dropouts_of(trial.net)
    ]
    if hooks:
        trial.net.eval()
        trial.net(trial.data.probe_batch(1)[0])
        trial.net.train()
    for hook in hooks:
        hook.remove()
    return shapes
