"""Mean field of pooling: maxima and averages over windows of phi of normals that are correlated alike."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import log_ndtr
from torch import Tensor

from initlab.init.expectations import Rectifier
from initlab.signal.theory.chains import MEANS
from initlab.signal.theory.field import Array, Field, NoRule, Pairs
from initlab.signal.theory.meanfield import Context, Gradient, Result, Signal, on_map
from initlab.signal.theory.response import HERMITE, POINTS, SMALLEST, Response
from initlab.signal.theory.trace import Operation

# A map -> its averages over windows.
Averaging = Callable[[Tensor], Tensor]


def max_moments(response: Response, members: int, near: float) -> tuple[Array, Array, Array]:
    """E[phi(M)], E[phi(M)^2] and E[phi'(M)^2] given what the window's members share, on the grid of `response`.

    M is the greatest of `members` normals of correlation `near`: sqrt(near) w + sqrt(1 - near) times the greatest of
    independent ones. phi is taken to be increasing where it matters, at the maxima.
    """
    shared = np.zeros(1) if near <= 0 else math.sqrt(near) * POINTS
    s = np.linspace(-8.0, 10.0, 18001 if near <= 0 else 361)
    # Shifted, so that a kink at 0 lies between two points.
    s = s + (s[1] - s[0]) / 2
    density = members * np.exp(-(s**2) / 2 + (members - 1) * log_ndtr(s)) / math.sqrt(2 * math.pi) * (s[1] - s[0])
    phi, slope = response.at(shared[:, None] + math.sqrt(1 - max(near, 0.0)) * s)
    return phi @ density, phi**2 @ density, slope**2 @ density


def max_pool(op: Operation, x: Signal, average: Averaging, counts: Tensor) -> Result:
    """The greatest of each window; `average` averages a map over the same windows, `counts` are their sizes."""
    f = x.field
    response = x.response or Response(Rectifier("linear", (1.0,)), max(f.level, SMALLEST), f.mean)
    normals = f.c if x.normals is None else x.normals
    latent = normals.each(response.inner)
    # A signal that is 0 has no correlations: nothing of it is shared.
    near = float(np.clip(np.nan_to_num(latent.near), 0.0, 1 - 1e-6))
    # Gives a function's coefficients over what the members share; its mean is the first.
    basis = HERMITE if near > 0 else np.ones((1, 1))
    before, slope = response.second(), response.second(order=1)
    if before == 0 or slope == 0:
        raise NoRule(op.function, "an activation that is 0 or constant where its signal lies")
    factor, slope_factor = torch.zeros_like(counts), torch.zeros_like(counts)
    for members in counts.unique().tolist():
        moments = max_moments(response, int(members), near)
        first, second, slope_second = (float(basis[0] @ moment) for moment in moments)
        factor[counts == members] = second / before
        slope_factor[counts == members] = slope_second / (members * slope)
    shared = (latent / near).within_limits(-1, 1) if near > 0 else Pairs.alike(0.0)
    # Two windows whose shared parts are correlated: Mehler's sum.
    energies = (basis @ moments[0]) ** 2
    c = (shared.each(lambda c: (c[:, None] ** np.arange(len(energies))) @ energies) / second).clipped()
    averaged, transposed = torch.func.vjp(average, on_map(f.q, op.in_shapes[0][2:]))[:2]
    q = averaged * factor
    signal = Signal(Field(q, c, first / math.sqrt(second), q.numel(), f.channels, f.spread), x.noise, axis=x.axis)

    def pull(g: Gradient) -> list[Gradient | None]:
        """One member of each window gets its gradient: `average` backward divides by the window's size itself."""
        (back,) = transposed(on_map(g.q, q.shape) * slope_factor * counts)
        # How often two windows choose the same member: 1/size where they are independent, always where they are alike.
        alike = normals.within_limits(0, 1)
        keep = (1 - alike) / float(counts.mean()) + alike
        return [Gradient(back, g.c * keep, g.spread * keep**2, g.noise, radial=g.radial)]

    return signal, pull


def average_pool(op: Operation, x: Signal, average: Averaging, counts: Tensor) -> Result:
    """The mean of each window: its members' squares over m, and their products."""
    f, members = x.field, float(counts.mean())
    in_window = f.c.within if members > f.positions / 2 else f.c.near
    factor = 1 / members + (1 - 1 / members) * in_window
    averaged, transposed = torch.func.vjp(average, on_map(f.q, op.in_shapes[0][2:]))[:2]
    q = averaged * factor
    same_place = f.c.same_place / members + (1 - 1 / members) * f.c.elsewhere
    c = (replace(f.c, same_place=same_place) / factor).clipped()
    mean = averaged_mean(f, factor)
    signal = Signal(Field(q, c, mean, q.numel(), f.channels, averaged_spread(f, factor, members)), x.noise, axis=x.axis)

    def pull(g: Gradient) -> list[Gradient | None]:
        """The members of a window share its gradient out and get the same."""
        (back,) = transposed(on_map(g.q, q.shape) / counts)
        return [replace(g, q=back, c=shared_out(g.c, members, f.positions), fresh=None, parts=())]

    return signal, pull


def averaged_mean(f: Field, factor: float) -> float:
    """The common mean of averages of which `factor` of the square is left: what examples have in common at most."""
    common = math.copysign(math.sqrt(min(f.mean**2, max(f.c.elsewhere, 0.0))), f.mean)
    return float(np.clip(common / math.sqrt(max(factor, 1e-12)), -1, 1))


def averaged_spread(f: Field, factor: float, members: float) -> Pairs:
    """Spread of the correlations of averages, in which the common mean's share has grown.

    That of what varies about the mean stays; levels of positions with correlation r follow each other with r^2.
    """
    before, after = averaged_mean(f, 1.0) ** 2, averaged_mean(f, factor) ** 2
    moving = max(1 - before, 1e-12)
    alike = min(((f.c.within - before) / moving) ** 2, 1.0)
    itself = f.spread.itself * (1 / members + (1 - 1 / members) * alike)
    return replace(f.spread * ((1 - after) / moving) ** 2, itself=itself)


def adaptive_windows(op: Operation, shape: tuple[int, ...]) -> tuple[Averaging, Tensor]:
    """Windows of an output size: n positions in m windows, the i-th from floor(i n/m) to ceil((i+1) n/m)."""
    size = op.argument(1, "output_size")
    outs = [size] * len(shape) if isinstance(size, int) else list(size)
    sides = [n if out is None else int(out) for n, out in zip(shape, outs, strict=True)]
    counts = torch.ones((), dtype=torch.float64)
    for n, m in zip(shape, sides, strict=True):
        counts = counts[..., None] * torch.tensor([-(-(i + 1) * n // m) - i * n // m for i in range(m)])
    return lambda q: ADAPTIVE_AVERAGES[len(shape) - 1](q[None, None], sides)[0, 0], counts


def fixed_windows(op: Operation, shape: tuple[int, ...]) -> tuple[Averaging, Tensor]:
    """Windows of a kernel; what lies in the padding does not count."""
    is_average = op.function in AVERAGES
    if is_average and op.argument(6, "divisor_override") is not None:
        raise NoRule(op.function, f"divisor_override = {op.argument(6, 'divisor_override')}")
    if not is_average and (dilation := op.argument(4, "dilation", 1)) not in (1, (1,) * len(shape)):
        raise NoRule(op.function, f"dilation = {dilation}")
    kernel, stride = op.argument(1, "kernel_size"), op.argument(2, "stride") or None
    window = (kernel, stride, op.argument(3, "padding", 0), op.argument(4 if is_average else 5, "ceil_mode", False))
    pool = AVERAGES[len(shape) - 1]
    whole = math.prod([kernel] * len(shape) if isinstance(kernel, int) else kernel)
    counts = (pool(torch.ones((1, 1, *shape), dtype=torch.float64), *window, True)[0, 0] * whole).round()
    return lambda q: pool(q[None, None], *window, False)[0, 0], counts


AVERAGES: tuple[Any, ...] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
ADAPTIVE_AVERAGES: tuple[Any, ...] = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
MAXIMA = {F.max_pool1d, F.max_pool2d, F.max_pool3d, torch.max_pool1d, torch.max_pool2d, torch.max_pool3d}
ADAPTIVE_MAXIMA = {F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d}
ADAPTIVE = {*ADAPTIVE_AVERAGES, *ADAPTIVE_MAXIMA}
POOLS = {*AVERAGES, *MAXIMA, *ADAPTIVE}


def pool(context: Context, op: Operation, x: Signal) -> Result:
    """Any of torch's pooling functions."""
    dimensions, in_shape = int(op.function.__name__.removesuffix("d")[-1]), op.in_shapes[0]
    if len(in_shape) != dimensions + 2:
        raise NoRule(op.function, f"an input without a batch (got shape {in_shape})")
    windows = adaptive_windows if op.function in ADAPTIVE else fixed_windows
    average, counts = windows(op, in_shape[2:])
    kind = max_pool if op.function in MAXIMA | ADAPTIVE_MAXIMA else average_pool
    return kind(op, x, average, counts)


def shared_out(c: Pairs, members: float, positions: int) -> Pairs:
    """Correlations of a gradient of which so many members of each window get the same."""
    # The share of pairs of positions that lie in one window.
    together = min((members - 1) / max(positions - 1, 1), 1.0)
    within = together + (1 - together) * c.within
    elsewhere = together * c.same_place + (1 - together) * c.elsewhere
    return replace(c, near=1.0, within=within, elsewhere=elsewhere)


def reduced(context: Context, op: Operation, x: Signal) -> Result:
    """A mean or sum over positions: of m of them 1/m of the squares, and the products of all pairs."""
    f, shape, rank = x.field, op.in_shapes[0], len(op.in_shapes[0])
    dims = op.argument(1, "dim")
    keepdim = bool(op.argument(2, "keepdim", False))
    sides = {d % rank for d in ([dims] if isinstance(dims, int) else dims or [])}
    if not sides or 0 in sides or x.axis % rank in sides:
        raise NoRule(op.function, f"dim = {dims}, which are not positions alone")
    members = math.prod(shape[d] for d in sides)
    factor = 1 / members + (1 - 1 / members) * f.c.within
    scale = 1.0 if op.function in MEANS else float(members)
    same_place = f.c.same_place / members + (1 - 1 / members) * f.c.elsewhere
    c = (replace(f.c, near=f.c.within, same_place=same_place) / max(factor, 1e-12)).clipped()
    positions = max(f.positions // members, 1)
    axis = x.axis if keepdim else x.axis + sum(d > x.axis % rank for d in sides)
    q = (f.q.mean() * factor * scale**2).expand(op.shape[2:] if axis == 1 - len(op.shape) else ())
    mean = averaged_mean(f, factor)
    signal = Signal(Field(q, c, mean, positions, f.channels, averaged_spread(f, factor, members)), x.noise, axis=axis)

    def pull(g: Gradient) -> list[Gradient | None]:
        """All members get the same."""
        back = (g.q.mean() * (scale / members) ** 2).expand(f.q.shape)
        return [replace(g, q=back, c=shared_out(g.c, members, f.positions), fresh=None, parts=())]

    return signal, pull
