"""The inputs of a pack's steps, in tensors that stay in place: a captured step reads the same addresses every time.

Suffixes: K trials, L dropout layers, N images a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from initlab.data.dataset import ImageSet, step_indices
from initlab.nets.layers import set_dropout_step
from initlab.to_device import copy_into
from initlab.train.masks import drawn_masks
from initlab.train.trial import Trial


@dataclass(frozen=True)
class Part:
    """Trials side by side that share their images: one gather serves them all."""

    data: ImageSet
    trials: list[Trial]
    rows: slice  # of the pack's images
    moves: Tensor | None  # (3, rows), see `ImageSet.moves`


class Feed:
    """The inputs of the steps from the trials' next ones on."""

    def __init__(self, trials: Sequence[Trial], dropout_shapes: Sequence[tuple[int, ...]]) -> None:
        self.trials, self.shapes = trials, dropout_shapes
        device, self.size = trials[0].data.mean.device, trials[0].spec.train.batch_size
        self.indices = torch.zeros(len(trials) * self.size, dtype=torch.int64, device=device)
        self.masks = [torch.ones(len(trials), *shape, dtype=torch.bool, device=device) for shape in dropout_shapes]
        self.orders = [
            step_indices(len(t.data.train_labels), self.size, t.spec.seed, t.step, t.steps, device) for t in trials
        ]
        self.parts: list[Part] = []
        start = 0
        for _, group in groupby(trials, key=lambda trial: id(trial.data)):
            members = list(group)
            data, count = members[0].data, len(members) * self.size
            assert isinstance(data, ImageSet)  # `initlab.plan.packs` takes no pictures from files
            moves = torch.zeros(3, count, dtype=torch.int64, device=device) if data.flip or data.shift else None
            self.parts.append(Part(data, members, slice(start, start + count), moves))
            start += count

    def take(self) -> None:
        """Put in place what the next step takes in; nothing here waits for the device."""
        torch.cat([next(order) for order in self.orders], out=self.indices)
        for part in self.parts:
            if part.moves is not None:
                drawn = [part.data.moves(self.size, trial.spec.seed, trial.step) for trial in part.trials]
                copy_into(torch.cat([moves for moves in drawn if moves is not None], 1), part.moves)
        if self.masks:
            masks_KL = []
            for trial in self.trials:
                set_dropout_step(trial.net, trial.spec.seed, trial.step)
                masks_KL.append(drawn_masks(trial.net, self.shapes))
            for place, masks_K in zip(self.masks, zip(*masks_KL, strict=True), strict=True):
                copy_into(torch.stack(masks_K), place)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Images (K, N, C, H, W) and labels (K, N) of what was taken, made on the device."""
        batches = [part.data.batch(self.indices[part.rows], part.moves) for part in self.parts]
        images = torch.cat([images.contiguous() for images, _ in batches])
        labels = torch.cat([labels for _, labels in batches])
        return images.unflatten(0, (-1, self.size)), labels.unflatten(0, (-1, self.size))
