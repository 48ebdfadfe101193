"""Mean field of scaled dot-product attention: values mixed over positions, gradients through values and scores.

Over draws of the weights the scores of a head are products of normal queries and keys, which are as correlated over
positions and examples as the signals they come of; what all keys have in common moves a row of scores as a whole and
no softmax. The weights a of such scores are drawn (`drawn_weights`), and all that the rule needs are averages over
them: for scores of small variance s over n keys sum a^2 is exp(s)/n. Outputs are more alike than values, which is the
collapse of rank (Dong et al. 2021, arXiv 2103.03404; Noci et al. 2022, arXiv 2206.03126, sec. 3).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from initlab.signal.theory.field import NONE, Field, NoRule, Pairs
from initlab.signal.theory.meanfield import Context, Gradient, Result, Signal
from initlab.signal.theory.scatter import Noise, mixed
from initlab.signal.theory.trace import Operation

# Numbers in all draws of a call's weights, the most heads among them, and the most rows of each.
MOST_WEIGHTS, MOST_HEADS, MOST_ROWS = 400_000, 32, 96
# Change of the scores' logarithmic variance that shows how the weights follow it.
CHANGE = 0.2


def attention(context: Context, op: Operation, query: Signal, key: Signal, value: Signal) -> Result:
    """softmax(scale q k^T + mask) v, and the gradient through v, q and k.

    Values of mean square v and correlation c leave v (S + (1 - S) c) with S = E sum_j a_ij^2, the mean over positions i;
    two positions share sum_j a_ij a_i'j instead. The Jacobian of softmax, diag(a) - a a^T, carries the gradient to the
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
    overlap = replace(w.overlap, itself=w.overlap.itself / kept)
    level, wider_level = (float(mixed_pairs(v.c, o).itself) for o in (w.overlap, wider.overlap))
    pairs = mixed_pairs(v.c, overlap)
    c = (pairs / pairs.itself).clipped()
    spread = (overlap.itself / pairs.itself) ** 2 * v.spread
    spread = replace(spread, itself=((1 - v.c.within) / pairs.itself) ** 2 * w.unevenness)
    mean = float(np.clip(v.mean / math.sqrt(pairs.itself), -1, 1))
    field = Field(v.q.mean() * pairs.itself, c, mean, rows, v.channels, spread)
    scores = mixed((1.0, query.noise), (1.0, key.noise)).scaled(math.log(wider_level / level) / CHANGE)
    noise = mixed((1.0, remixed(context, value, field)), (1.0, scores))
    signal = Signal(field, noise)

    def pull(g: Gradient) -> list[Gradient | None]:
        """To q and k with the Jacobian of softmax, to v with the weights transposed."""
        slopes = g.c * w.jacobian * set_off(v.c)
        steep = scale**2 * op.in_shapes[2][-1] * v.level / kept
        to_q, to_k = slopes * set_off(k.c), at_keys(slopes * q.c, -1 * slopes * q.c, rows, keys)
        to_v = at_keys(g.c * overlap, g.c * (1 - w.overlap), rows, keys)
        ends = [
            (query, to_q * (steep * k.level), (value, key)),
            (key, to_k * (steep * q.level), (value, query)),
            (value, to_v, ()),
        ]
        return [received(g, *end) for end in ends]

    return signal, pull


def mixed_pairs(c: Pairs, overlap: Pairs) -> Pairs:
    """Products of outputs in units of the values' mean square: what all positions share, and the overlap of the rest."""
    return replace(c, itself=c.within, same_place=c.elsewhere, near=c.within) + set_off(c) * overlap


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


def received(g: Gradient, x: Signal, products: Pairs, factors: Sequence[Signal]) -> Gradient:
    """The gradient at an input, from its products in units of the gradient's mean square; it scatters with `factors`."""
    level = max(products.itself, 0.0)
    c = (products / level).clipped() if level > 0 else NONE
    noise = mixed((1.0, g.noise), *((1.0, factor.noise) for factor in factors))
    return Gradient((g.q.mean() * level).expand(x.field.q.shape), c, g.spread, noise)


def remixed(context: Context, value: Signal, f: Field) -> Noise:
    """The scatter of values after a mix of their positions: a fresh layer's is that of the pairs as they are now."""
    if value.fresh is None:
        return value.noise
    moving = max(1 - f.mean**2, 1e-12)
    variance = 2 * context.average(((f.c - f.mean**2) / moving) ** 2 + f.spread, f.positions)
    return value.noise.without(value.fresh).having(context.source(variance / f.channels), moving)


def mask_of(op: Operation, rows: int, keys: int) -> Tensor | None:
    """What is added to the scores, (rows, keys) or with examples and heads before; None where nothing is."""
    mask = op.argument(3, "attn_mask")
    if op.argument(5, "is_causal", False):
        mask = torch.ones(rows, keys, dtype=torch.bool).tril()
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise NoRule(op.function, "a mask that depends on the input")
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape).masked_fill(~mask.cpu(), -math.inf)
    return mask.detach().double().cpu().expand(*mask.shape[:-2], rows, keys)


def drawn_weights(
    rows: int, keys: int, dims: int, size: float, q: Pairs, k: Pairs, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Softmax weights (heads, 2 examples, some rows, keys) of scores of mean square `size`, and the rows' shares.

    Of many rows some count for their neighbours, closer to each other where a causal mask leaves few keys.
    """
    places = (
        np.unique(np.geomspace(1, rows, MOST_ROWS).round().astype(int)) - 1 if rows > MOST_ROWS else np.arange(rows)
    )
    ends = np.concatenate([[0.0], (places[1:] + places[:-1] + 1) / 2, [float(rows)]])
    heads = int(np.clip(MOST_WEIGHTS // (len(places) * keys), 1, MOST_HEADS))
    generator = torch.Generator().manual_seed(0)
    queries, others = (alike(heads, n, dims, c, generator) for n, c in ((rows, q), (keys, k)))
    scores = math.sqrt(size / dims) * queries[:, :, torch.from_numpy(places)] @ others.transpose(-1, -2)
    if mask is not None:
        flat = mask[..., torch.from_numpy(places), :].reshape(-1, len(places), keys)
        scores = scores + flat[torch.randint(len(flat), (heads, 2), generator=generator)]
    # A row without a key has no weights, and gives no signal.
    return scores.softmax(-1).nan_to_num(0.0), torch.from_numpy(np.diff(ends) / rows)


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


@dataclass(frozen=True)
class Weights:
    """What attention's rule needs of its weights: means over heads, examples and rows, or pairs of them."""

    overlap: Pairs  # sum_j a_j b_j of two rows of weights
    jacobian: Pairs  # sum_j a_j b_j (1 - a_j - b_j + sum a b): what two rows of softmax's Jacobian have in common
    unevenness: float  # variance over rows of sum_j a_j^2


def weights_of(rows: int, keys: int, dims: int, size: float, *, q: Pairs, k: Pairs, mask: Tensor | None) -> Weights:
    """Averages over weights of scores of mean square `size`."""
    a, shares = drawn_weights(rows, keys, dims, size, q, k, mask)
    pairs = shares[:, None] * shares * (1 - torch.eye(len(shares)))
    pairs = pairs / pairs.sum().clamp(min=1e-300)
    kinds = []
    for left, right in ((a[:, 0], a[:, 0]), (a[:, 0], a[:, 1])):
        products, right = left @ right.mT, right.mT
        jacobian = products - left**2 @ right - left @ right**2 + products**2
        kinds += [(products.mean(0), jacobian.mean(0))]
    (own, own_jacobian), (across, across_jacobian) = kinds

    def by_kind(one: Tensor, two: Tensor) -> Pairs:
        """Means over the same rows and over different ones, of one example and of two."""
        same, other = float(one.diagonal() @ shares), float((one * pairs).sum())
        return Pairs(same, other, other, float(two.diagonal() @ shares), float((two * pairs).sum()))

    square = own.diagonal()
    return Weights(
        by_kind(own, across), by_kind(own_jacobian, across_jacobian), float((square - square @ shares) ** 2 @ shares)
    )
