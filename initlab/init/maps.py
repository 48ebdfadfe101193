"""Mean field at initialisation: how second moment and correlation go from layer to layer in a wide net.

q is the second moment of the pre-activations, c the correlation (cosine) of those of two inputs, in a net with weights
of variance gain^2/fan_in and biases of variance `bias_variance` (Poole et al. 2016; Schoenholz et al. 2017). Where
chi_1, the factor of the gradient's second moment per layer, is 1, signals reach deepest: the critical line.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy.optimize import brentq

from initlab.init.activations import Activation, resolve
from initlab.init.expectations import Elementwise, Rectifier
from initlab.init.gains import positive, require_signal

# A second moment that falls or grows beyond these goes to 0 or to infinity.
SMALL, LARGE = 1e-12, 1e12
# This stands for the limit q -> 0.
ZERO = 1e-24


@dataclass(frozen=True)
class FixedPoint:
    """Where a wide net of this activation, gain and bias variance settles with depth."""

    q: float  # second moment; 0 or inf where the signal vanishes or explodes
    chi_1: float  # gradient's factor per layer there: below 1 ordered, above 1 chaotic; NaN at inf
    c: float  # correlation on which any two inputs settle; NaN where q is 0 or inf
    depth_scale: float  # layers over which a departure of c (of q, where that is 0) falls by e; inf where chi_1 is 1


def q_map(activation: Activation, q: float, gain: float, *, bias_variance: float = 0.0) -> float:
    """One layer of the second moment: gain^2 E[phi(sqrt(q) z)^2] + bias_variance (Poole et al. 2016, eq. 3).

    `q_map("relu", 3.0, math.sqrt(2))` is 3: He's gain keeps any q. `q_map("tanh", 1.0, 1.0)` is 0.394294.

    Raises:
        ValueError: an activation that `gain` refuses; a number out of range.
    """
    phi, q, gain = resolve(activation), positive("q_map: q", q, or_zero=True), positive("q_map: gain", gain)
    bias_variance = positive("q_map: bias_variance", bias_variance, or_zero=True)
    return gain**2 * phi.second(q) + bias_variance


def c_map(
    activation: Activation, c: float, *, q: float = 1.0, gain: float | None = None, bias_variance: float = 0.0
) -> float:
    """One layer of the correlation of two inputs, both of second moment q (Poole et al. 2016, eq. 5).

    For ReLU (sqrt(1 - c^2) + c (pi - acos c)) / pi, so that `c_map("relu", 0.0)` is 1/pi. Any other activation takes
    two-dimensional quadrature.

    Args:
        c: in [-1, 1]; the cosine, not centred.
        gain: matters only beside biases; None is the one that keeps q.
        bias_variance: the biases are common to both inputs.

    Raises:
        ValueError: as `q_map`.
    """
    if not -1 <= c <= 1:
        raise ValueError(f"c_map: c is out of range (got {c}); allowed: a correlation between -1 and 1")
    phi, q = resolve(activation), positive("c_map: q", q)
    factor = q / require_signal(phi.name, phi.second(q)) if gain is None else positive("c_map: gain", gain) ** 2
    return next_c(phi, c, q, factor, positive("c_map: bias_variance", bias_variance, or_zero=True))


def fixed_point(activation: Activation, gain: float, *, bias_variance: float = 0.0, start: float = 1.0) -> FixedPoint:
    """Where second moment and correlation settle with depth, from a first second moment `start`.

    tanh under torch's gain 5/3 settles on q = 1.178480 with chi_1 = 1.209831: chaotic, so that gradients grow 303-fold
    over 30 layers. Near it c departs as exp(-layers / depth_scale) (Schoenholz et al. 2017, eq. 9). q is the fixed
    point next to `start` in the direction in which the map takes it, in steps of a factor 2; `start` itself where
    the map keeps it, as for rectifiers under their own gain.

    Raises:
        ValueError: as `q_map`; an activation with jumps, whose correlation has no finite slope at c = 1.
    """
    phi, factor = resolve(activation), positive("fixed_point: gain", gain) ** 2
    bias_variance = positive("fixed_point: bias_variance", bias_variance, or_zero=True)
    if phi.jumps:
        raise ValueError(f"fixed_point: {phi.name} jumps, so chi_1 is infinite; allowed: a continuous activation")
    q = settled(lambda q: factor * phi.second(q) + bias_variance, positive("fixed_point: start", start))
    if q == math.inf:
        return FixedPoint(q, math.nan, math.nan, math.nan)
    chi_1 = factor * phi.slope_second(q or ZERO)
    if q == 0:
        return FixedPoint(q, chi_1, math.nan, depth_scale(chi_1))
    c = settled_correlation(lambda c: next_c(phi, c, q, factor, bias_variance), chi_1)
    return FixedPoint(q, chi_1, c, depth_scale(chi_1 if c == 1 else factor * phi.slope_pair(q, c)))


def critical_point(activation: Activation, bias_variance: float) -> tuple[float, float]:
    """(gain, q): the gain that makes chi_1 = 1 at its own fixed point q (Schoenholz et al. 2017, sec. 3).

    For tanh (1, 0) without biases, and `critical_point("tanh", 0.05)` is (sqrt(1.760955), 0.570048).

    Raises:
        ValueError: no such point between q = 1e-8 and 1e4 (rectifiers with biases; softshrink without; hardshrink,
            which jumps).
    """
    phi, bias_variance = resolve(activation), positive("critical_point: bias_variance", bias_variance, or_zero=True)
    if bias_variance == 0 and phi.second(0.0) == 0 and (slope_at_zero := phi.slope_second(ZERO)) > 0:
        return 1 / math.sqrt(slope_at_zero), 0.0

    def excess(log_q: float) -> float:
        """Of q over the second moment after a layer with chi_1 = 1, relative to q."""
        q = math.exp(log_q)
        slope = phi.slope_second(q)
        # Where phi is flat around 0, as softshrink, E[phi^2] vanishes faster than E[phi'^2].
        return 1 - ((phi.second(q) / slope if slope else 0.0) + bias_variance) / q

    low, high = math.log(1e-8), math.log(1e4)
    if phi.jumps or excess(low) * excess(high) > 0:
        raise ValueError(
            f"critical_point: {phi.name} has none between q = 1e-8 and 1e4 (got bias_variance {bias_variance}); "
            "allowed: an activation that saturates, as tanh"
        )
    q = math.exp(brentq(excess, low, high, xtol=1e-13))
    return 1 / math.sqrt(phi.slope_second(q)), q


def next_c(phi: Rectifier | Elementwise, c: float, q: float, factor: float, bias_variance: float) -> float:
    """The correlation after one more layer, `factor` being gain^2."""
    return (factor * phi.pair(q, c) + bias_variance) / (factor * phi.second(q) + bias_variance)


def settled(step: Callable[[float], float], start: float) -> float:
    """The fixed point of `step` that lies next to `start` on the side to which it steps, perhaps 0 or infinity."""
    departure = step(start) - start
    if abs(departure) <= 1e-12 * start:
        return start
    factor = 2.0 if departure > 0 else 0.5
    before, q = start, start * factor
    while (step(q) - q) * departure > 0:
        if not SMALL < q < LARGE:
            return math.inf if departure > 0 else 0.0
        before, q = q, q * factor
    return float(brentq(lambda q: step(q) - q, min(before, q), max(before, q), xtol=1e-300, rtol=1e-13))


def settled_correlation(step: Callable[[float], float], chi_1: float) -> float:
    """The correlation in [0, 1] on which two inputs settle: 1 in the ordered phase, less in the chaotic one.

    The map is a power series with coefficients from 0 on, so in the chaotic phase it has one fixed point below 1.
    """
    most = 1 - 1e-9
    # Ordered, or so near the critical line that c can't be told from 1.
    if chi_1 <= 1 or step(most) >= most:
        return 1.0
    return 0.0 if step(0.0) < 1e-12 else float(brentq(lambda c: step(c) - c, 0.0, most, xtol=1e-13))


def depth_scale(slope: float) -> float:
    """Layers over which a small departure falls by e, -1/ln(slope); infinite from 1 on."""
    if slope <= 0:
        return 0.0
    return -1 / math.log(slope) if slope < 1 - 1e-9 else math.inf
