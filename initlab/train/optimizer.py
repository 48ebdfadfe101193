"""The optimiser of a trial: which parameters it takes how, and what comes before its step."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from initlab.nets.any_module import weight_layers
from initlab.signal.moments import NAN, in_float64, on_host
from initlab.study.training import Train
from initlab.train.update_rules import Lion, Muon
from initlab.user_code import import_callable, is_code

BETAS, LION_BETAS = (0.9, 0.999), (0.9, 0.99)
# Those that take lr x weight decay off the weight itself; sgd and adam add the decay to the gradient.
DECOUPLED = ("adamw", "lion", "muon")
Groups = list[dict[str, Any]]


def parameter_groups(model: nn.Module, train: Train) -> Groups:
    """The parameters as the optimiser takes them, the same always together; `lr` is a factor on the learning rate.

    PReLU's slopes have no decay, which would pull them towards ReLU (He et al. 2015, sec. 2.1). Matrices, muon's alone,
    are the weights of all hidden layers: not of embeddings and of the last layer (Jordan et al. 2024).
    """
    parameters = list(model.parameters())
    if is_code(train.optimizer):
        return [{"params": parameters}]
    slopes = {id(p) for m in model.modules() if isinstance(m, nn.PReLU) for p in m.parameters()}
    matrices = hidden_matrices(model) if train.optimizer == "muon" else set()
    kinds: dict[str, list[Tensor]] = {"matrices": [], "decayed": [], "exempt": [], "slopes": []}
    for p in parameters:
        exempt = train.decay_exempt == "norms_and_biases" and p.dim() < 2
        kind = "matrices" if id(p) in matrices else "exempt" if exempt else "decayed"
        kinds["slopes" if id(p) in slopes else kind].append(p)
    return [
        {
            "params": kind,
            "weight_decay": 0.0 if name in ("exempt", "slopes") else train.weight_decay,
            "lr": train.slope_lr_factor if name == "slopes" else 1.0,
            **({"matrices": name == "matrices", "momentum": train.momentum} if train.optimizer == "muon" else {}),
        }
        for name, kind in kinds.items()
        if kind
    ]


def hidden_matrices(model: nn.Module) -> set[int]:
    """The ids of the weights of convolutions, linear, recurrent and attention layers, but of the last layer's."""
    packed = [m for m in model.modules() if isinstance(m, nn.RNNBase | nn.MultiheadAttention)]
    layers = [layer for _, layer in weight_layers(model)]
    owners = [*layers[:-1], *packed]
    ids = {id(p) for module in owners for p in module.parameters(recurse=False) if p.dim() >= 2}
    kept = [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)] + layers[-1:]
    return ids - {id(p) for module in kept for p in module.parameters(recurse=False)}


def betas_of(train: Train) -> tuple[float, float]:
    """The betas of a trial, its optimiser's own where it names none."""
    return train.betas or (LION_BETAS if train.optimizer == "lion" else BETAS)


def optimizer_over(groups: Groups, train: Train) -> torch.optim.Optimizer:
    """The optimiser of these groups.

    Raises:
        TypeError: the user's code gives something else.
    """
    if is_code(train.optimizer):
        make = import_callable("train.optimizer", train.optimizer)
        optimizer = make(groups[0]["params"], lr=train.lr, **train.optimizer_options)
        if not isinstance(optimizer, torch.optim.Optimizer):
            got = type(optimizer).__name__
            raise TypeError(
                f"train.optimizer: no optimiser (got {got} from {train.optimizer!r}); return a torch.optim.Optimizer"
            )
        return optimizer
    betas, lr = betas_of(train), train.lr
    groups = [dict(group) for group in groups]
    # Fused is the fastest on a CPU too (docs/optimizers.md).
    match train.optimizer:
        case "sgd":
            return torch.optim.SGD(groups, lr=lr, momentum=train.momentum, fused=True)
        case "lion":
            return Lion(groups, lr=lr, betas=betas)
        case "adam":
            return torch.optim.Adam(groups, lr=lr, betas=betas, eps=train.eps, fused=True)
        case "adamw":
            return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=train.eps, fused=True)
    return Muon(groups, lr=lr, betas=betas, eps=train.eps, fused=True)


class Updates:
    """The updates of parameters: an optimiser, the learning rate of each of its groups, and clipping."""

    def __init__(self, groups: Groups, train: Train) -> None:
        self.groups, self.train = groups, train
        self.optimizer = optimizer_over(groups, train)
        mine = is_code(train.optimizer)
        self.lr_factors = [float(group["lr"]) / (train.lr if mine else 1.0) for group in self.optimizer.param_groups]

    def step(self, lr: float) -> None:
        """One update from the gradients of the parameters, at this learning rate; nothing here waits for the device."""
        for group, factor in zip(self.optimizer.param_groups, self.lr_factors, strict=True):
            group["lr"] = lr * factor
        if self.train.clip_norm is not None:
            parameters = [p for group in self.groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.train.clip_norm)
        self.optimizer.step()

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what a checkpoint holds of the optimiser."""
        self.optimizer.load_state_dict(state)
        # The fused update takes a weight and its moments as they lie in memory, which differs in a pack's.
        for parameter, memory in self.optimizer.state.items():
            for key, value in memory.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    memory[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

    def ratios(self, weights: Sequence[Tensor], gradients: Mapping[Tensor, Tensor], lr: float) -> list[list[float]]:
        """Of each weight, ‖update‖ / ‖W‖ and lr x weight decay x ‖W‖ / ‖rest of the update‖ of the update to come.

        It is measured: a twin of the optimiser takes the step on copies. The second is NaN where decay is no part of
        the update by itself, both are where there is no gradient. In float64, since float32 rounds small updates away;
        the user's code keeps its type.
        """
        dtype = None if is_code(self.train.optimizer) else torch.float64
        copies = {p: nn.Parameter(p.detach().to(dtype, copy=True)) for group in self.groups for p in group["params"]}
        for p, gradient in gradients.items():
            copies[p].grad = gradient.to(copies[p].dtype)
        twin = Updates([{**group, "params": [copies[p] for p in group["params"]]} for group in self.groups], self.train)
        # A state of its own: `load_state_dict` takes counts of steps as they are.
        twin.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        twin.step(lr)
        decays: dict[Tensor, float] = {}
        if self.train.optimizer in DECOUPLED:
            for group in twin.optimizer.param_groups:
                decays.update(dict.fromkeys(group["params"], group["lr"] * group["weight_decay"]))
        rows = []
        for weight in weights:
            if weight not in gradients:
                rows.append([NAN, NAN])
                continue
            before, after = in_float64(weight), in_float64(copies[weight])
            decay = decays.get(copies[weight], math.nan)
            size, rest = before.norm(), after - before * (1 - decay)
            rows.append([(after - before).norm() / size, decay * size / rest.norm()])
        return on_host(rows)
