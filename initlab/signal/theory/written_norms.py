"""LayerNorm and RMSNorm that a model writes out: `x * rsqrt(mean(x^2) + eps)`, `(x - mean(x)) / sqrt(var(x) + eps)`.

Such calls are followed from the first of them on, so that the last one is recorded as the one norm that it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from initlab.signal.theory.chains import DIFFERENCES, MEANS, PRODUCTS, QUOTIENTS, SUMS, variants

SQUARES, POWERS = variants("square"), variants("pow")
ROOTS = {**dict.fromkeys(variants("sqrt"), 0.5), **dict.fromkeys(variants("rsqrt"), -0.5)}
VARIANCES = {**dict.fromkeys(variants("var"), 1.0), **dict.fromkeys(variants("std"), 0.5)}


@dataclass(frozen=True)
class Piece:
    """A part of a norm over the last dimension of a signal `of`, the operation that gave it; -1 is the input."""

    kind: Literal["mean", "centred", "square", "spread"]
    of: int
    is_centred: bool = False  # whether a square or spread is that of the signal without its mean
    power: float = 1.0  # of the mean square or variance that a spread is
    eps: float = 0.0


def next_piece(
    func: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    live: Sequence[tuple[int, Tensor]],
    pieces: Mapping[int, Any],
) -> Piece | None:
    """The part of a norm that a call gives; `live` are its inputs and the operations behind them."""
    number, x = live[0]
    before = pieces.get(number)
    piece = before if isinstance(before, Piece) else None
    others = [value for value in (*args, *kwargs.values()) if value is not x]
    exponent = others[0] if func in POWERS and others and isinstance(others[0], (int, float)) else None
    if func in MEANS or func in VARIANCES:
        if kwargs.get("dim", others[0] if others else None) not in (-1, x.dim() - 1, (-1,), [-1]):
            return None
        if not kwargs.get("keepdim", others[-1] is True):
            return None
        if func in VARIANCES:
            return Piece("spread", number, True, VARIANCES[func])
        return replace(piece, kind="spread") if piece and piece.kind == "square" else Piece("mean", number)
    if len(live) == 2 and func in DIFFERENCES and args[0] is x:
        return Piece("centred", number, True) if pieces.get(live[1][0]) == Piece("mean", number) else None
    if func in SQUARES or exponent == 2 or (func in PRODUCTS and [n for n, _ in live] == [number] * 2):
        return replace(piece, kind="square") if piece and piece.kind == "centred" else Piece("square", number)
    if piece is None or piece.kind != "spread" or len(live) > 1:
        return None
    if func in ROOTS or exponent == -0.5:
        return replace(piece, power=piece.power * ROOTS.get(func, -0.5))
    # An eps beside a standard deviation instead of a variance is too small to matter.
    if func in SUMS and len(others) == 1 and isinstance(others[0], float):
        return replace(piece, eps=others[0] if piece.power == 1 else 0.0)
    return None


def whole_norm(
    func: Any, args: tuple[Any, ...], live: Sequence[tuple[int, Tensor]], pieces: Mapping[int, Any]
) -> tuple[Any, int, float] | None:
    """(norm, the operation that it is of, eps) where a call is the last of one."""
    if len(live) != 2 or func not in PRODUCTS | QUOTIENTS:
        return None
    for (number, _), (other, divisor) in (live, live[::-1]):
        spread, signal = pieces.get(other), pieces.get(number)
        if not isinstance(spread, Piece) or spread.kind != "spread":
            continue
        if spread.power != (-0.5 if func in PRODUCTS else 0.5) or (func in QUOTIENTS and args[0] is divisor):
            continue
        if not spread.is_centred and number == spread.of:
            return F.rms_norm, number, spread.eps
        if spread.is_centred and signal == Piece("centred", spread.of, True):
            return F.layer_norm, spread.of, spread.eps
    return None
