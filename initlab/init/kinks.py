"""Where a function of one variable jumps, or its slope or curvature does: found by scanning and bisecting.

Quadrature splits its panels there. A false find costs an additional panel, so the thresholds are generous.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

OCTAVES = range(-20, 6)  # |x| from 1e-6 to 64
CELLS = 256  # per octave: 1/256 apart between 1 and 2
SUSPICIOUS = 1e-5  # a step that differs so much, relatively, from those beside it
JUMP = 1e-6  # what must be left of it, relatively, when the cell is as narrow as float64 can tell
NOISE = 1e-9  # changes below this part of the greatest value over +-4 are rounding (1 - tanh^2 far out)


def find_kinks(derivatives: Callable[[Array], Sequence[Array]]) -> tuple[Array, Array]:
    """(every kink, those at which the function itself jumps), sorted, for |x| <= 64.

    Args:
        derivatives: gives the function, its slope and perhaps its curvature, as arrays like x.

    Of two kinks in one cell (relative width 1/256) only the greater is found; hardtanh's are -1 and 1.
    """
    positive = np.concatenate([np.linspace(2.0**i, 2.0 ** (i + 1), CELLS, endpoint=False) for i in OCTAVES])
    grid = np.concatenate([-positive[::-1], [0.0], positive])
    found = []
    with np.errstate(all="ignore"):  # far out, and at a pole, a function may be inf; what matters is checked later
        for order, level in enumerate(derivatives(grid)):
            central = np.abs(level[(np.abs(grid) <= 4) & np.isfinite(level)])
            noise = NOISE * float(central.max(initial=0.0))
            cells = suspicious_cells(level, noise)
            found.append(bisect(partial(nth, derivatives, order), grid[cells], grid[cells + 1], noise))
    return distinct(np.concatenate(found)), distinct(found[0])


def nth(derivatives: Callable[[Array], Sequence[Array]], order: int, x: Array) -> Array:
    """The derivative of this order alone."""
    return derivatives(x)[order]


def suspicious_cells(level: Array, noise: float) -> NDArray[np.intp]:
    """Cells i (from grid point i to i + 1) over which `level` changes otherwise than over the two beside."""
    steps = np.diff(level)
    bent = np.abs(steps[1:-1] - (steps[:-2] + steps[2:]) / 2)
    size = np.abs(level[1:-2]) + np.abs(level[2:-1])
    return np.flatnonzero(bent > SUSPICIOUS * size + noise) + 1


def bisect(function: Callable[[Array], Array], low: Array, high: Array, noise: float) -> Array:
    """The places, one per cell at most, where the function jumps: each cell is halved towards its greater change."""
    if low.size == 0:
        return low
    at_low, at_high = function(low), function(high)
    size = np.maximum(np.maximum(np.abs(at_low), np.abs(at_high)), np.abs(at_high - at_low))
    for _ in range(80):  # from 1/4 to the last bit, or to 1e-24 at zero
        middle = (low + high) / 2
        at_middle = function(middle)
        left = np.abs(at_middle - at_low) > np.abs(at_high - at_middle)
        low, at_low = np.where(left, low, middle), np.where(left, at_low, at_middle)
        high, at_high = np.where(left, middle, high), np.where(left, at_middle, at_high)
    places: Array = high[np.abs(at_high - at_low) > JUMP * size + noise]
    return places


def distinct(places: Array) -> Array:
    """Sorted, one for those that differ in the last digits only; what was bisected towards zero is zero."""
    places = np.sort(np.where(np.abs(places) < 1e-20, 0.0, places))
    return places[np.diff(places, prepend=-np.inf) > 1e-12 * (1 + np.abs(places))]
