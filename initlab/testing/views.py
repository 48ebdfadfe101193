"""A net's scores of validation images by views and scales (He et al. 2015, sec. 3 and 4)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from initlab.data.dataset import Images
from initlab.data.scales import centre_view, mean_at, ten_views
from initlab.errors import UserError
from initlab.testing.dense import Scores, as_scores, dense_scores

Views = Literal["center", "10", "dense"]
# Of the net's input, where many views need room to move: 256 for 224 (sec. 3).
SCALE = 8 / 7


def sides_of(scales: Sequence[int] | None, views: Views, data: Images) -> list[int]:
    """The requested scales, or the side that validation in training uses; for several views a larger one."""
    least = min(data.input_shape[1:])
    if not scales:
        return [data.val_side if views == "center" else round(least * SCALE)]
    if min(scales) < least:
        raise UserError(f"--scales: smaller than the net's input (got {min(scales)}); allowed: at least {least}")
    return list(scales)


@torch.no_grad()
def scores_at(
    net: nn.Module, data: Images, side: int, views: Views, flips: bool, scores: Scores, batch_size: int
) -> Tensor:
    """Mean scores (N, classes) over the views, in float64 on the CPU, of all validation images at one scale."""
    height, width = data.input_shape[1:]
    all_scores = torch.full((len(data.val_labels), data.num_classes), torch.nan, dtype=torch.float64)
    for images, indices in data.val_at(side, batch_size):
        if views == "dense":
            whole = (images - mean_at(data.mean, *images.shape[2:])) * data.factor
            all_scores[indices] = dense_scores(net, whole, (height, width), flips, scores=scores).double().cpu()
            continue
        centre = centre_view(images, height, width)
        mirrored = [centre.flip(3)] if flips else []
        crops = ten_views(images, height, width, flips) if views == "10" else [centre, *mirrored]
        view_scores = [as_scores(net((crop - data.mean) * data.factor), scores) for crop in crops]
        all_scores[indices] = torch.stack(view_scores).mean(0).cpu()
    return all_scores
