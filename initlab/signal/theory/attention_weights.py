"""Softmax weights of scores of normal queries and keys: drawn, and averaged into what the rule of attention needs."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from initlab.signal.theory.field import Pairs
from initlab.signal.theory.meanfield import Signal

# Numbers in all draws of a call's weights, the fewest and most groups of heads with the same tokens, and the most rows.
MOST_WEIGHTS, GROUP, FEWEST_GROUPS, MOST_GROUPS, MOST_ROWS = 400_000, 4, 2, 32, 96
# Of the numbers that a token is made of.
FEWEST_DIMS, MOST_DIMS = 4, 256


@dataclass(frozen=True)
class Weights:
    """What attention's rule needs of its weights: means over heads and examples.

    Of many rows some stand for a block of neighbours.
    """

    overlaps: tuple[Tensor, Tensor]  # (blocks, blocks): sum_j a_j b_j of two rows, of one example and of two
    jacobians: tuple[Tensor, Tensor]  # of a row's Jacobian and another's: sum_j a_j b_j (1 - a_j - b_j + sum a b)
    means: Tensor  # (blocks, keys): a_j
    squares: Tensor  # (blocks, keys): a_j^2
    slopes: Tensor  # (blocks, keys): a_j^2 (1 - 2 a_j + sum a^2)
    block: Tensor  # (rows,): the block of each row

    @property
    def sizes(self) -> Tensor:
        """(blocks,): the share of the rows in each."""
        return self.block.bincount().double() / len(self.block)

    @property
    def by_blocks(self) -> Tensor:
        """(blocks, blocks): the weight of a block's keys, where there are as many keys as rows."""
        return torch.zeros(len(self.means), len(self.means)).double().index_add(1, self.block, self.means)

    def together(self) -> Tensor:
        """(blocks, blocks): how many of the pairs of rows lie in each pair of blocks."""
        pairs = self.sizes[:, None] * self.sizes - torch.diag(self.sizes / len(self.block))
        return pairs / pairs.sum().clamp(min=1e-300)

    def seen(self) -> Tensor:
        """(blocks, blocks): how much each pair of positions counts in what rows attend to."""
        if self.means.shape[1] != len(self.block):
            return self.together()
        blocks = self.by_blocks
        itself = torch.zeros(len(blocks)).double().index_add(0, self.block, self.sizes @ self.means**2)
        pairs = (blocks.T * self.sizes @ blocks - torch.diag(itself)).clamp(min=0)
        return pairs / pairs.sum().clamp(min=1e-300)

    def by_block(self, course: Tensor) -> Tensor:
        """Shares of the blocks in what has this course over the rows, of mean 1."""
        return torch.zeros(len(self.means), dtype=torch.float64).index_add(0, self.block, course) / len(self.block)

    def pairs(self, products: tuple[Tensor, Tensor], c: Pairs, share: Tensor, between: Tensor) -> Pairs:
        """Means over pairs of rows, times those of a signal: its own by blocks, `between` rows, and `c` of examples."""
        (one, two), together = products, self.together()
        within = float((one * between * together).sum())
        same, elsewhere = float(two.diagonal() @ self.sizes), float((two * together).sum())
        return Pairs(float(one.diagonal() @ share), within, within, c.same_place * same, c.elsewhere * elsewhere)

    def tilt(self) -> float:
        """How much scores of two keys that grow more alike add to sum_{j != j'} a_j a_j', per correlation and variance.

        By Price's theorem the mean of its mixed second derivatives: 1 for many equal weights, 0 for a single one.
        """
        square, slope = (float(m.sum(1) @ self.sizes) for m in (self.squares, self.slopes))
        cube = (square + square**2 - slope) / 2
        return max(1 - square - 4 * (square - cube) + 6 * (square**2 - cube**2 / max(square, 1e-300)), 0.0)

    def seen_at_keys(self, share: Tensor, between: Tensor, within: float) -> float:
        """The mean product of two keys that rows see, of sums over rows; as `within` where keys are no rows."""
        if self.means.shape[1] != len(self.block):
            return within
        rows = len(self.block)
        pairs = rows * torch.diag(share) + between * self.together() * rows * (rows - 1)
        at_keys = self.by_blocks.T @ pairs @ self.by_blocks / (self.sizes[:, None] * self.sizes * rows**2)
        return float((self.seen() * at_keys).sum())

    def by_key(self, matrix: Tensor, share: Tensor, meeting: Pairs) -> Tensor:
        """(keys,): the course of a sum over rows, each of which adds `meeting` with itself and with the others."""
        own = share @ matrix
        others = (share.sqrt() @ self.means) ** 2
        own, others = (x / x.mean().clamp(min=1e-300) for x in (own, others))
        return meeting.itself * own + (len(self.block) - 1) * meeting.within * others


@dataclass(frozen=True)
class Heads:
    """Heads with two examples each, of normal queries and keys of mean square 1; of many rows some stand for all."""

    queries: Tensor  # (heads, 2, some rows, dims)
    keys: Tensor  # (heads, 2, keys, dims)
    tokens: Tensor  # (heads, 2, keys, dims of tokens): what keys and values are made of
    weights: Tensor  # (heads, 2, some rows, keys)
    places: Tensor  # which rows they are
    block: Tensor  # (rows,): the one that stands for each row

    @property
    def sizes(self) -> Tensor:
        """For how many rows each stands."""
        return self.block.bincount().double()


def weights_of(heads: Heads, masked: bool) -> Weights:
    """Averages over drawn weights."""
    a = heads.weights
    overlaps, jacobians = [], []
    for left, right in ((a, a), (a[:, :1], a[:, 1:])):
        product = left @ right.mT
        jacobian = product - left**2 @ right.mT - left @ (right**2).mT + product**2
        overlaps.append(product.mean((0, 1)))
        jacobians.append(jacobian.mean((0, 1)))
    slopes = a**2 * (1 - 2 * a + a.square().sum(-1, keepdim=True))
    by_key = [m.mean((0, 1)) for m in (a, a.square(), slopes)]
    if not masked:
        # All rows and keys are alike.
        by_key = [m.mean().expand(m.shape) for m in by_key]
    means, squares, slopes = by_key
    return Weights((overlaps[0], overlaps[1]), (jacobians[0], jacobians[1]), means, squares, slopes, heads.block)


@dataclass(frozen=True)
class Tokens:
    """What queries, or keys and values, are made of: normal numbers, as correlated and as few as theirs."""

    c: Pairs
    dims: int

    @classmethod
    def behind(cls, signal: Signal) -> "Tokens":
        """Those that a signal is made of: correlations scatter by 1 over the dimensions that they fill."""
        return cls.of(signal.field.c, signal.field.spread if signal.given is None else signal.given)

    @classmethod
    def of(cls, c: Pairs, spread: Pairs) -> "Tokens":
        """Those whose correlations scatter so much."""
        scatter = (spread.elsewhere or spread.same_place or spread.within) / (1 - c.elsewhere**2 + 1e-9)
        return cls(c, int(np.clip(round(1 / max(scatter, 1e-9)), FEWEST_DIMS, MOST_DIMS)))

    def drawn(self, heads: int, positions: int, seed: int) -> Tensor:
        """(heads, 2 examples, positions, dims), the same for each group of heads."""
        generator = torch.Generator().manual_seed(seed)
        return alike(heads // GROUP, positions, self.dims, self.c, generator).repeat_interleave(GROUP, 0)


def projected(x: Tensor, dims: int, seed: int) -> Tensor:
    """Tokens through a layer of each head, of mean square 1."""
    normals = torch.randn(
        len(x), 1, x.shape[-1], dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return x @ normals / math.sqrt(x.shape[-1])


def draw_heads(rows: int, keys: int, dims: int, size: float, *, q: Tokens, k: Tokens, mask: Tensor | None) -> Heads:
    """Heads with scores of mean square `size`; blocks of rows are short where a mask leaves few keys."""
    places = np.arange(rows)
    if rows > MOST_ROWS:
        places = np.unique(np.geomspace(1, rows, MOST_ROWS).round().astype(int)) - 1
    block = torch.from_numpy(np.searchsorted((places[1:] + places[:-1]) / 2, np.arange(rows)))
    count = int(np.clip(MOST_WEIGHTS // (len(places) * keys * GROUP), FEWEST_GROUPS, MOST_GROUPS)) * GROUP
    queries = projected(q.drawn(count, rows, 0)[:, :, places], dims, 1)
    tokens = k.drawn(count, keys, 2)
    others = projected(tokens, dims, 3)
    scores = math.sqrt(size / dims) * queries @ others.mT
    if mask is not None:
        generator = torch.Generator().manual_seed(4)
        scores = scores + mask[:, places][torch.randint(len(mask), (count, 2), generator=generator)]
    # A row without a key has no weights, and gives no signal.
    weights = scores.softmax(-1).nan_to_num(0.0)
    return Heads(queries, others, tokens, weights, torch.from_numpy(places), block)


def alike(heads: int, positions: int, dims: int, c: Pairs, generator: torch.Generator) -> Tensor:
    """Normals (heads, 2 examples, positions, dims) of mean square 1 whose pairs are correlated as in `c`."""
    within, same, apart = (float(np.clip(x, 0, 1)) for x in (c.within, c.same_place, c.elsewhere))
    apart = min(apart, within, same)
    parts = {(1, 1): apart, (1, positions): same - apart, (2, 1): within - apart}
    parts[2, positions] = max(1 - sum(parts.values()), 0.0)
    total = torch.zeros((), dtype=torch.float64)
    for (examples, places), variance in parts.items():
        normals = torch.randn((heads, examples, places, dims), generator=generator, dtype=torch.float64)
        total = total + math.sqrt(variance) * normals
    return total.expand(heads, 2, positions, dims)
