"""Kernels: mean products, over channels, of pairs of (example, step), for rules that tell steps apart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from initlab.signal.theory.field import Field, Pairs
from initlab.signal.theory.scatter import Noise

# Examples of a batch that are followed at once, and examples x steps.
EXAMPLES, POINTS = 8, 128
# How many choices of them are tried, by their products at so many steps.
TRIES, TRIED_STEPS = 512, 16
# Of a sequence's positions as many tell how its words repeat.
MOST_STEPS = 64


@dataclass(frozen=True)
class Steps:
    """What a signal or gradient does at each step: `within` one example and `across` two, both (steps, steps)."""

    within: Tensor
    across: Tensor
    axis: int  # the tensor's dimension of steps, counted from the end
    noise: Callable[[Sequence[int]], Noise] | None = None  # of the mean square over some of the steps

    def at(self, chosen: Sequence[int]) -> "Steps":
        """Some of the steps."""
        noise = self.noise
        later = None if noise is None else lambda steps: noise([chosen[step] for step in steps])
        return Steps(self.within[chosen][:, chosen], self.across[chosen][:, chosen], self.axis, later)

    def placed(self, chosen: Sequence[int], steps: int) -> "Steps":
        """These as some of so many steps, 0 at all others."""
        wholes = [part.new_zeros(steps, steps) for part in (self.within, self.across)]
        for whole, part in zip(wholes, (self.within, self.across), strict=True):
            whole[torch.tensor(chosen)[:, None], torch.tensor(chosen)] = part
        return Steps(wholes[0], wholes[1], self.axis)

    @property
    def pairs(self) -> tuple[float, Pairs]:
        """(mean square, correlations by kind)."""
        level = max(float(self.within.diagonal().mean()), 1e-300)
        near = float(self.within.diagonal(1).mean()) if len(self.within) > 1 else level
        kinds = (off_diagonal(self.within), float(self.across.diagonal().mean()), off_diagonal(self.across))
        return level, Pairs(1.0, *(kind / level for kind in (near, *kinds))).clipped()

    @classmethod
    def of_gradient(cls, steps: "Steps | None", level: float, c: Pairs, count: int) -> "Steps":
        """A gradient at so many steps, any two as correlated as any other two where no more is known, at its level."""
        if steps is None:
            same = torch.eye(count, dtype=torch.float64)
            within, across = same + c.within * (1 - same), c.same_place * same + c.elsewhere * (1 - same)
            steps = cls(within, across, -2)
        factor = level / steps.pairs[0]
        return cls(steps.within * factor, steps.across * factor, steps.axis)

    def plus(self, other: "Steps") -> "Steps":
        """The sum of two that are independent."""
        return Steps(self.within + other.within, self.across + other.across, self.axis)


def off_diagonal(kernel: Tensor) -> float:
    """The mean over pairs of different steps; 0 of a single step."""
    steps = len(kernel)
    return float(kernel.sum() - kernel.diagonal().sum()) / (steps * (steps - 1)) if steps > 1 else 0.0


def of_sequences(x: Tensor) -> Tensor:
    """The kernel (examples, steps, examples, steps) of some examples of x (examples, steps, channels).

    Each step has the mean square that it has over all examples.
    """
    count = min(len(x), max(min(EXAMPLES, POINTS // x.shape[1]), 2))
    x = x.detach().double().cpu()
    rows = x[typical(x, count)]
    squares = [part.square().mean((0, 2), keepdim=True) for part in (x, rows)]
    rows = rows * (squares[0] / squares[1].clamp(min=1e-300)).sqrt()
    return torch.einsum("atc,bsc->atbs", rows, rows) / x.shape[-1]


def typical(x: Tensor, count: int) -> Tensor:
    """So many examples whose products of two steps, and the squares of these, are most like those of all on average."""
    x = x[:, :: -(-x.shape[1] // TRIED_STEPS)]
    products = torch.einsum("atc,asc->ats", x, x).flatten(1)
    products = products / products.square().mean().sqrt().clamp(min=1e-300)
    facts = torch.cat([products, products**2], 1)
    generator = torch.Generator().manual_seed(0)
    tries = torch.rand(TRIES, len(x), generator=generator).argsort(1)[:, :count]
    shares = torch.zeros(TRIES, len(x), dtype=torch.float64).scatter_(1, tries, 1 / count)
    return tries[(shares @ facts - facts.mean(0)).square().sum(1).argmin()]


def steps_of(kernel: Tensor, axis: int, noise: Callable[[Sequence[int]], Noise] | None = None) -> Steps:
    """The mean over examples, and over pairs of examples."""
    kernel = kernel.detach()
    examples = len(kernel)
    within = torch.stack([kernel[a, :, a] for a in range(examples)])
    pairs = max(examples * (examples - 1), 1)
    return Steps(within.mean(0), (kernel.sum((0, 2)) - within.sum(0)) / pairs, axis, noise)


def spread_of(kernel: Tensor, level: float, c: Pairs, channels: int) -> Pairs:
    """Variance of each kind of correlation: of pairs that are seen, and as of so many channels."""
    return seen_spread(kernel, level, c) + (1 - c**2) / channels


def seen_spread(kernel: Tensor, level: float, c: Pairs) -> Pairs:
    """Variance of each kind of correlation over the pairs that are seen."""
    square = steps_of((kernel.detach() / level) ** 2, -1).pairs
    return (square[0] * square[1] - c**2).within_limits(0, 1)


def of_words(x: Tensor, f: Field) -> Field:
    """The field of embedded tokens (examples, positions, channels): where a word comes again, so does its row."""
    kernel = of_sequences(x[:, :: -(-x.shape[1] // MOST_STEPS)])
    spread = seen_spread(kernel, *steps_of(kernel, -1).pairs)
    return replace(f, spread=replace(spread, itself=f.spread.itself))


def field_from(kernel: Tensor, mean: float, channels: int) -> Field:
    """The field of a kernel; `mean` is that of the units."""
    level, c = steps_of(kernel, -1).pairs
    spread = spread_of(kernel, level, c, channels)
    return Field(torch.tensor(level, dtype=torch.float64), c, mean / level**0.5, kernel.shape[1], channels, spread)


def sampled(steps: Steps, spread: Pairs, examples: int) -> Tensor:
    """A kernel of so many examples with these means, in which pairs scatter with these variances.

    About as many pairs are more correlated than the mean as are less, by the same: points are of two unequal sides.
    """
    count, (_, c) = len(steps.within), steps.pairs
    sides = torch.ones(examples, dtype=torch.float64)
    sides[: round((examples - examples**0.5) / 2)] = -1.0
    # All steps of an example are of one side where they are nearly the same.
    turn = 0 if c.within > 0.5 else 1
    side = torch.stack([sides.roll(turn * t) for t in range(count)], 1).flatten()
    by = spread.each(np.sqrt).each(np.minimum, (1 - c.each(np.abs)).array)
    own = torch.eye(examples).bool()[:, None, :, None]
    now = torch.eye(count).bool()[None, :, None, :]
    apart = torch.where(now, by.same_place, by.elsewhere) * ~own + torch.where(now, 0.0, by.within) * own
    level = steps.within.diagonal().clamp(min=0).sqrt()
    around = apart * torch.outer(level, level)[None, :, None, :] * torch.outer(side, side).reshape(apart.shape)
    kernel = torch.where(own, steps.within[None, :, None, :], steps.across[None, :, None, :]) + around
    # Of fewer examples than a batch has, none need have these means exactly.
    flat = kernel.flatten(2).flatten(0, 1)
    values, vectors = torch.linalg.eigh(flat)
    likely = (vectors * values.clamp(min=0)) @ vectors.mT
    root = (flat.diagonal() / likely.diagonal().clamp(min=1e-300)).clamp(min=0).sqrt()
    scaled: Tensor = likely * torch.outer(root, root)
    return scaled.reshape(kernel.shape)
