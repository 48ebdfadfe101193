"""Mean field of scaled dot-product attention: values mixed over positions, gradients through values and scores.

Over draws of the weights the scores of a head are products of normal queries and keys, which are as correlated over
positions and examples as the signals they come of; what all keys have in common moves a row of scores as a whole and
no softmax. The weights a of such scores are drawn (`weights_of`), and all that the rule needs are averages over them:
for scores of small variance s over n keys sum a^2 is exp(s)/n. Outputs are more alike than values, which is the
collapse of rank (Dong et al. 2021, arXiv 2103.03404; Noci et al. 2022, arXiv 2206.03126, sec. 3).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from initlab.signal.theory.attention_weights import Tokens, Weights, draw_heads, weights_of
from initlab.signal.theory.field import NONE, Field, NoRule, Pairs, unevenness
from initlab.signal.theory.heads import HeadScatter
from initlab.signal.theory.meanfield import Context, Gradient, Result, Signal, on_map
from initlab.signal.theory.scatter import mixed
from initlab.signal.theory.trace import Operation

# Difference of two kinds of pairs below which positions count as alike.
UNEVEN = 1e-3
# Examples whose masks are looked at.
MOST_MASKS = 8
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
    mask = mask_of(op, rows, keys)
    value_c, key_c = (c if mask is not None and rows == keys else replace(c, near=c.within) for c in (v.c, k.c))
    draw = partial(draw_heads, rows, keys, dims, q=Tokens.behind(query), k=Tokens.behind(key), mask=mask)
    w, wider = (weights_of(draw(size * factor), mask is not None) for factor in (1.0, math.exp(CHANGE)))

    def scatter() -> HeadScatter:
        """Of heads that are drawn again, since all layers' at once would take much memory."""
        return HeadScatter(draw(size), q.channels // dims, context.examples, op.in_shapes[2][-1])

    overlap = w.pairs(w.overlaps, Pairs.alike(1.0), w.sizes, torch.ones(()).double())
    # Values and keys come of the same tokens: what sets two of them apart in one does so in the other.
    # Beyond what draws of the values' own layer add, or as in tokens of as many independent numbers.
    beyond = v.spread.within - (1 - v.c.within**2) ** 2 / v.channels
    common = max((1 - value_c.near) * (1 - key_c.near) / k.channels, beyond)
    products, by_row = mixed_pairs(value_c, w, kept)
    pairs = products + size * common * q.c * replace((1 - overlap) ** 2, itself=w.tilt())
    c = (pairs / pairs.itself).clipped()
    spread = replace((overlap.itself / pairs.itself) ** 2 * v.spread, itself=unevenness(by_row))
    by_row = by_row * (pairs.itself / products.itself)
    field = Field(
        v.level * by_row, c, float(np.clip(v.mean / math.sqrt(pairs.itself), -1, 1)), rows, v.channels, spread
    )
    follows = math.log(mixed_pairs(value_c, wider, kept)[0].itself / products.itself) / CHANGE
    scores = mixed(*((1.0, x.noise.without(x.fresh)) for x in (query, key))).scaled(follows)
    noise = mixed((1.0, value.noise.without(value.fresh)), (1.0, scores))
    signal = Signal(field, noise.having(context.source(scatter().forward()), max(1 - field.mean**2, 1e-12)))

    def pull(g: Gradient) -> list[Gradient | None]:
        """To q and k with the Jacobian of softmax, to v with the weights transposed."""
        course = on_map(g.q, (rows,)) / max(g.level, 1e-300)
        by_block = w.by_block(course)
        between = uneven_pairs(g.c, w, by_block)
        meets, bends = (w.pairs(p, g.c, by_block, between) for p in (w.overlaps, w.jacobians))
        steep = scale**2 * op.in_shapes[2][-1] * v.level / kept
        to_q = steep * k.level * (set_off(value_c) * set_off(key_c) * bends + common * g.c * (1 - overlap) ** 2)
        at_k, at_v = steep * q.level * set_off(value_c) * q.c * bends, replace(meets, itself=meets.itself / kept)
        to_k, to_v = at_keys(at_k, -1 * at_k, rows, keys), at_keys(at_v, g.c - meets, rows, keys)
        to_v = replace(to_v, near=w.seen_at_keys(by_block, between, to_v.within))
        variances = scatter().backward(Tokens.of(g.c, g.spread), course)
        by_query, by_key, by_value = (context.source(variance) for variance in variances)
        return [
            received(g, query, to_q, w.slopes.sum(1)[w.block] * course, by_query, (value, key)),
            received(g, key, to_k, w.by_key(w.slopes, by_block, at_k), by_key, (value, query)),
            received(g, value, to_v, w.by_key(w.squares, by_block, at_v), by_value, ()),
        ]

    return signal, pull


def mixed_pairs(c: Pairs, w: Weights, kept: float) -> tuple[Pairs, Tensor]:
    """Products of outputs over the values' mean square; those of a row with itself, (rows,).

    Of values with products P two rows have sum_jj' a_ij P_jj' a_i'j': their overlap, and of the rest the mean product
    that they see.
    """
    (one, two), sizes = w.overlaps, w.sizes
    every, seen = w.together(), w.seen()
    values = uneven_pairs(c, w, sizes).clamp(-1, 1)
    if c.near != c.within:
        # Behind a mask there are as many keys as rows.
        others = w.by_blocks @ values @ w.by_blocks.T - (w.means * values.diagonal()[w.block]) @ w.means.T
        values = others / (1 - w.means @ w.means.T).clamp(min=1e-9)
    products = one + (1 - one) * values
    # Tokens that sum to 0 leave nothing where all weights are equal.
    own = (products.diagonal() + one.diagonal() * (1 / kept - 1)).clamp(min=1e-12)
    across = c.elsewhere + (c.same_place - c.elsewhere) * two
    within, near = (float((products * pairs).sum()) for pairs in (every, seen))
    same, elsewhere = float(across.diagonal() @ sizes), float((across * every).sum())
    return Pairs(float(own @ sizes), near, within, same, elsewhere), own[w.block]


def uneven_pairs(c: Pairs, w: Weights, share: Tensor) -> Tensor:
    """(blocks, blocks): products of two positions, whose mean squares have these shares.

    Behind a causal mask early positions are more alike than late ones: they are taken to be as uneven as the overlap of
    rows, with the means over all pairs (`within`) and over those that rows see (`near`).
    """
    every, seen, course = w.together(), w.seen(), w.overlaps[0].clone()
    if not every.any():
        # A single row.
        return torch.full_like(course, c.within)
    course[range(len(course) - 1), range(len(course) - 1)] = course.diagonal(1)
    root = (share / w.sizes).sqrt()
    level = root[:, None] * root
    level = level / (level * every).sum().clamp(min=1e-300)
    mean, seen_mean = (float((course * pairs).sum()) for pairs in (every, seen))
    missing = c.near - c.within * float((level * seen).sum())
    slope = missing / (seen_mean - mean) if c.near != c.within and seen_mean - mean > UNEVEN else 0.0
    return c.within * level + slope * (course - mean)


def set_off(c: Pairs) -> Pairs:
    """Products of what is left of a signal at one position without what it shares with the others."""
    own, across = 1 - c.near, c.same_place - c.elsewhere
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
    g: Gradient, x: Signal, products: Pairs, profile: Tensor, source: int, factors: Sequence[Signal]
) -> Gradient:
    """The gradient at an input from its products over the gradient's mean square, and its course over positions."""
    level = max(products.itself, 0.0)
    c = (products / level).clipped() if level > 0 else NONE
    q = g.level * level * profile.clamp(min=0) / profile.clamp(min=0).mean().clamp(min=1e-300)
    q = q if len(q) == x.field.positions else q.mean()
    noise = mixed((1.0, g.noise.without(g.fresh)), *((1.0, factor.noise.without(factor.fresh)) for factor in factors))
    return Gradient(q, c, replace(g.spread, itself=unevenness(q)), noise.having(source))


def mask_of(op: Operation, rows: int, keys: int) -> Tensor | None:
    """What is added to the scores, (masks, rows, keys); None where nothing is."""
    mask = op.argument(3, "attn_mask")
    if op.argument(5, "is_causal", False):
        mask = torch.ones(rows, keys, dtype=torch.bool).tril()
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise NoRule(op.function, "a mask that depends on the input")
    # Some examples' masks stand for all.
    mask = mask.detach()[:: -(-len(mask) // MOST_MASKS)].cpu() if mask.dim() > 2 else mask.detach().cpu()
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
    return mask.double().expand(*mask.shape[:-2], rows, keys).reshape(-1, rows, keys)
