"""Gaussian expectations of an activation: the seven numbers of which gains and maps are made.

Both classes here give the same expectations of phi(sqrt(q) z), z ~ N(0, 1), and of pairs: `Rectifier` in closed form,
`Elementwise` for any function, by quadrature in float64 split at its kinks, which are searched for.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from initlab.init.kinks import Array, find_kinks
from initlab.init.quadrature import gaussian_mean, pair_mean

TensorFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rectifier:
    """phi(x) = x above zero, a x below; expectations are pooled over `slopes`, one a per channel.

    Closed forms: He et al. 2015, eq. 15 for the second moment; Cho and Saul 2009, eq. 6 (arc-cosine kernel) for pairs.
    """

    name: str
    slopes: tuple[float, ...]
    jumps: ClassVar[bool] = False  # whether phi itself is discontinuous

    @property
    def a(self) -> float:
        """Mean slope."""
        return math.fsum(self.slopes) / len(self.slopes)

    @property
    def a_squared(self) -> float:
        """Mean squared slope."""
        return math.fsum(a * a for a in self.slopes) / len(self.slopes)

    def mean(self, q: float) -> float:
        """E[phi]; sqrt(q / (2 pi)) for ReLU."""
        return (1 - self.a) * math.sqrt(q / (2 * math.pi))

    def second(self, q: float) -> float:
        """E[phi^2]; q/2 for ReLU."""
        return q * (1 + self.a_squared) / 2

    def slope_second(self, q: float) -> float:
        """E[phi'^2], and d E[phi^2] / dq, since E[phi^2] is proportional to q."""
        return (1 + self.a_squared) / 2

    second_growth = slope_second

    def pair(self, q: float, c: float) -> float:
        """E[phi(sqrt(q) u) phi(sqrt(q) v)] for normals of correlation c; q / (2 pi) for ReLU at c = 0."""
        # E|u v|, with (1 - c) (1 + c), since 1 - c^2 loses digits near 1.
        kernel = (math.sqrt((1 - c) * (1 + c)) + c * math.asin(c)) * 2 / math.pi
        even, odd = self.parts()
        return q * (odd * c + even * kernel)

    def slope_pair(self, q: float, c: float) -> float:
        """E[phi'(sqrt(q) u) phi'(sqrt(q) v)]; (pi - acos c) / (2 pi) for ReLU."""
        even, odd = self.parts()
        return odd + even * math.asin(c) * 2 / math.pi

    def parts(self) -> tuple[float, float]:
        """Mean squared coefficients of |x| and of x in phi."""
        return (1 - 2 * self.a + self.a_squared) / 4, (1 + 2 * self.a + self.a_squared) / 4


@dataclass(frozen=True, eq=False)
class Elementwise:
    """Any elementwise function of a tensor, as expectations by quadrature; the names mean what `Rectifier`'s do."""

    name: str
    function: TensorFunction

    def derivatives(self, x: Array, order: int) -> list[Array]:
        """[phi, phi', ...] at x, by autograd; where nothing depends on x, as in `torch.sign`, the slope is 0."""
        with torch.inference_mode(False), torch.enable_grad():
            points = torch.from_numpy(x.copy()).reshape(-1, 1).requires_grad_()
            # A clone, since phi may work in place.
            levels = [self.function(points.clone()).double()]
            for _ in range(order):
                slope = None
                if levels[-1].requires_grad:
                    (slope,) = torch.autograd.grad(levels[-1].sum(), points, create_graph=True, allow_unused=True)
                levels.append(torch.zeros_like(points) if slope is None else slope)
        return [level.detach().numpy().reshape(x.shape) for level in levels]

    def finite(self, x: Array, order: int) -> Array:
        """The derivative of this order at x, all numbers."""
        try:
            values = self.derivatives(x, order)[order]
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"activation: {self.name} can't be differentiated (got {reason}); its slope needs torch's autograd"
            ) from error
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            what = "phi" + "'" * order
            raise ValueError(
                f"activation: {self.name} is not finite (got {what}({x[bad[0]]:.4g}) = {values[bad[0]]}); "
                "an activation has to be a finite number wherever the signal reaches"
            )
        return values

    @cached_property
    def kinks(self) -> tuple[Array, Array]:
        """(all kinks, those where phi itself jumps), in x."""
        for order in (2, 1):
            try:
                return find_kinks(partial(self.derivatives, order=order))
            # The function can't be differentiated so often; lower derivatives show most kinks too.
            except RuntimeError:
                continue
        return find_kinks(partial(self.derivatives, order=0))

    @property
    def jumps(self) -> bool:
        """As `Rectifier`."""
        return self.kinks[1].size > 0

    def expect(self, q: float, what: str, integrand: Callable[[Array, Array], Array], order: int = 0) -> float:
        """E[integrand(z, phi^(order)(sqrt(q) z))]."""
        scale, what = math.sqrt(q), f"activation: {what} of {self.name}"
        breaks = self.kinks[0] / scale if scale else ()
        return gaussian_mean(lambda z: integrand(z, self.finite(scale * z, order)), breaks, what=what)

    def mean(self, q: float) -> float:
        """As `Rectifier`."""
        return self.expect(q, "E[phi(z)]", lambda z, phi: phi)

    def second(self, q: float) -> float:
        """As `Rectifier`."""
        return self.expect(q, "E[phi(z)^2]", lambda z, phi: phi**2)

    def second_growth(self, q: float) -> float:
        """By Stein's lemma, which holds where phi jumps too: d E[f(sqrt(q) z)] / dq = E[(z^2 - 1) f] / (2 q)."""
        return self.expect(q, "E[z^2 phi(z)^2]", lambda z, phi: (z**2 - 1) * phi**2) / (2 * q)

    def slope_second(self, q: float) -> float:
        """As `Rectifier`."""
        return self.expect(q, "E[phi'(z)^2]", lambda z, slope: slope**2, order=1)

    def pair(self, q: float, c: float) -> float:
        """As `Rectifier`."""
        return self.expect_pair(q, c, "E[phi(u) phi(v)]", order=0)

    def slope_pair(self, q: float, c: float) -> float:
        """As `Rectifier`."""
        return self.expect_pair(q, c, "E[phi'(u) phi'(v)]", order=1)

    def expect_pair(self, q: float, c: float, what: str, order: int) -> float:
        """E of the product of one derivative at sqrt(q) u and at sqrt(q) v."""
        scale = math.sqrt(q)
        breaks = self.kinks[0] / scale if scale else np.zeros(1)
        return pair_mean(lambda z: self.finite(scale * z, order), c, breaks, what=f"activation: {what} of {self.name}")
