"""Softmax weights of scores of normal queries and keys: drawn, and averaged into what the rule of attention needs."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from initlab.signal.theory.field import Pairs

# Numbers in all draws of a call's weights, the most heads among them, and the most rows of each.
MOST_WEIGHTS, MOST_HEADS, MOST_ROWS = 400_000, 128, 96


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


def weights_of(rows: int, keys: int, dims: int, size: float, *, q: Pairs, k: Pairs, mask: Tensor | None) -> Weights:
    """Averages over drawn weights of scores of mean square `size`; blocks are short where a mask leaves few keys."""
    places = np.arange(rows)
    if rows > MOST_ROWS:
        places = np.unique(np.geomspace(1, rows, MOST_ROWS).round().astype(int)) - 1
    block = torch.from_numpy(np.searchsorted((places[1:] + places[:-1]) / 2, np.arange(rows)))
    a = drawn_weights(places, rows, keys, dims, size, q, k, mask)
    overlaps, jacobians = [], []
    for left, right in ((a, a), (a[:, :1], a[:, 1:])):
        product = left @ right.mT
        jacobian = product - left**2 @ right.mT - left @ (right**2).mT + product**2
        overlaps.append(product.mean((0, 1)))
        jacobians.append(jacobian.mean((0, 1)))
    slopes = a**2 * (1 - 2 * a + a.square().sum(-1, keepdim=True))
    by_key = [m.mean((0, 1)) for m in (a, a.square(), slopes)]
    if mask is None:
        # All rows and keys are alike.
        by_key = [m.mean().expand(m.shape) for m in by_key]
    means, squares, slopes = by_key
    return Weights((overlaps[0], overlaps[1]), (jacobians[0], jacobians[1]), means, squares, slopes, block)


def drawn_weights(
    places: NDArray[np.int64], rows: int, keys: int, dims: int, size: float, q: Pairs, k: Pairs, mask: Tensor | None
) -> Tensor:
    """Softmax weights (heads, 2 examples, some rows, keys) of scores of mean square `size`."""
    heads = int(np.clip(MOST_WEIGHTS // (len(places) * keys), 2, MOST_HEADS))
    generator = torch.Generator().manual_seed(0)
    queries, others = (alike(heads, n, dims, c, generator) for n, c in ((rows, q), (keys, k)))
    scores = math.sqrt(size / dims) * queries[:, :, places] @ others.mT
    if mask is not None:
        scores = scores + mask[:, places][torch.randint(len(mask), (heads, 2), generator=generator)]
    # A row without a key has no weights, and gives no signal.
    return scores.softmax(-1).nan_to_num(0.0)


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
