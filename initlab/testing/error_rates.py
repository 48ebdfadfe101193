"""Errors of class scores: overall, per scale and per class, as fractions."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from initlab.train.evaluate import hits


def mean_scores(by_side: dict[int, Tensor]) -> Tensor:
    """The mean over scales."""
    return torch.stack(list(by_side.values())).mean(0)


def error_rows(tested: dict[str, Any], by_side: dict[int, Tensor], labels: Tensor) -> list[dict[str, Any]]:
    """A row per scale, and one of their mean where there are several; each begins with the fields of `tested`."""
    scores_of = {str(side): scores for side, scores in by_side.items()}
    if len(by_side) > 1:
        scores_of["+".join(scores_of)] = mean_scores(by_side)
    rows = []
    for scales, scores in scores_of.items():
        top1, top5 = (1 - hit.double().mean().item() for hit in hits(scores, labels))
        errors = {"val_error": top1, "val_error_top5": top5}
        rows.append({**tested, "scales": scales, "images": len(labels), **errors})
    return rows


def class_errors(scores: Tensor, labels: Tensor, names: Sequence[str] = ()) -> pd.DataFrame:
    """Errors of each class: class (its number), name, images, val_error, val_error_top5.

    Errors are fractions, NaN where a class has no images; without names its number is its name.

    Two images of class 0, one of them scored higher for class 1: its `val_error` is 0.5. Of five classes or fewer,
    `val_error_top5` is 0.
    """
    top1, top5 = hits(scores, labels)
    each = pd.DataFrame({"class": labels, "images": 1, "val_error": ~top1, "val_error_top5": ~top5})
    table = each.groupby("class").agg({"images": "sum", "val_error": "mean", "val_error_top5": "mean"})
    table = table.reindex(range(scores.shape[1]))
    table.insert(0, "name", names or [str(number) for number in table.index])
    return table.assign(images=table.images.fillna(0).astype(int)).reset_index()
