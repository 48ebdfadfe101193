"""The batch as a suspect: inputs that are not centred or not of size 1, all or some; and the precision of weights."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from initlab.inspection.suspects.suspect import Suspect

HALF = (torch.float16, torch.bfloat16)
# Rows of a table that tell its columns' moments, and how far a column may lie beyond most.
FEWEST_ROWS, MOST_UNEVEN = 16, 10.0


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
    if uneven := uneven_features(numbers):
        code = "batch = (batch - batch.mean(0)) / batch.std(0).clamp_min(1e-9)"
        yield Suspect("inputs", (), f"the features of the batch {uneven}, where 0 and 1 are usual of each", code)
        return
    mean, std = numbers.mean().item(), numbers.std().item()
    if std > 0 and (not 1 / 3 < std < 3 or abs(mean) > 2 * std):
        words = f"the batch has mean {mean:.3g} and standard deviation {std:.3g}, where 0 and 1 are usual"
        yield Suspect("inputs", (), words, "batch = (batch - batch.mean()) / batch.std()")


def uneven_features(numbers: Tensor) -> str:
    """What is odd about the columns of a table, (N, features), some of which are far larger than others; "" of none."""
    if numbers.dim() != 2 or len(numbers) < FEWEST_ROWS:
        return ""
    stds, means = numbers.std(0), numbers.mean(0)
    sizes = numbers.square().mean(0).sqrt()
    sizes = sizes[sizes > 0]
    if len(sizes) < 2 or sizes.max() < MOST_UNEVEN * sizes.median() or sizes.max() < 3:
        return ""
    spread = f"{stds.min():.3g} to {stds.max():.3g}"
    return f"have means from {means.min():.3g} to {means.max():.3g} and standard deviations from {spread}"


def half_precision(model: nn.Module, batch: object) -> Iterator[Suspect]:
    """Weights kept in half precision, in which an optimiser's small steps, and Adam's epsilon of 1e-8, are 0."""
    kept = next((p.dtype for p in model.parameters() if p.dtype in HALF), None)
    if kept is not None:
        floating = isinstance(batch, Tensor) and batch.dtype in HALF
        words = f"weights are kept in {str(kept).removeprefix('torch.')}, where float32 under autocast is usual"
        yield Suspect("precision", (), words, "model.float()" + "; batch = batch.float()" * floating)
