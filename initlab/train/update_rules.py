"""Lion and Muon as torch optimisers: torch has no Lion, and its Muon takes no convolutions and nothing but matrices."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

# Of the quintic iteration, and how often it is taken (Jordan et al. 2024; torch.optim.Muon has the same).
COEFFICIENTS, ITERATIONS, LEAST_NORM = (3.4445, -4.7750, 2.0315), 5, 1e-7
ADAMW_RMS = 0.2  # typical rms of AdamW's updates over lr (Liu et al. 2025, sec. 2.2)


class Lion(torch.optim.Optimizer):
    """The sign of an average of gradients (Chen et al. 2023, algorithm 2): every number moves by lr, plus its decay.

    With momentum m and gradient g: W ← W - lr (sign(β₁ m + (1 - β₁) g) + weight_decay W), m ← β₂ m + (1 - β₂) g.
    """

    def __init__(self, params: ParamsT, lr: float, betas: tuple[float, float], weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight]["exp_avg"] = torch.zeros_like(weight)
            momenta, grads = [self.state[w]["exp_avg"] for w in weights], [w.grad for w in weights]
            updates = torch._foreach_lerp(momenta, grads, 1 - group["betas"][0])
            torch._foreach_sign_(updates)
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(weights, updates, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, grads, 1 - group["betas"][1])


class Muon(torch.optim.AdamW):
    """Orthogonalised momentum for the groups with `matrices` set (Jordan et al. 2024), AdamW for the others.

    A weight (out, in, ...) is taken as a matrix (out, in x ...). Its update is scaled to the rms of AdamW's (Liu et al.
    2025, eq. 4), so that one learning rate and weight decay serve both: `match_rms_adamw` of torch.optim.Muon.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update; the matrices' gradients are taken away."""
        for group in self.param_groups:
            for weight in group["params"] if group["matrices"] else []:
                if weight.grad is not None:
                    self.turn(weight, weight.grad, group)
                    # AdamW passes over weights without a gradient.
                    weight.grad = None
        return super().step(closure)

    def turn(self, weight: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        """Update one matrix by its momentum, Nesterov's, made orthogonal."""
        state = self.state[weight]
        if not state:
            # `AdamW.load_state_dict` asks for a step in every state.
            state.update(momentum_buffer=torch.zeros_like(weight), step=torch.zeros(()))
        momentum = state["momentum_buffer"].lerp_(grad, 1 - group["momentum"])
        matrix = grad.lerp(momentum, group["momentum"]).flatten(1)
        scale = ADAMW_RMS * math.sqrt(max(matrix.shape))
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(orthogonal(matrix).view(weight.shape), alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor) -> Tensor:
    """About U V^T of a matrix U S V^T, in bfloat16: every singular value comes to lie between 0.5 and 1.5.

    Newton and Schulz's iteration in the form of Jordan et al. (2024), which bfloat16 is enough for.
    """
    a, b, c = COEFFICIENTS
    wide = matrix.bfloat16() if matrix.shape[0] <= matrix.shape[1] else matrix.bfloat16().T
    wide = wide / wide.norm().clamp(min=LEAST_NORM)
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T
