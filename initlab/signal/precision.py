"""What rounding takes from gradients: exact zeros, and what float16 and bfloat16 round away.

It is the gradient of the batch-mean loss that counts, as it is trained on. In a model that runs in half precision, or
under autocast, a gradient up to 2^-25 is 0 in float16, for good. The backward pass is run once as it is and once with
the loss times a power of two, as `torch.amp.GradScaler` has it: what is 0 in the first and not in the second was lost.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from initlab.signal.moments import pieces

HALVES = (torch.float16, torch.bfloat16)
COLUMNS = ("grad_zero_fraction", "underflow", "underflow_fp16", "underflow_bf16")
# Room under float16's largest number, 65504, for gradients between the layers; and the room of a second try.
ROOM, MORE_ROOM = 2.0**13, 2.0**5
# The largest factor that a loss in float16 can take.
MOST = 2.0**15


class Rounded:
    """Counts of one layer's gradients that came."""

    def __init__(self) -> None:
        self.numbers = 0
        self.zeros = self.peak = torch.zeros((), dtype=torch.float64)
        self.rounded = {half: torch.zeros((), dtype=torch.float64) for half in HALVES}

    def add(self, gradient: Tensor, scale: float) -> None:
        """Count a gradient that is `scale` times that of the batch-mean loss."""
        for piece in pieces(torch.view_as_real(gradient.resolve_conj()) if gradient.is_complex() else gradient):
            self.add_piece(piece, scale)

    def add_piece(self, values: Tensor, scale: float) -> None:
        """Count a vector of real numbers."""
        if not values.numel():
            return
        is_zero = values == 0
        true = values.float() / scale if values.dtype in HALVES else values / scale
        self.numbers += values.numel()
        self.zeros = self.zeros.to(values.device) + is_zero.sum()
        self.peak = torch.maximum(self.peak.to(values.device), values.abs().max().double())
        for half, count in self.rounded.items():
            self.rounded[half] = count.to(values.device) + (~is_zero & (true.to(half) == 0)).sum()

    def shares(self, unscaled: "Rounded | None" = None) -> list[Tensor]:
        """The numbers of `COLUMNS`; `unscaled` counts the run as it is, where this one had its loss scaled."""
        nan = torch.full((), math.nan, dtype=torch.float64, device=self.zeros.device)
        if not self.numbers:
            return [nan] * len(COLUMNS)
        others = self.numbers - self.zeros
        lost = nan if unscaled is None else ((unscaled.zeros - self.zeros) / others).clamp(min=0)
        return [(unscaled or self).zeros / self.numbers, lost, *(count / others for count in self.rounded.values())]


def scaled_twice(
    backward: Callable[[float], object], counted: Callable[[float], dict[int, Rounded]]
) -> tuple[dict[int, Rounded], dict[int, Rounded] | None]:
    """Counts of the backward pass as it is, and with the loss scaled; None where that overflows.

    Args:
        backward: runs the backward pass of the batch-mean loss times this factor.
        counted: makes fresh counts for the next pass, of gradients that are this factor too large.
    """
    plain = counted(1.0)
    backward(1.0)
    peak = max((float(layer.peak) for layer in plain.values()), default=0.0)
    for room in (ROOM, MORE_ROOM):
        factor = min(2.0 ** math.floor(math.log2(room / peak)) if 0 < peak < math.inf else MOST, MOST)
        scaled = counted(factor)
        backward(factor)
        if all(math.isfinite(float(layer.peak)) for layer in scaled.values()):
            return plain, scaled
    return plain, None
