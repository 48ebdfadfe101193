"""Evaluation: loss, top-1 and top-5 error on the validation set, one view per image."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from initlab.data.dataset import Images

BATCH = 250


@dataclass(frozen=True)
class Evaluation:
    """Mean loss (nats) and errors (fractions)."""

    loss: float
    error: float
    error_top5: float


@torch.no_grad()
def evaluate(net: nn.Module, data: Images) -> Evaluation:
    """Evaluate on the whole validation set in eval mode; the net is in training mode afterwards.

    With five classes or fewer the top-5 error is 0.
    """
    net.eval()
    totals = torch.zeros(3, dtype=torch.float64, device=data.mean.device)  # loss, top-1 misses, top-5 misses
    for images, labels in data.val_batches(BATCH):
        logits = net(images).to(data.mean.dtype)  # from bfloat16 where that is the trial's
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        # the order of NaN logits means nothing: a miss
        hits = (best == labels[:, None]) & logits.isfinite().all(dim=1, keepdim=True)
        totals[0] += F.cross_entropy(logits, labels, reduction="sum")
        totals[1] += (~hits[:, 0]).sum()
        totals[2] += (~hits.any(dim=1)).sum()
    net.train()
    loss, error, error_top5 = (totals / len(data.val_labels)).tolist()
    return Evaluation(loss, error, error_top5)
