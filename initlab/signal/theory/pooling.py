"""Mean field of pooling: maxima and averages over windows of phi of normals that are correlated alike."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import log_ndtr
from torch import Tensor

from initlab.init.expectations import Rectifier
from initlab.signal.theory.field import ELSEWHERE, NEAR, SAME, WITHIN, Array, Field
from initlab.signal.theory.meanfield import Gradient, Result, Signal, as_like, as_map, clipped
from initlab.signal.theory.response import HERMITE, POINTS, SMALLEST, Response
from initlab.signal.theory.trace import Operation

Averaging = Callable[[Tensor], Tensor]  # of a map, over windows


def max_moments(response: Response, members: int, near: float) -> tuple[Array, Array, Array]:
    """E[phi(M)], E[phi(M)^2] and E[phi'(M)^2] given what the window's members share, on the grid of `response`.

    M is the greatest of `members` normals of correlation `near`: sqrt(near) w + sqrt(1 - near) times the greatest of
    independent ones. phi is taken to be increasing where it matters, at the maxima.
    """
    shared = np.zeros(1) if near <= 0 else math.sqrt(near) * POINTS
    s = np.linspace(-8.0, 10.0, 18001 if near <= 0 else 361)
    s = s + (s[1] - s[0]) / 2  # a kink at 0 lies between two points
    density = members * np.exp(-(s**2) / 2 + (members - 1) * log_ndtr(s)) / math.sqrt(2 * math.pi) * (s[1] - s[0])
    phi, slope = response.at(shared[:, None] + math.sqrt(1 - max(near, 0.0)) * s)
    return phi @ density, phi**2 @ density, slope**2 @ density


def over_shared(values: Array) -> float:
    """Mean over what the members share."""
    return float(values[0] if len(values) == 1 else HERMITE[0] @ values)


def window_pair(values: Array, c: Array) -> Array:
    """E of the product over two windows whose shared parts have correlations c."""
    if len(values) == 1:
        return np.full_like(c, values[0] ** 2)
    energies = (HERMITE @ values) ** 2
    return (c[:, None] ** np.arange(len(energies))) @ energies


def max_pool(x: Signal, average: Averaging, counts: Tensor, in_shape: tuple[int, ...]) -> Result:
    """The greatest of each window; `average` averages a map over the same windows, `counts` are their sizes."""
    f = x.field
    response = x.response or Response(Rectifier("linear", (1.0,)), max(f.level, SMALLEST), f.mean)
    normals = f.c if x.normals is None else x.normals
    near = float(np.clip((response.inner(normals))[NEAR], 0.0, 1 - 1e-6))
    before, slope = response.second(), response.slope_second()
    factor, on = torch.zeros_like(counts), torch.zeros_like(counts)
    for members in counts.unique().tolist():
        first, second, kept = max_moments(response, int(members), near)
        factor[counts == members] = over_shared(second) / before
        on[counts == members] = over_shared(kept) / (members * slope)
    shared = np.clip(response.inner(normals) / near, -1, 1) if near > 0 else np.zeros(5)
    level = over_shared(second)
    c = clipped(window_pair(first, shared) / level)
    source_map = as_map(f.q, in_shape).detach().requires_grad_()
    with torch.enable_grad():
        averaged = average(source_map)
    q = averaged.detach() * factor
    signal = Signal(Field(q, c, over_shared(first) / math.sqrt(level), q.numel(), f.channels, f.spread), x.noise)

    def pull(g: Gradient) -> list[Gradient]:
        # one member of each window gets its gradient: `average` backward divides by the window's size itself
        (back,) = torch.autograd.grad(averaged, source_map, as_like(g.q, q) * on * counts, retain_graph=True)
        same = np.clip(normals, 0, 1)  # how often two windows of such correlation choose the same member, about
        keep = (1 - same) / float(counts.mean()) + same
        return [Gradient(back, g.c * keep, g.spread * keep**2, g.noise)]

    return signal, pull


def average_pool(x: Signal, average: Averaging, counts: Tensor, in_shape: tuple[int, ...]) -> Result:
    """The mean of each window: its members' squares over m, and their products."""
    f, members = x.field, float(counts.mean())
    inside = f.c[WITHIN] if members > f.positions / 2 else f.c[NEAR]
    kept = 1 / members + (1 - 1 / members) * inside
    source_map = as_map(f.q, in_shape).detach().requires_grad_()
    with torch.enable_grad():
        averaged = average(source_map)
    q = averaged.detach() * kept
    c = f.c.copy()
    c[SAME] = f.c[SAME] / members + (1 - 1 / members) * f.c[ELSEWHERE]
    c = clipped(c / kept)
    signal = Signal(Field(q, c, min(f.mean / math.sqrt(kept), 1.0), q.numel(), f.channels, f.spread), x.noise)

    def pull(g: Gradient) -> list[Gradient]:
        (back,) = torch.autograd.grad(averaged, source_map, as_like(g.q, q) / counts, retain_graph=True)
        together = min((members - 1) / max(f.positions - 1, 1), 1.0)  # pairs of positions in one window
        return [Gradient(back, shared_out(g.c, together), g.spread, g.noise)]

    return signal, pull


def shared_out(values: Array, together: float) -> Array:
    """Pairs of a gradient that a window shares out: its members get the same."""
    out = values.copy()
    out[NEAR] = 1.0
    out[WITHIN] = together + (1 - together) * values[WITHIN]
    out[ELSEWHERE] = together * values[SAME] + (1 - together) * values[ELSEWHERE]
    return out


def windows(op: Operation, shape: tuple[int, ...]) -> tuple[Averaging, Tensor]:
    """(averaging over the same windows, their sizes) of a pooling call on maps of this shape."""
    return adaptive_windows(op, shape) if op.function in ADAPTIVE else fixed_windows(op, shape)


def adaptive_windows(op: Operation, shape: tuple[int, ...]) -> tuple[Averaging, Tensor]:
    """Windows of a number that is asked for: n positions in m windows, the i-th from floor(i n/m) to (i+1) n/m."""
    asked = op.args[1] if len(op.args) > 1 else op.kwargs["output_size"]
    outs = [asked] * len(shape) if isinstance(asked, int) else list(asked)
    counts = torch.ones((), dtype=torch.float64)
    sides = []
    for n, out in zip(shape, outs, strict=True):
        m = n if out is None else int(out)
        sides.append(m)
        counts = counts[..., None] * torch.tensor([-(-(i + 1) * n // m) - i * n // m for i in range(m)])
    pool: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[len(shape) - 1]
    return lambda q: pool(q[None, None], sides)[0, 0], counts


def fixed_windows(op: Operation, shape: tuple[int, ...]) -> tuple[Averaging, Tensor]:
    """Windows of a kernel; what lies in the padding does not count."""
    names = ["kernel_size", "stride", "padding", "dilation", "ceil_mode"]
    if op.function in AVERAGES:
        names.remove("dilation")
    options = dict(zip(names, op.args[1:], strict=False)) | {k: v for k, v in op.kwargs.items() if k in names}
    kernel = options.pop("kernel_size")
    options = {
        "stride": options.get("stride") or None,
        "padding": options.get("padding", 0),
        "ceil_mode": options.get("ceil_mode", False),
    }
    pool: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(shape) - 1]
    whole = math.prod([kernel] * len(shape) if isinstance(kernel, int) else kernel)
    ones = torch.ones((1, 1, *shape), dtype=torch.float64)
    counts = (pool(ones, kernel, **options, count_include_pad=True)[0, 0] * whole).round()
    return lambda q: pool(q[None, None], kernel, **options, count_include_pad=False)[0, 0], counts


AVERAGES = {F.avg_pool1d, F.avg_pool2d, F.avg_pool3d}
ADAPTIVE_AVERAGES = {F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d}
MAXIMA = {F.max_pool1d, F.max_pool2d, F.max_pool3d, torch.max_pool1d, torch.max_pool2d, torch.max_pool3d}
ADAPTIVE_MAXIMA = {F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d}
ADAPTIVE = ADAPTIVE_AVERAGES | ADAPTIVE_MAXIMA
POOLS = AVERAGES | MAXIMA | ADAPTIVE


def pool(op: Operation, x: Signal, in_shape: tuple[int, ...]) -> Result:
    """Any of torch's pooling functions."""
    average, counts = windows(op, in_shape[2:])
    kind = max_pool if op.function in MAXIMA | ADAPTIVE_MAXIMA else average_pool
    return kind(x, average, counts, in_shape)
