"""Expectations over standard normals, to about 1e-13, of functions that are smooth between known breaks.

`gaussian_mean` takes one normal, `pair_mean` two correlated ones. Both use Gauss-Legendre panels that end at the
breaks: Gauss-Hermite nodes straddle a kink (200 of them are 3.5 % off for hardtanh's backward moment), while panels
on either side of it converge as fast as for a polynomial. All panels of a pass are one call of the function, so an
expectation of a torch activation takes milliseconds.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from initlab.init.kinks import Array

Function = Callable[[Array], Array]
Breaks = Sequence[float] | Array

# Panels reach so many standard deviations out, where the density is 2e-32 and |f(z)| n(z) may be at most TAILS.
REACH = 12.0
# Relative to E|f|: the tails, the error of one panel, and that of a function with noise of its own (float32 inside).
TAILS, TOLERANCE, ROUGH = 1e-9, 1e-14, 1e-6
# The most panels in one pass, and the most points of a pair at once: 4 MB an array.
PANELS, POINTS = 20_000, 500_000
NODES, WEIGHTS = np.polynomial.legendre.leggauss(16)


def gaussian_mean(function: Function, breaks: Breaks = (), *, what: str = "E[f(z)]") -> float:
    """E[f(z)] for z ~ N(0, 1): panels between the breaks, halved until each agrees with its two halves.

    `gaussian_mean(lambda z: np.maximum(z, 0) ** 2)` is 0.5. The breaks are where the function, of flat float64 arrays,
    or a derivative jumps; 0 is always one. A missed break costs time, not accuracy. `what` is for the error.

    Raises:
        ValueError: it is infinite, or not settled within 12 standard deviations.
    """
    edges = panel_edges(breaks, step=1.0)
    low, high = edges[:-1], edges[1:]
    size = float(panel_sums(lambda z: np.abs(function(z)), low, high).sum())
    tails = density(REACH) * np.abs(function(np.array([-REACH, REACH]))).max()
    if not math.isfinite(size) or tails > TAILS * size:
        raise ValueError(f"{what} does not converge within {REACH:g} standard deviations; it has to be finite")
    coarse, total = panel_sums(function, low, high), 0.0
    # After 60 halvings a panel is as narrow as float64 can tell.
    for _ in range(60):
        middle = (low + high) / 2
        halves = np.stack([panel_sums(function, low, middle), panel_sums(function, middle, high)])
        errors = np.abs(halves.sum(axis=0) - coarse)
        rest = errors > TOLERANCE * size
        total += float(halves[:, ~rest].sum())
        low, middle, high = low[rest], middle[rest], high[rest]
        coarse, low, high = halves[:, rest].ravel(), np.concatenate([low, middle]), np.concatenate([middle, high])
        if len(low) == 0 or len(low) > PANELS:
            break
    if errors[rest].sum() > ROUGH * size:
        raise ValueError(f"{what} does not converge: the function is too rough, or has a pole; it has to be finite")
    return total + float(coarse.sum())


def pair_mean(function: Function, correlation: float, breaks: Breaks = (), *, what: str = "E[f(u) f(v)]") -> float:
    """E[f(u) f(v)] for standard normals u, v of this correlation; panels are halved until two passes agree.

    `pair_mean(lambda z: np.maximum(z, 0), 0.0)` is 1/(2 pi). Refuses what does not converge.
    """
    size = gaussian_mean(lambda z: function(z) ** 2, breaks, what=what)
    if correlation >= 1:
        return size
    if correlation <= -1:
        both = np.concatenate([np.asarray(breaks), -np.asarray(breaks)])
        return gaussian_mean(lambda z: function(z) * function(-z), both, what=what)
    value = math.nan
    for step in (2.0, 1.0, 0.5, 0.25, 0.125):
        before, value = value, pair_pass(function, correlation, breaks, step)
        if abs(value - before) <= 1e-13 * size:
            return value
    raise ValueError(f"{what} does not converge: the function is too steep; it has to be smooth over 1/8")


def pair_pass(function: Function, correlation: float, breaks: Breaks, step: float) -> float:
    """E[f(u) f(v)] with panels of at most this width.

    u = near a + far b and v = sign(c) (near a - far b), a and b independent, near >= far. The inner integral is over a:
    its breaks, where u or v meets one of f, stay well conditioned as c goes to 1. The outer integrand, in b, has breaks
    where two of those lines cross.
    """
    sign = math.copysign(1, correlation)
    near, far = math.sqrt((1 + abs(correlation)) / 2), math.sqrt((1 - abs(correlation)) / 2)
    kinks = panel_edges(breaks, step=REACH)[1:-1]
    # Rounded, so that differences that are equal but for the last digit give one edge.
    crossings = np.unique(np.round(np.subtract.outer(kinks, sign * kinks) / (2 * far), 12))
    grid = np.arange(-REACH, REACH + step / 2, step)

    def inner(b: Array) -> Array:
        """The integral over a for each b."""
        lines = np.concatenate([kinks - far * b[:, None], sign * kinks + far * b[:, None]], axis=1) / near
        rows = np.concatenate([np.tile(grid, (len(b), 1)), np.clip(lines, -REACH, REACH)], axis=1)
        edges = np.sort(rows, axis=1)
        shift = np.repeat(far * b, (edges.shape[1] - 1) * len(NODES))
        sums = panel_sums(
            lambda a: function(near * a + shift) * function(sign * (near * a - shift)), edges[:, :-1], edges[:, 1:]
        )
        return np.asarray(sums.sum(axis=1))

    def outer(b: Array) -> Array:
        """The same, in pieces that fit into memory."""
        pieces = math.ceil(b.size * (len(grid) + 2 * len(kinks)) * len(NODES) / POINTS)
        return np.concatenate([inner(piece) for piece in np.array_split(b, pieces)])

    edges = panel_edges(crossings, step=step)
    return float(panel_sums(outer, edges[:-1], edges[1:]).sum())


def panel_edges(breaks: Breaks, *, step: float) -> Array:
    """Sorted distinct edges over +-REACH: the breaks within, 0, and a grid of this step."""
    inside = np.asarray(breaks, dtype=np.float64)
    inside = inside[np.abs(inside) < REACH]
    return np.unique(np.concatenate([np.arange(-REACH, REACH + step / 2, step), [0.0], inside]))


def panel_sums(function: Function, low: Array, high: Array) -> Array:
    """Gauss-Legendre sums of f(z) n(z) over each panel [low, high]; the shape is theirs."""
    half = (high - low)[..., None] / 2
    nodes = (high + low)[..., None] / 2 + half * NODES
    values = function(nodes.reshape(-1)).reshape(nodes.shape)
    return np.asarray((half * WEIGHTS * density(nodes) * values).sum(axis=-1))


def density(z: Array | float) -> Array:
    """The standard normal density."""
    return np.asarray(np.exp(-0.5 * np.square(z)) / math.sqrt(2 * math.pi))
