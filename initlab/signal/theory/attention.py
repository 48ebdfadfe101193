"""Mean field of scaled dot-product attention: values mixed over positions, gradients through values and scores.

Over draws of the weights the scores of a head are products of normal queries and keys, which are as correlated over
positions and examples as the signals they come of; what all keys have in common moves a row of scores as a whole and
no softmax. The weights a of such scores are drawn (`weights_of`), and all that the rule needs are averages over them:
for scores of small variance s over n keys sum a^2 is exp(s)/n. Outputs are more alike than values, which is the
collapse of rank (Dong et al. 2021, arXiv 2103.03404; Noci et al. 2022, arXiv 2206.03126, sec. 3).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from initlab.signal.theory.field import NONE, Field, NoRule, Pairs, unevenness
from initlab.signal.theory.meanfield import Context, Gradient, Result, Signal, on_map
from initlab.signal.theory.scatter import Noise, mixed
from initlab.signal.theory.trace import Operation

# Numbers in all draws of a call's weights, the most heads among them, and the most rows of each.
MOST_WEIGHTS, MOST_HEADS, MOST_ROWS = 400_000, 32, 96
# Change of the scores' logarithmic variance that shows how the weights follow it.
CHANGE = 0.2


def attention(context: Context, op: Operation, query: Signal, key: Signal, value: Signal) -> Result:
    """softmax(scale q k^T + mask) v, and the gradient through v, q and k.

    Values of mean square v and correlation c leave v (S + (1 - S) c) with S = E sum_j a_ij^2 at position i; two
    positions share sum_j a_ij a_i'j instead. The Jacobian of softmax, diag(a) - a a^T, carries the gradient to the
    scores (Noci et al. 2022, app. A); it sees of the values and keys only what sets one position off from the others.
    """
    q, k, v = query.field, key.field, value.field
    rows, keys, dims = op.in_shapes[0][-2], op.in_shapes[1][-2], op.in_shapes[0][-1]
    scale = op.kwargs.get("scale")
    scale = 1 / math.sqrt(dims) if scale is None else float(scale)
    # Dropout of weights keeps their mean and adds to their squares.
    kept = 1 - float(op.argument(4, "dropout_p", 0.0)) if context.dropout else 1.0
    size = scale**2 * dims * q.level * k.level
    if not math.isfinite(size):
        raise NoRule(op.function, f"scores of mean square {size:.3g}")
    draw = partial(weights_of, rows, keys, dims, q=q.c, k=k.c, mask=mask_of(op, rows, keys))
    w, wider = draw(size), draw(size * math.exp(CHANGE))
    overlap, moved = (replace(o, itself=o.itself / kept) for o in (w.pairs(w.overlaps), wider.pairs(wider.overlaps)))
    # Values and keys come of the same tokens: what sets two of them apart in one does so in the other.
    common = (1 - v.c.within) * (1 - k.c.within) / k.channels
    pairs = mixed_pairs(v.c, overlap) + size * common * q.c * (1 - overlap)
    c = (pairs / pairs.itself).clipped()
    profile = (v.level * (v.c.within + (1 - v.c.within) / kept * w.squares.sum(1)))[w.block]
    spread = replace((overlap.itself / pairs.itself) ** 2 * v.spread, itself=unevenness(profile))
    field = Field(profile, c, float(np.clip(v.mean / math.sqrt(pairs.itself), -1, 1)), rows, v.channels, spread)
    follows = math.log(mixed_pairs(v.c, moved).itself / pairs.itself) / CHANGE
    scores = mixed((1.0, query.noise), (1.0, key.noise)).scaled(follows)
    own = value.noise if value.fresh is None else remixed(context, value.noise, value.fresh, field, field)
    signal = Signal(field, mixed((1.0, own), (1.0, scores)))

    def pull(g: Gradient) -> list[Gradient | None]:
        """To q and k with the Jacobian of softmax, to v with the weights transposed."""
        course = on_map(g.q, (rows,)) / max(g.level, 1e-300)
        by_block = w.by_block(course)
        meets, bends = w.pairs(w.overlaps, by_block), w.pairs(w.jacobians, by_block)
        steep = scale**2 * op.in_shapes[2][-1] * v.level / kept * g.c
        to_q = steep * k.level * (set_off(v.c) * set_off(k.c) * bends + common * (1 - meets) ** 2)
        at_k = steep * q.level * set_off(v.c) * q.c * bends
        at_v = g.c * replace(meets, itself=meets.itself / kept)
        to_k, to_v = at_keys(at_k, -1 * at_k, rows, keys), at_keys(at_v, g.c * (1 - meets), rows, keys)
        return [
            received(context, g, query, to_q, w.slopes.sum(1)[w.block] * course, (value, key)),
            received(context, g, key, to_k, w.by_key(w.slopes, by_block, at_k), (value, query)),
            received(context, g, value, to_v, w.by_key(w.squares, by_block, at_v), ()),
        ]

    return signal, pull


def mixed_pairs(c: Pairs, overlap: Pairs) -> Pairs:
    """Products of outputs over the values' mean square: what all positions share, and the overlap of the rest."""
    return Pairs(c.within, c.within, c.within, c.elsewhere, c.elsewhere) + set_off(c) * overlap


def set_off(c: Pairs) -> Pairs:
    """Products of what is left of a signal at one position without what it shares with the others."""
    own, across = 1 - c.within, c.same_place - c.elsewhere
    return Pairs(own, own, own, across, across)


def at_keys(meeting: Pairs, passing: Pairs, rows: int, keys: int) -> Pairs:
    """Products of sums over rows, of which two rows add `meeting` at the same keys and `passing` at two keys."""

    def total(own: float, other: float) -> float:
        """The sum over all partners of a row, per key."""
        return rows / keys * (own + (rows - 1) * other)

    others = max(keys - 1, 1)
    within = total(passing.itself, passing.within) / others
    elsewhere = total(passing.same_place, passing.elsewhere) / others
    own, same = total(meeting.itself, meeting.within), total(meeting.same_place, meeting.elsewhere)
    return Pairs(own, within, within, same, elsewhere)


def received(
    context: Context, g: Gradient, x: Signal, products: Pairs, profile: Tensor, factors: Sequence[Signal]
) -> Gradient:
    """The gradient at an input from its products over the gradient's mean square, and its course over positions."""
    level = max(products.itself, 0.0)
    c = (products / level).clipped() if level > 0 else NONE
    q = g.level * level * profile.clamp(min=0) / profile.clamp(min=0).mean().clamp(min=1e-300)
    q = q if len(q) == x.field.positions else q.mean()
    back = Gradient(q, c, replace(g.spread, itself=unevenness(q)), g.noise)
    own = g.noise if g.fresh is None else remixed(context, g.noise, g.fresh, back, x.field)
    return replace(back, noise=mixed((1.0, own), *((1.0, factor.noise) for factor in factors)))


def remixed(context: Context, noise: Noise, fresh: int, pairs: Field | Gradient, at: Field) -> Noise:
    """The scatter of what a fresh layer gave after a mix of its positions: that of the pairs as they are now."""
    common = at.mean**2 if pairs is at else 0.0
    moving = max(1 - common, 1e-12)
    variance = 2 * context.average(((pairs.c - common) / moving) ** 2 + pairs.spread, at.positions) / at.channels
    return noise.without(fresh).having(context.source(variance), moving)


def mask_of(op: Operation, rows: int, keys: int) -> Tensor | None:
    """What is added to the scores, (masks, rows, keys); None where nothing is."""
    mask = op.argument(3, "attn_mask")
    if op.argument(5, "is_causal", False):
        mask = torch.ones(rows, keys, dtype=torch.bool).tril()
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise NoRule(op.function, "a mask that depends on the input")
    mask = mask.detach().cpu()
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
    return mask.double().expand(*mask.shape[:-2], rows, keys).reshape(-1, rows, keys)


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

    def by_block(self, course: Tensor) -> Tensor:
        """Shares of the blocks in what has this course over the rows, of mean 1."""
        return torch.zeros(len(self.means), dtype=torch.float64).index_add(0, self.block, course) / len(self.block)

    def pairs(self, products: tuple[Tensor, Tensor], share: Tensor | None = None) -> Pairs:
        """Means over pairs of rows, each of which counts by the root of its block's `share` in the mean square."""
        size = self.by_block(torch.ones(len(self.block), dtype=torch.float64))
        share = size if share is None else share
        root = (share * size).sqrt()
        # Two rows of one block count as that block with itself.
        together = root[:, None] * root - torch.diag(share / len(self.block))
        together = together.clamp(min=0) / together.clamp(min=0).sum().clamp(min=1e-300)
        one, two = products
        kinds = [float(x) for m in (one, two) for x in (m.diagonal() @ share / share.sum(), (m * together).sum())]
        return Pairs(kinds[0], kinds[1], kinds[1], kinds[2], kinds[3])

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
    return Weights((overlaps[0], overlaps[1]), (jacobians[0], jacobians[1]), *by_key, block)


def drawn_weights(
    places: np.ndarray, rows: int, keys: int, dims: int, size: float, q: Pairs, k: Pairs, mask: Tensor | None
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
