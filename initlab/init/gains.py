"""Gains: the factor on a weight's standard deviation, std = gain / sqrt(fan), that makes up for an activation.

The forward gain keeps the second moment of the signal, the backward gain that of its gradient; only rectifiers have
the same for both. Whether unit variance is also *stable* under the forward gain is another matter: see
`ActivationMoments.slope`.
"""

import math
from dataclasses import dataclass
from typing import Literal

from initlab.init.activations import Activation, resolve


def gain(activation: Activation, *, direction: Literal["forward", "backward"] = "forward") -> float:
    """Gain of any elementwise activation: 1/sqrt(E[phi(z)^2]) forward, 1/sqrt(E[phi'(z)^2]) backward, z ~ N(0, 1).

    With weights of variance gain^2/fan_in the pre-activations keep a unit second moment (He et al. 2015, eq. 10,
    which this generalises), with gain^2/fan_out that of their gradients (eq. 14). Second moments, not variances: 1/std
    would give 1.7129 for ReLU. `gain("relu")` is sqrt(2) for both; `gain("gelu")` is 1.533530, backward 1.481114.

    Args:
        activation: a name (`relu`, `gelu`, ...), a module with the parameters it has now, which is not changed, or a
            function from tensor to tensor. PReLU with a slope per channel gives the pooled gain.
        direction: `forward` or `backward`.

    Raises:
        ValueError: unknown name or direction; an activation that mixes positions, changes the shape, is random, is not
            finite, or lets nothing through.
    """
    if direction not in ("forward", "backward"):
        raise ValueError(f"gain: unknown direction (got {direction!r}); allowed: forward, backward")
    phi = resolve(activation)
    if direction == "forward":
        return 1 / math.sqrt(require_signal(phi.name, phi.second(1.0)))
    moment = phi.slope_second(1.0)
    if moment == 0:
        raise ValueError(
            f"gain: {phi.name} has slope 0 almost everywhere (got E[phi'(z)^2] = 0), so no gradient passes it; "
            "only direction='forward' has a gain here"
        )
    return 1 / math.sqrt(moment)


@dataclass(frozen=True)
class ActivationMoments:
    """Gaussian moments of an activation phi(sqrt(q) z), z ~ N(0, 1), and what follows at its moment-preserving gain."""

    second_moment: float  # q, of the pre-activations
    mean: float  # E[phi]
    second: float  # E[phi^2]
    slope_second: float  # E[phi'^2], of the slope that autograd gives; a jump of phi counts nothing
    gain: float  # sqrt(q / E[phi^2]): keeps q
    chi_1: float  # factor of the gradient's second moment per square layer at that gain; 1 only for rectifiers
    slope: float  # of the q-map at q and that gain: E[phi phi' z] / E[phi^2] at q = 1

    @property
    def stable(self) -> bool | None:
        """Whether a small departure from q shrinks with depth; None where it stays (rectifiers; ReLU6 nearly)."""
        return None if abs(self.slope - 1) < 1e-6 else self.slope < 1


def activation_moments(activation: Activation, second_moment: float = 1.0) -> ActivationMoments:
    """Moments of an activation of pre-activations of this second moment, and the stability of its gain.

    The slope is that of the variance map q -> gain^2 E[phi(sqrt(q) z)^2] (Poole et al. 2016, eq. 3, without bias):
    1.144063 for GELU, so that a 30-layer net started at q = 0.9 falls to 1.2e-3, and 0.461067 for tanh, which returns.

    Raises:
        ValueError: as `gain`; a second moment that is not a positive number.
    """
    q = positive("activation_moments: second_moment", second_moment)
    phi = resolve(activation)
    second, slope_second = require_signal(phi.name, phi.second(q)), phi.slope_second(q)
    chi_1, slope = q * slope_second / second, q * phi.second_growth(q) / second
    return ActivationMoments(q, phi.mean(q), second, slope_second, math.sqrt(q / second), chi_1, slope)


def require_signal(name: str, second: float) -> float:
    """E[phi^2] if it is above zero."""
    if second == 0:
        raise ValueError(
            f"activation: {name} gives 0 almost everywhere (got E[phi(z)^2] = 0); "
            "an activation has to let something through, or no gain keeps the signal"
        )
    return second


def positive(name: str, value: float, *, or_zero: bool = False) -> float:
    """The value if it is a positive, finite number, or 0 where that is allowed."""
    if not (math.isfinite(value) and (value > 0 or (or_zero and value == 0))):
        allowed = "from 0 on" if or_zero else "above 0"
        raise ValueError(f"{name} is out of range (got {value}); allowed: a finite number {allowed}")
    return float(value)
