"""What other tools would have said of a training run: their published rules, written anew, at their own defaults.

SageMaker Debugger: "List of Debugger built-in rules", docs.aws.amazon.com/sagemaker/latest/dg/debugger-built-in-rules.
AUTOTRAINER: Zhang et al., ICSE 2021; github.com/shiningrain/AUTOTRAINER, AutoTrainer/utils/monitor.py. An epoch is ten
steps here. Anomaly mode: torch.autograd.set_detect_anomaly, which stops at the first NaN of a backward pass.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

# Every step of the first ten is looked at (the `steps` of PoorWeightInitialization), then every tenth one.
FIRST = EVERY = 10

# SageMaker Debugger's thresholds, each under the name of its rule.
VANISHING_GRADIENT = 1e-7  # mean |gradient| of a tensor
DEAD_RELU_ACTIVITY, DEAD_RELU_LAYER = 0.01, 0.5  # shares: of the time that a unit is above 0, of units in a layer
SATURATED_BEYOND = {nn.Tanh: (-9.4999, 9.4999), nn.Sigmoid: (-23.0, 16.99999)}
POOR_VARIANCE_RATIO, POOR_GRADIENT_RANGE, POOR_PATIENCE = 10.0, 1e-3, 5
UPDATE_LARGE, UPDATE_SMALL, UPDATE_EPSILON = 10.0, 1e-8, 1e-9
LOSS_DECREASE = 0.001  # 0.1 % per ten steps

# AUTOTRAINER's beta_1, beta_2, beta_3, gamma, Theta, delta, zeta, eta, and the share of epochs before it judges a loss.
RATIO_LOW, NORM_LOW, RATIO_HIGH, ZERO_SHARE = 1e-3, 1e-4, 70.0, 0.7
ACCURACY, ACCURACY_GAIN, OSCILLATION, OSCILLATING_SHARE, JUDGED_FROM = 0.7, 0.01, 0.03, 0.2, 0.3
LARGE_LOSS = 1e5


class Watch:
    """The rules of other tools over one run of so many steps; `alarms` names those that have fired, by tool."""

    def __init__(self, model: nn.Module, steps: int) -> None:
        self.model, self.steps = model, steps
        self.alarms: dict[str, set[str]] = {"sagemaker": set(), "autotrainer": set(), "anomaly": set()}
        self.inputs: list[tuple[nn.Module, Tensor]] = []  # of activations, in one step
        self.losses: list[float] = []
        self.accuracies: list[float] = []
        self.before: dict[str, Tensor] = {}

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Take the inputs of activation modules during a run; none of the tools sees the call of a function."""
        kinds = (nn.ReLU, *SATURATED_BEYOND)
        modules = [m for m in self.model.modules() if isinstance(m, kinds)]
        handles = [m.register_forward_pre_hook(self.take) for m in modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def take(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Keep what an activation takes."""
        self.inputs.append((module, inputs[0].detach().clone()))

    def note(self, rule: str, tool: str = "sagemaker") -> None:
        """Note that a rule of a tool has fired."""
        self.alarms[tool].add(rule)

    def after_backward(self, step: int, loss: float, accuracy: float) -> None:
        """Judge a step before the weights move; of a loss without classes the accuracy is NaN."""
        self.losses.append(loss)
        gradients = {n: p.grad.detach() for n, p in self.model.named_parameters() if p.grad is not None}
        total = sum(float(g.float().sum()) for g in gradients.values())
        if math.isnan(loss) or (math.isnan(total) and any(g.isnan().any() for g in gradients.values())):
            self.note("nan in backward", "anomaly")
        if not math.isfinite(loss) or not math.isfinite(total):
            self.note("exploding_tensor")
            self.note("explode", "autotrainer")
        if step < FIRST or step % EVERY == 0:
            self.sagemaker(step, gradients)
            self.before = {n: p.detach().clone() for n, p in self.model.named_parameters() if n in gradients}
        if step % EVERY == 0:
            self.accuracies.append(accuracy)
            self.autotrainer([g for g in gradients.values() if g.dim() > 1])
        self.inputs.clear()

    def after_step(self) -> None:
        """SageMaker's WeightUpdateRatio, of a step that is looked at."""
        parameters = dict(self.model.named_parameters())
        for name, before in self.before.items():
            ratio = (parameters[name].detach() - before).abs().mean() / (before.abs().mean() + UPDATE_EPSILON)
            if ratio > UPDATE_LARGE or ratio < UPDATE_SMALL:
                self.note("weight_update_ratio")
        self.before = {}

    def sagemaker(self, step: int, gradients: dict[str, Tensor]) -> None:
        """The rules of SageMaker Debugger on gradients, on the inputs of activations and on the loss."""
        for gradient in gradients.values():
            if gradient.abs().mean() < VANISHING_GRADIENT:
                self.note("vanishing_gradient")
            if not gradient.any():
                self.note("all_zero")
        variances = []
        for module, x in self.inputs:
            units = x.transpose(0, 1).flatten(1) if x.dim() > 2 else x.T
            low, high = next((v for kind, v in SATURATED_BEYOND.items() if isinstance(module, kind)), (0.0, math.inf))
            activity = ((units > low) & (units < high)).float().mean(1)
            if (activity < DEAD_RELU_ACTIVITY).float().mean() > DEAD_RELU_LAYER:
                self.note("dead_relu" if isinstance(module, nn.ReLU) else "saturated_activation")
            if isinstance(module, nn.ReLU):
                variances.append(x.float().var().item())
        if step < FIRST and self.poor(variances, gradients):
            self.note("poor_weight_initialization")
        if step and step % EVERY == 0 and not self.losses[-1] < self.losses[-1 - EVERY] * (1 - LOSS_DECREASE):
            self.note("loss_not_decreasing")

    def poor(self, variances: list[float], gradients: dict[str, Tensor]) -> bool:
        """PoorWeightInitialization: unlike variances, gradients of a narrow range, or a loss that does not fall."""
        if variances and max(variances) > POOR_VARIANCE_RATIO * min(variances):
            return True
        ranges = [spread(gradient) for gradient in gradients.values() if gradient.dim() > 1]
        recent = self.losses[-1 - POOR_PATIENCE :]
        stalled = len(recent) > POOR_PATIENCE and not min(recent[1:]) < recent[0]
        return bool(ranges and min(ranges) < POOR_GRADIENT_RANGE) or stalled

    def autotrainer(self, kernels: list[Tensor]) -> None:
        """AUTOTRAINER's rules at the end of what is an epoch here."""
        note = partial(self.note, tool="autotrainer")
        if self.losses[-1] >= LARGE_LOSS:
            note("explode")
        accuracies = self.accuracies
        if len(accuracies) * EVERY < JUDGED_FROM * self.steps or not kernels:
            return
        # Losses without classes have no accuracy: nothing says that such a net has converged, or has not.
        gain = max((b - a for a, b in pairwise(accuracies)), default=math.nan)
        if max(accuracies) >= ACCURACY and gain >= ACCURACY_GAIN:
            if oscillates(accuracies):
                note("unstable")
            return
        first, last = (kernels[i].float().norm().item() for i in (0, -1))
        zeros = sum(int((k == 0).sum()) for k in kernels) / sum(k.numel() for k in kernels)
        if zeros >= ZERO_SHARE:
            note("relu")
        elif last > 0 and first / last > RATIO_HIGH:
            note("explode")
        elif last > 0 and first / last < RATIO_LOW and first < NORM_LOW:
            note("vanish")
        elif gain < ACCURACY_GAIN:
            note("not_converge")


def spread(gradient: Tensor) -> float:
    """The distance between the 5th and the 95th percentile."""
    values = gradient.float().flatten()[:100_000].sort().values
    return float(values[int(0.95 * (len(values) - 1))] - values[int(0.05 * (len(values) - 1))])


def oscillates(accuracies: list[float]) -> bool:
    """Whether maxima lie above the minima beside them by `OSCILLATION`, for a fifth of the epochs."""
    inner = list(zip(accuracies, accuracies[1:], accuracies[2:], strict=False))
    maxima = [b for a, b, c in inner if b >= a and b >= c]
    minima = [b for a, b, c in inner if b <= a and b <= c]
    count = sum(high - low >= OSCILLATION for high, low in zip(maxima, minima, strict=False))
    return count > 0 and count >= OSCILLATING_SHARE * len(accuracies)
