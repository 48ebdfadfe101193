"""Evaluation: loss and error on the validation set, of classes the top-5 error too; one view per image."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import nan

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from initlab.data.dataset import Dataset
from initlab.data.examples import IGNORED
from initlab.engine.signs import sign
from initlab.train.objective import Objective

BATCH = 250


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and error (see `Objective`), and the share of labels that are none of the first five classes."""

    val_loss: float = nan
    val_error: float = nan
    val_error_top5: float = nan


@torch.no_grad()
def evaluate(net: nn.Module, data: Dataset, objective: Objective) -> Evaluation:
    """Evaluate on the whole validation set in eval mode; the net is in training mode afterwards.

    With five classes or fewer the top-5 error is 0, and NaN where labels are no classes.
    """
    net.eval()
    totals = torch.zeros(4, dtype=torch.float64, device=data.device)
    for inputs, labels in data.val_batches(BATCH):
        sign()
        # From bfloat16 where that is the trial's.
        totals += totals_of(objective, net(inputs).to(data.dtype), labels)
    net.train()
    return evaluation_of(totals)


@torch.no_grad()
def evaluate_together(
    forward: Callable[[Tensor], Tensor], count: int, data: Dataset, objective: Objective
) -> list[Evaluation]:
    """As `evaluate`, of several nets at once: `forward` takes inputs (N, ...) to outputs (count, N, ...)."""
    totals = torch.zeros(count, 4, dtype=torch.float64, device=data.device)
    for inputs, labels in data.val_batches(BATCH):
        sign()
        totals += vmap(partial(totals_of, objective), in_dims=(0, None))(forward(inputs).to(data.dtype), labels)
    return [evaluation_of(row) for row in totals]


def totals_of(objective: Objective, output: Tensor, labels: Tensor) -> Tensor:
    """Sums over the labels of a batch, (4,): loss, errors, misses of the first five classes; and how many count."""
    if objective.task in ("regression", "multilabel"):
        errors, counted = objective.errors(output, labels)
        loss = objective.loss(output, labels) * counted
        return torch.stack([loss, errors.sum(), loss.new_tensor(nan), loss.new_tensor(counted)])
    scores, classes = objective.fitted(output, labels).flatten(0, -2), labels.flatten()
    counts = classes != IGNORED
    misses = [(~hit & counts).sum() for hit in hits(scores, classes)]
    if objective.own_loss:
        loss = objective.loss(output, labels) * counts.sum()
    else:
        loss = F.cross_entropy(scores, classes, reduction="sum")
    return torch.stack([loss, *misses, counts.sum()])


def evaluation_of(totals: Tensor) -> Evaluation:
    """The means that totals (4,) amount to."""
    loss, misses, misses_top5, counted = totals.tolist()
    return Evaluation(loss / counted, misses / counted, misses_top5 / counted)


def hits(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the label (N,) has the highest, and one of the five highest, of the scores (N, classes): two bools (N,).

    Scores that are not finite miss: their order means nothing.
    """
    best = scores.topk(min(5, scores.shape[1]), dim=1).indices
    is_label = (best == labels[:, None]) & scores.isfinite().all(dim=1, keepdim=True)
    return is_label[:, 0], is_label.any(dim=1)
