"""A pack: trials of one architecture and batch size whose training steps are taken together, as one.

A small net leaves a large device idle: most of a step's time goes into starting its operations. Here the weights of K
trials lie side by side and one operation serves them all (`torch.func.vmap`, by which a convolution becomes a grouped
one). Everything else is the trials' own: data order, dropout masks, learning rate, momentum, decay, clipping, rows,
probes, validations and checkpoints. Each trial's parameters and moments are views into the pack's
(`packed_updates.py`), so that it can be measured, saved and taken up alone at any step; its numbers are those of the
trial alone to rounding.

A step works on tensors that stay in place, so that on CUDA it is captured once and replayed (`Captured`). A step that
gives running moments of any trial is a second one, captured by itself: the others pay nothing for it.

Suffixes: K trials, L dropout layers, N images a batch.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from initlab.nets.layers import dropout_shapes, with_masks
from initlab.nets.undisturbed import in_eval_mode
from initlab.signal.running_packed import PackedMoments
from initlab.train.cuda import Capture, Captured, in_one_pool
from initlab.train.evaluate import Evaluation, evaluate_together
from initlab.train.feed import Feed
from initlab.train.packed_updates import PackedUpdates, Weights
from initlab.train.records import Outcome, Raised, caught
from initlab.train.trial import Trial

OnEnd = Callable[[Trial, Outcome | Raised], None]


class Pack:
    """Trials after `begin`, between steps; `run` takes them all to their ends, with the verbs of a single trial."""

    def __init__(
        self, trials: Sequence[Trial], capture: Capture | None = None, on_end: OnEnd = lambda trial, outcome: None
    ) -> None:
        """`capture`: makes a step that can be replayed, as `initlab.train.cuda.cuda_graph`; None takes each as it is.

        `on_end` hears of each trial how it ended, while the others go on.
        """
        first = trials[0]
        self.dropout_shapes = dropout_shapes(first.net, first.data.probe_batch(first.spec.train.batch_size)[0])
        self.capture, self.on_end, self.size = capture, on_end, len(trials)
        self.eager: str | None = None  # why steps are not replayed although they can be captured
        self.validates_together = True
        # Trials on one set of images lie side by side.
        sets = list(dict.fromkeys(id(trial.data) for trial in trials))
        self.stack(sorted(trials, key=lambda trial: sets.index(id(trial.data))))

    def stack(self, trials: Sequence[Trial]) -> None:
        """Lay the trials' weights, moments and sums side by side, and make their own views of them."""
        # The first net stands for all of them.
        self.trials, self.net = list(trials), trials[0].net
        self.updates = PackedUpdates(self.trials)
        self.weights = self.updates.weights
        device = self.updates.flat.device
        self.sums = torch.zeros(len(trials), 2, dtype=torch.float64, device=device)
        for trial, sums in zip(trials, self.sums, strict=True):
            trial.log.sums = sums.copy_(trial.log.sums)
        self.feed = Feed(self.trials, self.dropout_shapes)
        moments = [trial.moments for trial in trials]
        self.moments = PackedMoments(self.net, moments, device) if any(moments) else None
        # By whether running moments come with the step.
        self.captured: dict[bool, Captured] = {}
        if self.capture and not self.eager:
            state, capture = [*self.updates.state, self.sums], in_one_pool(self.capture)
            self.captured[False] = Captured(self.step, state, capture)
            if self.moments:
                state = [*state, self.moments.sums_K]
                self.captured[True] = Captured(partial(self.step, self.moments), state, capture)

    def update(self) -> None:
        """One step of every trial; nothing here waits for the device."""
        self.feed.take()
        self.updates.set_lr()
        due = [trial.spec.samples_update(trial.step) for trial in self.trials]
        sample = self.moments if any(due) else None
        if sample:
            sample.begin(due)
        if captured := self.captured.get(sample is not None):
            captured()
            self.eager = self.eager or captured.reason
        else:
            self.step(sample)
        if sample:
            sample.end(due)
        for trial in self.trials:
            trial.count_step()

    def step(self, sample: PackedMoments | None = None) -> None:
        """The step on the device: from what `feed` took in to new weights, all in tensors that stay in place."""
        images_KN, labels_KN = self.feed.batch()
        with sample.listen() if sample else nullcontext():
            losses_K, misses_K = self.forward(images_KN, labels_KN, self.feed.masks)
        # The sum's gradient by each loss is 1: a loss that is not finite stays with its trial.
        grads = torch.autograd.grad(losses_K.sum(), list(self.weights.values()))
        self.updates.step(grads)
        self.sums[:, 0].add_(losses_K.detach())
        self.sums[:, 1].add_(misses_K)
        if sample:
            sample.sampled(self.feed.size)

    def forward(self, images_KN: Tensor, labels_KN: Tensor, masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Mean losses (K,) and errors times examples (K,).

        Raises:
            RuntimeError: a net that cannot be run this way: it draws random numbers, or branches on its activations.
        """

        def one(weights: Weights, images: Tensor, labels: Tensor, masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
            """Of one trial of the pack."""
            with with_masks(self.net, masks):
                logits = self.logits(weights, images).to(self.updates.flat.dtype)
            return objective.loss(logits, labels), objective.misses(logits.detach(), labels)

        # The same for all of them, up to the guess that verdicts need.
        objective = self.trials[0].objective
        losses_K, misses_K = vmap(one, randomness="error")(self.weights, images_KN, labels_KN, masks)
        return losses_K, misses_K

    def logits(self, weights: Weights, images: Tensor) -> Tensor:
        """Of one trial's weights."""
        with self.trials[0].passes.autocast():
            logits: Tensor = functional_call(self.net, weights, (images,))
        return logits

    def unpackable_because(self) -> str | None:
        """Why the trials cannot be trained as one, as shows once their nets are there; None where they can."""
        if next(self.net.buffers(), None) is not None:
            return "the net keeps buffers, as BatchNorm does"
        images, labels = self.trials[0].data.probe_batch(self.trials[0].spec.train.batch_size)
        count = len(self.trials)
        try:
            with self.moments.listen() if self.moments else nullcontext():
                losses, _ = self.forward(torch.stack([images] * count), torch.stack([labels] * count), self.feed.masks)
            torch.autograd.grad(losses.sum(), list(self.weights.values()))
        except RuntimeError as error:
            return f"torch cannot run the net for several at once ({str(error).splitlines()[0]})"
        return None

    def run(self, should_stop: Callable[[], bool], checkpoint_every_s: float, skip_hopeless: bool = False) -> None:
        """Train every trial to its end, or all until `should_stop()`; arguments as `Trial.run` takes them.

        A trial whose records cannot be written ends with that exception. Where a step cannot be taken, as for want
        of memory, this raises and every trial of `trials` is as it was before that step.
        """
        saved = time.perf_counter()
        try:
            self.end(should_stop(), skip_hopeless)
            while self.trials:
                self.update()
                self.record_due()
                self.end(should_stop(), skip_hopeless)
                if time.perf_counter() - saved > checkpoint_every_s:
                    self.each(Trial.checkpoint)
                    saved = time.perf_counter()
        # Captured steps hold memory.
        finally:
            self.captured = {}

    def record_due(self) -> None:
        """Record what each trial has due after this step."""
        evaluations = self.validate()
        self.each(lambda trial: trial.record_due(evaluations.get(trial)))

    def end(self, stop: bool = False, skip_hopeless: bool = False) -> None:
        """End those trials that end at this step, as `Trial.end` says."""
        self.each(lambda trial: trial.end(stop, skip_hopeless))

    def validate(self) -> dict[Trial, Evaluation]:
        """Evaluations of all trials at once where they are due on the same images; none where each makes its own."""
        data, objective = self.trials[0].data, self.trials[0].objective
        alike = all(trial.data is data and trial.step in trial.due.validations for trial in self.trials)
        if not alike or not self.validates_together:
            return {}
        forward = partial(vmap(self.logits, in_dims=(0, None)), self.weights)
        # An error is too little memory, or a net of the user's that in eval mode cannot be run for several at once.
        with suppress(RuntimeError), in_eval_mode(self.net):
            return dict(zip(self.trials, evaluate_together(forward, len(self.trials), data, objective), strict=True))
        self.validates_together = False
        return {}

    def each(self, do: Callable[[Trial], Outcome | None]) -> None:
        """Do this for every trial; those that end by it leave the pack."""
        rest = []
        for trial in self.trials:
            outcome = caught(partial(do, trial))
            if outcome is None:
                rest.append(trial)
                continue
            if isinstance(outcome, Outcome):
                outcome = outcome.plus(packed=self.size if self.size > 1 else None, eager=self.eager)
            self.on_end(trial, outcome)
        if 0 < len(rest) < len(self.trials):
            self.stack(rest)
        self.trials = rest
