"""The updates of a pack: the rules of optimisers on the numbers of all its trials at once.

Weights and moments lie flat, parameter by parameter and trial by trial in each, so that an update is a few operations.
Each trial's own are views into them. The numbers are those of `initlab.train.optimizer` to rounding; where a sign
decides, as in Lion, rounding can turn it.

Suffixes: K trials.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from initlab.to_device import to_device
from initlab.train.optimizer import DECOUPLED, betas_of
from initlab.train.trial import Trial

Weights = dict[str, Tensor]
# Optimiser -> what it keeps of every number, as its torch class names it.
MOMENTS = {
    "sgd": ("momentum_buffer",),
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
    "lion": ("exp_avg",),
}


class PackedUpdates:
    """The weights and moments of trials side by side, and the update of all of them."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        """Move the trials' own weights and moments there; they stay, and the pack takes the trials' steps on them."""
        # The first trial stands for all in what they share.
        self.trials, self.train, self.net = trials, trials[0].spec.train, trials[0].net
        parameters, groups = list(self.net.parameters()), trials[0].updates.groups
        group_of = {parameter: number for number, group in enumerate(groups) for parameter in group["params"]}
        # Of every number, k x groups + g for trial k and group g.
        firsts = torch.arange(len(trials)) * len(groups)
        owners = [(firsts + group_of[p]).repeat_interleave(p.numel()) for p in parameters]
        self.owners, self.num_groups = torch.cat(owners).to(parameters[0].device), len(groups)
        self.flat = parameters[0].new_zeros(len(self.owners))
        self.moments = {key: torch.zeros_like(self.flat) for key in MOMENTS[self.train.optimizer]}
        # The updates of each parameter, as Adam counts them.
        self.counts = torch.zeros(len(trials), len(parameters), device=self.flat.device)
        self.momentum = self.spread([[t.spec.train.momentum] * len(groups) for t in trials])
        self.decay = self.spread([[group["weight_decay"] for group in t.updates.groups] for t in trials])
        limits = [trial.spec.train.clip_norm or torch.inf for trial in trials]
        self.limits_K = self.flat.new_tensor(limits) if min(limits) < torch.inf else None
        self.lrs: list[list[float]] = []
        self.lr = torch.zeros_like(self.flat)
        places = {key: self.by_name(flat) for key, flat in self.moments.items()}
        weights = self.by_name(self.flat)
        for k, trial in enumerate(trials):
            for index, (name, parameter) in enumerate(trial.net.named_parameters()):
                parameter.data = weights[name][k].copy_(parameter.detach())
                own = {key: by_name[name][k] for key, by_name in places.items()}
                if "exp_avg_sq" in own:
                    own["step"] = self.counts[k, index]
                if self.train.optimizer == "sgd" and not trial.spec.train.momentum:
                    continue
                state = trial.updates.optimizer.state[parameter]
                # They are 0 before the first step.
                state.update({key: place.copy_(state.get(key, place)) for key, place in own.items()})
        self.weights = {name: stacked.detach().requires_grad_() for name, stacked in weights.items()}

    @property
    def state(self) -> list[Tensor]:
        """All that an update changes."""
        return [self.flat, *self.moments.values(), self.counts]

    def by_name(self, flat: Tensor) -> Weights:
        """The views (K, ...) of each parameter in a tensor laid out as `flat` is."""
        count, named = len(self.trials), dict(self.net.named_parameters())
        pieces = flat.split([count * parameter.numel() for parameter in named.values()])
        return {n: piece.view(count, *p.shape) for (n, p), piece in zip(named.items(), pieces, strict=True)}

    def spread(self, values: Sequence[Sequence[float]]) -> Tensor:
        """A number for each trial and group, laid out as `flat` is."""
        table = torch.tensor(values, dtype=self.flat.dtype).flatten()
        return to_device(table, self.flat.device)[self.owners]

    @cached_property
    def trial_of(self) -> Tensor:
        """The trial of every number."""
        return self.owners // self.num_groups

    def set_lr(self) -> None:
        """Put the learning rates of the next update in place."""
        lrs = [[trial.lr() * factor for factor in trial.updates.lr_factors] for trial in self.trials]
        if lrs != self.lrs:
            self.lrs = lrs
            self.lr.copy_(self.spread(lrs))

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor]) -> None:
        """Update all weights by the gradient (K, ...) of each parameter, in tensors that stay in place."""
        grad = torch.cat([grad.reshape(-1) for grad in grads])
        if self.limits_K is not None:
            # As `torch.nn.utils.clip_grad_norm_` has it.
            norms_K = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in grads]).norm(dim=0)
            factors_K = (self.limits_K / (norms_K + 1e-6)).clamp(max=1.0)
            grad *= torch.where(self.limits_K.isinf(), 1.0, factors_K)[self.trial_of]
        if self.train.optimizer in DECOUPLED:
            self.flat.addcmul_(self.flat * self.lr, self.decay, value=-1)
        else:
            grad.addcmul_(self.flat, self.decay)
        match self.train.optimizer:
            case "sgd":
                self.flat.addcmul_(self.moments["momentum_buffer"].mul_(self.momentum).add_(grad), self.lr, value=-1)
            case "lion":
                first, second = betas_of(self.train)
                average = self.moments["exp_avg"]
                self.flat.addcmul_(average.lerp(grad, 1 - first).sign_(), self.lr, value=-1)
                average.lerp_(grad, 1 - second)
            case _:
                self.adam(grad, *betas_of(self.train))

    def adam(self, grad: Tensor, first: float, second: float) -> None:
        """Adam's step (Kingma and Ba 2015, algorithm 1), each trial by its own count of updates."""
        average, square = self.moments["exp_avg"].lerp_(grad, 1 - first), self.moments["exp_avg_sq"]
        square.mul_(second).addcmul_(grad, grad, value=1 - second)
        self.counts += 1
        counts_K = self.counts[:, 0].double()
        unbias, unbias_square = ((1 - beta**counts_K).to(grad.dtype)[self.trial_of] for beta in (first, second))
        root = square.div(unbias_square).sqrt_().add_(self.train.eps)
        self.flat.addcdiv_(average * self.lr / unbias, root, value=-1)
