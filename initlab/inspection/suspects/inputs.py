"""The batch as a suspect: inputs that are not centred or of another size than 1; and the precision of weights."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from initlab.inspection.suspects.suspect import Suspect

HALF = (torch.float16, torch.bfloat16)


def odd_inputs(batch: object) -> Iterator[Suspect]:
    """A floating batch whose mean or standard deviation is far from 0 and 1."""
    if not isinstance(batch, Tensor) or not batch.is_floating_point() or batch.numel() < 2:
        return
    numbers = batch.double()
    if not numbers.isfinite().all():
        count = (~batch.isfinite()).sum().item()
        code = "batch = batch.nan_to_num(0, 0, 0)"
        yield Suspect("inputs", (), f"the batch holds {count} numbers that are not finite", code, certain=True)
        return
    mean, std = numbers.mean().item(), numbers.std().item()
    if std > 0 and (not 1 / 3 < std < 3 or abs(mean) > 2 * std):
        words = f"the batch has mean {mean:.3g} and standard deviation {std:.3g}, where 0 and 1 are usual"
        yield Suspect("inputs", (), words, "batch = (batch - batch.mean()) / batch.std()")


def half_precision(model: nn.Module, batch: object) -> Iterator[Suspect]:
    """Weights kept in half precision, in which an optimiser's small steps, and Adam's epsilon of 1e-8, are 0."""
    kept = next((p.dtype for p in model.parameters() if p.dtype in HALF), None)
    if kept is not None:
        floating = isinstance(batch, Tensor) and batch.dtype in HALF
        words = f"weights are kept in {str(kept).removeprefix('torch.')}, where float32 under autocast is usual"
        yield Suspect("precision", (), words, "model.float()" + "; batch = batch.float()" * floating)
