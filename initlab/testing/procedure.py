"""How one net is tested: by which views and scales, mirrored or not, and what is averaged (He et al. 2015, sec. 3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from initlab.data.dataset import Images
from initlab.data.scales import SCALE, centre_view, mean_at, ten_views
from initlab.errors import UserError
from initlab.testing.dense import Scores, as_scores, check_choice, dense_scores

Views = Literal["center", "10", "dense"]


@dataclass(frozen=True)
class Procedure:
    """The arguments of `evaluate` of these names; those that can never work are refused."""

    views: Views
    scales: Sequence[int] | None
    flips: bool | None
    scores: Scores
    batch_size: int

    def __post_init__(self) -> None:
        """Raises a `UserError` that says what is allowed."""
        check_choice("--views", self.views, get_args(Views))
        check_choice("scores", self.scores, get_args(Scores))
        if self.batch_size < 1:
            raise UserError(f"--batch-size: out of range (got {self.batch_size}); allowed: at least 1")
        scales = self.scales
        if scales is not None and (not scales or min(scales) < 1 or len(set(scales)) < len(scales)):
            allowed = "different numbers of pixels, at least 1"
            raise UserError(f"--scales: not a list of sides (got {scales}); allowed: {allowed}")

    def mirrors(self, data: Images) -> bool:
        """Whether views are mirrored too."""
        return self.flips if self.flips is not None else self.views != "center" and data.flip

    def sides(self, data: Images) -> list[int]:
        """The requested scales, or the side that validation in training uses; for several views a larger one."""
        least = min(data.input_shape[1:])
        if not self.scales:
            return [data.val_side if self.views == "center" else round(least * SCALE)]
        if min(self.scales) < least:
            raise UserError(
                f"--scales: smaller than the net's input (got {min(self.scales)}); allowed: at least {least}"
            )
        return list(self.scales)

    def scores_of(self, net: nn.Module, data: Images) -> dict[int, Tensor]:
        """Mean scores (N, classes) over the views of every validation image, by scale, in float64 on the CPU."""
        return {side: self.scores_at(side, net, data) for side in self.sides(data)}

    @torch.no_grad()
    def scores_at(self, side: int, net: nn.Module, data: Images) -> Tensor:
        """Those at one scale."""
        flips, (height, width) = self.mirrors(data), data.input_shape[1:]
        all_scores = torch.full((len(data.val_labels), data.num_classes), torch.nan, dtype=torch.float64)
        for images, indices in data.val_at(side, self.batch_size):
            if self.views == "dense":
                whole = (images - mean_at(data.mean, *images.shape[2:])) * data.factor
                whole_scores = dense_scores(net, whole, (height, width), flips, scores=self.scores)
                all_scores[indices] = whole_scores.double().cpu()
                continue
            centre = centre_view(images, height, width)
            mirrored = [centre.flip(3)] if flips else []
            crops = ten_views(images, height, width, flips) if self.views == "10" else [centre, *mirrored]
            view_scores = [as_scores(net((crop - data.mean) * data.factor), self.scores) for crop in crops]
            all_scores[indices] = torch.stack(view_scores).mean(0).cpu()
        return all_scores


def parse_scales(text: str) -> list[int]:
    """`256,384,480` as numbers; raises a `UserError` for something else between the commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        allowed = "whole numbers with commas between, 256,384"
        raise UserError(f"--scales: not sides in pixels (got {text!r}); allowed: {allowed}") from None
