"""Where a function of one variable jumps, or its slope or curvature does: searched for by scanning and bisecting.

Quadrature splits its panels there. A kink reported wrongly costs an additional panel, so the thresholds are generous.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Derivatives = Callable[[Array], Sequence[Array]]

# The scan goes over |x| from 1e-6 to 64, each octave in this many cells.
OCTAVES, CELLS = range(-20, 6), 256
# A step is suspicious if it differs this much, relatively, from those beside it, and a jump if this much of it remains
# in a cell as narrow as float64 can tell. Changes below the noise, relative to the greatest value over +-4, are
# rounding (1 - tanh^2 far out).
SUSPICIOUS, JUMP, NOISE = 1e-5, 1e-6, 1e-9


def find_kinks(derivatives: Derivatives) -> tuple[Array, Array]:
    """(every kink, those at which the function itself jumps), sorted, for |x| <= 64.

    `derivatives` gives the function, its slope and perhaps its curvature, as arrays like x. Of two kinks in one cell
    (relative width 1/256) only the greater is reported; hardtanh's are -1 and 1.
    """
    positive = np.concatenate([np.linspace(2.0**i, 2.0 ** (i + 1), CELLS, endpoint=False) for i in OCTAVES])
    grid = np.concatenate([-positive[::-1], [0.0], positive])
    places = []
    # Far out, and at a pole, a function may be infinite; where that matters it is checked later.
    with np.errstate(all="ignore"):
        for order, level in enumerate(derivatives(grid)):
            central = np.abs(level[(np.abs(grid) <= 4) & np.isfinite(level)])
            noise = NOISE * float(central.max(initial=0.0))
            # Cells i (from grid point i to i + 1) over which the level changes otherwise than over the two beside.
            steps = np.diff(level)
            bent = np.abs(steps[1:-1] - (steps[:-2] + steps[2:]) / 2)
            size = np.abs(level[1:-2]) + np.abs(level[2:-1])
            cells = np.flatnonzero(bent > SUSPICIOUS * size + noise) + 1
            places.append(bisect(derivatives, order, grid[cells], grid[cells + 1], noise))
    return distinct(np.concatenate(places)), distinct(places[0])


def bisect(derivatives: Derivatives, order: int, low: Array, high: Array, noise: float) -> Array:
    """Where this derivative jumps, once per cell at most: each cell is halved towards its greater change."""
    if low.size == 0:
        return low
    at_low, at_high = derivatives(low)[order], derivatives(high)[order]
    size = np.maximum(np.maximum(np.abs(at_low), np.abs(at_high)), np.abs(at_high - at_low))
    # 80 halvings lead from 1/4 to the last bit, or to 1e-24 at zero.
    for _ in range(80):
        middle = (low + high) / 2
        at_middle = derivatives(middle)[order]
        left = np.abs(at_middle - at_low) > np.abs(at_high - at_middle)
        low, at_low = np.where(left, low, middle), np.where(left, at_low, at_middle)
        high, at_high = np.where(left, middle, high), np.where(left, at_middle, at_high)
    return np.asarray(high[np.abs(at_high - at_low) > JUMP * size + noise])


def distinct(places: Array) -> Array:
    """Sorted, one for those that differ in the last digits only; what was bisected towards zero is zero."""
    places = np.sort(np.where(np.abs(places) < 1e-20, 0.0, places))
    return places[np.diff(places, prepend=-np.inf) > 1e-12 * (1 + np.abs(places))]
