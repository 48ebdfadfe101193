"""Evaluation: loss, top-1 and top-5 error on the validation set, one view per image."""

from collections.abc import Callable
from dataclasses import dataclass
from math import nan

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initlab.data.dataset import Images
from initlab.engine.signs import sign

BATCH = 250


@dataclass(frozen=True)
class Evaluation:
    """Mean loss (nats), and the shares of images whose label is not the first, or none of the first five."""

    val_loss: float = nan
    val_error: float = nan
    val_error_top5: float = nan


@torch.no_grad()
def evaluate(net: nn.Module, data: Images) -> Evaluation:
    """Evaluate on the whole validation set in eval mode; the net is in training mode afterwards.

    With five classes or fewer the top-5 error is 0.
    """
    net.eval()
    totals = torch.zeros(3, dtype=torch.float64, device=data.mean.device)  # loss, top-1 misses, top-5 misses
    for images, labels in data.val_batches(BATCH):
        sign()
        logits = net(images).to(data.mean.dtype)  # from bfloat16 where that is the trial's
        top1, top5 = hits(logits, labels)
        totals += torch.stack([F.cross_entropy(logits, labels, reduction="sum"), (~top1).sum(), (~top5).sum()])
    net.train()
    return Evaluation(*(totals / len(data.val_labels)).tolist())


@torch.no_grad()
def evaluate_together(forward: Callable[[Tensor], Tensor], count: int, data: Images) -> list[Evaluation]:
    """As `evaluate`, of several nets at once: `forward` takes images (N, ...) to logits (count, N, classes)."""
    totals = torch.zeros(3, count, dtype=torch.float64, device=data.mean.device)
    for images, labels in data.val_batches(BATCH):
        sign()
        logits, labels = forward(images).to(data.mean.dtype).flatten(0, 1), labels.repeat(count)
        top1, top5 = hits(logits, labels)
        values = (F.cross_entropy(logits, labels, reduction="none"), ~top1, ~top5)
        totals += torch.stack([value.view(count, -1).double().sum(1) for value in values])
    return [Evaluation(*row) for row in (totals.T / len(data.val_labels)).tolist()]


def hits(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the label (N,) has the highest, and one of the five highest, of the scores (N, classes): two bools (N,).

    Scores that are not finite miss: their order means nothing.
    """
    best = scores.topk(min(5, scores.shape[1]), dim=1).indices
    is_label = (best == labels[:, None]) & scores.isfinite().all(dim=1, keepdim=True)
    return is_label[:, 0], is_label.any(dim=1)
