"""Attention that a model writes out: a product of queries and keys, scaled, masked, a softmax, a product with values.

Such calls are followed from the first product on, so that the last one is recorded as the one function of queries, keys
and values that they are: `F.scaled_dot_product_attention`.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from initlab.signal.theory.chains import DIFFERENCES, PRODUCTS, QUOTIENTS, SUMS, variants

MATMULS = variants("matmul bmm") | {torch.einsum, torch.baddbmm}
SOFTMAXES, FILLS, CHOICES = variants("softmax"), variants("masked_fill"), variants("where")
# What is added to a score as if it were minus infinity.
NEVER = -1e3


@dataclass(frozen=True)
class MatrixProduct:
    """A product of two tensors' last matrices, or what an einsum makes of two."""

    left: Tensor
    right: Tensor
    rows: int
    summed: int
    columns: int
    in_place: bool  # whether the result ends in rows and columns


def matrix_product(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> MatrixProduct | None:
    """A call as a product of matrices whose left one is summed over its last dimension, or None."""
    if func is torch.einsum and isinstance(args[0], str):
        operands = args[1:] if isinstance(args[1], Tensor) else args[1]
        inputs, _, output = args[0].replace(" ", "").partition("->")
        terms = inputs.split(",")
        if len(terms) != 2 or "." in inputs or not output:
            return None
        sides: dict[str, int] = {}
        for term, x in zip(terms, operands, strict=True):
            sides |= dict(zip(term, x.shape, strict=True))
        rows, columns = ([n for n in one if n not in other and n in output] for one, other in (terms, terms[::-1]))
        summed = [letter for letter in sides if letter not in output]
        if not len(rows) == len(columns) == len(summed) == 1 or terms[0][-1] != summed[0] or output[-1] != columns[0]:
            return None
        row, column = rows[0], columns[0]
        in_place = output.endswith(row + column)
        return MatrixProduct(operands[0], operands[1], sides[row], sides[summed[0]], sides[column], in_place)
    operands = [*args, *kwargs.values()][func is torch.baddbmm :]
    if len(operands) < 2 or not all(isinstance(x, Tensor) and x.dim() > 2 for x in operands[:2]):
        return None
    left, right = operands[:2]
    return MatrixProduct(left, right, left.shape[-2], left.shape[-1], right.shape[-1], True)


@dataclass(frozen=True)
class Scores:
    """Scores, or weights once they went through a softmax: of which queries and keys, and what was done to them."""

    query: int  # the operation that gave it; -1 is the model's input
    key: int
    shape: tuple[int, int, int]  # rows, dimensions of a head, keys
    scale: float = 1.0
    mask: Tensor | None = None  # what is added
    dropout: float = 0.0
    are_weights: bool = False

    def plus(self, mask: Tensor) -> "Scores":
        """With a constant added."""
        mask = mask.detach().cpu().float()
        mask = torch.where(mask < NEVER, -math.inf, mask)
        return replace(self, mask=mask if self.mask is None else self.mask + mask)

    def times(self, factor: float) -> "Scores":
        """With all scores multiplied."""
        return replace(self, scale=self.scale * factor, mask=None if self.mask is None else self.mask * factor)

    def after(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensor: Tensor) -> "Scores | None":
        """What a call makes of these, which are `tensor` among its arguments; None where that is nothing known."""
        others = [value for value in (*args, *kwargs.values()) if value is not tensor]
        if func is F.dropout:
            options = {"p": 0.5, "training": True} | dict(zip(("p", "training"), others, strict=False)) | kwargs
            return replace(self, dropout=options["p"] if options["training"] else 0.0)
        if self.are_weights or not others:
            return None
        if func in SOFTMAXES:
            dim = kwargs.get("dim", others[0])
            return replace(self, are_weights=True) if dim in (-1, tensor.dim() - 1) else None
        first, last = others[0], others[-1]
        if func in PRODUCTS and torch.as_tensor(first).numel() == 1:
            return self.times(float(first))
        if func in QUOTIENTS and args[0] is tensor and torch.as_tensor(first).numel() == 1:
            return self.times(1 / float(first))
        if func in SUMS and isinstance(first, Tensor):
            return self.plus(first)
        if func in DIFFERENCES and args[0] is tensor and isinstance(first, Tensor):
            return self.plus(-first)
        kept = func in FILLS or (func in CHOICES and len(args) == 3 and args[1] is tensor)
        if kept and isinstance(first, Tensor) and torch.as_tensor(last).numel() == 1 and float(last) < NEVER:
            hidden = first.bool().cpu() if func in FILLS else ~first.bool().cpu()
            return self.plus(torch.zeros(hidden.shape).masked_fill(hidden, -math.inf))
        return None
