"""What the steps of a pack take in: indices, moves and dropout masks, in tensors that stay in place."""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from initlab.data.in_memory import InMemory
from initlab.data.orders import step_indices
from initlab.nets.layers import drawn_masks, set_dropout_step
from initlab.to_device import copy_into
from initlab.train.trial import Trial


class Feed:
    """The inputs of a pack's steps, in tensors that stay in place: a captured step reads fixed addresses."""

    def __init__(self, trials: Sequence[Trial], mask_shapes: Sequence[tuple[int, ...]]) -> None:
        self.trials, self.shapes = trials, mask_shapes
        device, self.size = trials[0].data.device, trials[0].spec.train.batch_size
        self.indices = torch.zeros(len(trials) * self.size, dtype=torch.int64, device=device)
        # Rows of `InMemory.moves`; those of images that are not augmented stay 0.
        self.moves = self.indices.new_zeros(3, len(self.indices))
        self.masks = [torch.ones(len(trials), *shape, dtype=torch.bool, device=device) for shape in mask_shapes]
        self.orders = [
            step_indices(len(t.data.train_labels), self.size, t.spec.seed, t.step, t.steps, device) for t in trials
        ]
        # Trials side by side that share their images: one gather serves them all.
        sets = [list(group) for _, group in groupby(map(images_of, trials), key=id)]
        counts = [len(group) * self.size for group in sets]
        pieces = zip(sets, self.indices.split(counts), self.moves.split(counts, dim=1), strict=True)
        self.parts = [(group[0], indices, moves) for group, indices, moves in pieces]

    def take(self) -> None:
        """Put in place what the next step takes in; nothing here waits for the device."""
        torch.cat([next(order) for order in self.orders], out=self.indices)
        drawn = [images_of(trial).moves(self.size, trial.spec.seed, trial.step) for trial in self.trials]
        if any(moves is not None for moves in drawn):
            still = torch.zeros(3, self.size, dtype=torch.int64)
            copy_into(torch.cat([still if moves is None else moves for moves in drawn], 1), self.moves)
        if self.masks:
            masks_KL = []
            for trial in self.trials:
                set_dropout_step(trial.net, trial.spec.seed, trial.step, ahead=trial.draws_ahead)
                masks_KL.append(drawn_masks(trial.net, self.shapes))
            for place, masks_K in zip(self.masks, zip(*masks_KL, strict=True), strict=True):
                copy_into(torch.stack(masks_K), place)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Images (K, N, C, H, W) and labels (K, N) of what was taken, made on the device."""
        batches = [data.batch(indices, moves if data.augments else None) for data, indices, moves in self.parts]
        images = torch.cat([images.contiguous() for images, _ in batches])
        labels = torch.cat([labels for _, labels in batches])
        return images.unflatten(0, (-1, self.size)), labels.unflatten(0, (-1, self.size))


def images_of(trial: Trial) -> InMemory:
    """A trial's data, which lie on the device: `initlab.plan.packs` takes no pictures from files."""
    assert isinstance(trial.data, InMemory)
    return trial.data
