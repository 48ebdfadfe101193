"""Data sets that lie on the device whole, pictures as uint8, and what makes them of examples as delivered.

Augmentation comes from (seed, stream, step), so it is the same for every scheme and needs no saved state.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from initlab.data.dataset import Batches, Dataset, Images, Preprocessing
from initlab.data.examples import Examples
from initlab.data.orders import WHOLE, fixed_permutation, fixed_subset, step_indices
from initlab.data.scales import at_side
from initlab.errors import UserError
from initlab.random_streams import stream_seed
from initlab.to_device import to_device


@dataclass(frozen=True, kw_only=True)
class InMemory(Dataset):
    """A data set that lies on the device, labels too."""

    train_inputs: Tensor  # (N, ...)
    val_inputs: Tensor

    @property
    def device(self) -> torch.device:
        """As `Dataset`."""
        return self.train_inputs.device

    @property
    def augments(self) -> bool:
        """Whether training augments the inputs."""
        return False

    def moves(self, count: int, seed: int, step: int) -> Tensor | None:
        """The `moves` of `augmented` for the images of a step, on the CPU; None without augmentation."""
        return None

    def batch(self, indices: Tensor, moves: Tensor | None) -> tuple[Tensor, Tensor]:
        """Inputs and labels of a batch whose indices and moves are on the device; the host neither waits nor draws."""
        return self.normalised(self.train_inputs[indices]), self.train_labels[indices]

    def train_batches(self, seed: int, batch_size: int, first: int, last: int, part: slice = WHOLE) -> Batches:
        """As `Dataset`, in the epochs' orders."""
        orders = step_indices(len(self.train_labels), batch_size, seed, first, last, self.device)
        for step, indices in enumerate(orders, start=first):
            inputs, labels = self.train_batch(indices, seed, step)
            yield inputs[part], labels[part]

    def train_batch(self, indices: Tensor, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Augmented, normalised inputs (B, ...) and labels of one training step."""
        moves = self.moves(len(indices), seed, step)
        return self.batch(indices, None if moves is None else to_device(moves, self.device))

    def val_batches(self, batch_size: int) -> Batches:
        """As `Dataset`."""
        for start in range(0, len(self.val_labels), batch_size):
            part = slice(start, start + batch_size)
            yield self.normalised(self.val_inputs[part]), self.val_labels[part]

    def probe_batch(self, examples: int) -> tuple[Tensor, Tensor]:
        """As `Dataset`."""
        indices = fixed_permutation(len(self.train_labels), "probe")[:examples].to(self.train_labels.device)
        return self.normalised(self.train_inputs[indices]), self.train_labels[indices]


@dataclass(frozen=True, kw_only=True)
class TensorSet(InMemory):
    """Inputs that are no pictures: floating-point ones times `factor`, integers as they are."""

    factor: Tensor  # (), its type is that of the net

    @property
    def dtype(self) -> torch.dtype:
        """As `Dataset`."""
        return self.factor.dtype

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input."""
        return tuple(self.train_inputs.shape[1:])

    def normalised(self, stored: Tensor) -> Tensor:
        """As `Dataset`; integers as int64, whatever they are stored as."""
        return stored.to(self.dtype) * self.factor if stored.is_floating_point() else stored.long()


@dataclass(frozen=True, kw_only=True)
class ImageSet(InMemory, Images):
    """Pictures (N, C, H, W) uint8 in memory, on the device."""

    shift: int

    @property
    def augments(self) -> bool:
        """As `InMemory`."""
        return self.flip or self.shift > 0

    def moves(self, count: int, seed: int, step: int) -> Tensor | None:
        """As `InMemory`."""
        if not self.augments:
            return None
        generator = torch.Generator().manual_seed(stream_seed(seed, "augment", step))
        return drawn_moves(count, self.flip, self.shift, generator)

    def batch(self, indices: Tensor, moves: Tensor | None) -> tuple[Tensor, Tensor]:
        """As `InMemory`."""
        images = self.train_inputs[indices]
        if moves is not None:
            images = augmented(images, self.flip, self.shift, moves)
        return self.normalised(images), self.train_labels[indices]

    def val_at(self, side: int, batch_size: int) -> Batches:
        """As `Images`."""
        for places in torch.arange(len(self.val_labels)).split(batch_size):
            yield at_side(self.val_inputs[places.to(self.mean.device)].to(self.mean.dtype), side), places


def prepare(
    examples: Examples, preprocessing: Preprocessing, *, flip: bool | None = None, shift: int = 0
) -> ImageSet | TensorSet:
    """Put a data set on the device, with the statistics of its training part.

    `flip` mirrors half of the training images (None = as fits the set); they move by up to `shift` pixels.

    Raises:
        UserError: more examples asked for than there are, or what only pictures or floating-point inputs have.
        ValueError: training inputs that are all alike.
    """
    device = preprocessing.device
    train = fixed_subset("train_examples", preprocessing.train_examples, len(examples.train_labels))
    val = fixed_subset("val_examples", preprocessing.val_examples, len(examples.val_labels))
    train_inputs = examples.train_inputs[train]
    parts: dict[str, Any] = {
        "train_inputs": train_inputs.to(device),
        "train_labels": to_labels(examples.train_labels[train], preprocessing),
        "val_inputs": examples.val_inputs[val].to(device),
        "val_labels": to_labels(examples.val_labels[val], preprocessing),
        "num_classes": examples.outputs,
        "class_names": examples.class_names,
    }
    if not examples.pictures and (flip or shift):
        raise UserError("data.flip, data.shift: for pictures, uint8 (N, channels, height, width); leave them out")
    if not train_inputs.is_floating_point() and not examples.pictures:
        if preprocessing.scale != 1:
            raise UserError(f"data.scale: integer inputs have none (got {preprocessing.scale:g}); leave it out")
        return TensorSet(**parts, factor=torch.ones((), device=device, dtype=preprocessing.dtype))
    mean, std = pixel_statistics(train_inputs)
    if std == 0:
        kind = "images" if examples.pictures else "inputs"
        raise ValueError(f"data: the training {kind} are all alike (got a std of 0 around their mean); use real {kind}")
    factor = preprocessing.scale / std
    if not examples.pictures:
        return TensorSet(**parts, factor=torch.tensor(factor, device=device, dtype=preprocessing.dtype))
    flips = examples.flip if flip is None else flip
    return ImageSet(**parts, mean=mean.to(device, preprocessing.dtype), factor=factor, flip=flips, shift=shift)


def to_labels(labels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Labels on the device, numbers in the floating type of the net."""
    return labels.to(preprocessing.device, preprocessing.dtype if labels.is_floating_point() else None)


def pixel_statistics(images: Tensor) -> tuple[Tensor, float]:
    """Per-pixel mean (C, H, W) and the standard deviation around it over all pixels, in float64."""
    sums = sum(chunk.double().sum(0) for chunk in images.split(4096))
    mean = torch.as_tensor(sums) / len(images)
    squares = sum(((chunk.double() - mean) ** 2).sum().item() for chunk in images.split(4096))
    return mean, (squares / images.numel()) ** 0.5


def drawn_moves(count: int, flip: bool, shift: int, generator: torch.Generator) -> Tensor:
    """Rows of (3, count) int64: whether each image is mirrored, its offset down and right, 0 to 2 `shift`."""
    moves = torch.zeros(3, count, dtype=torch.int64)
    if flip:
        moves[0] = torch.rand(count, generator=generator) < 0.5
    if shift:
        moves[1:] = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator)[:, :, 0]
    return moves


def augmented(images: Tensor, flip: bool, shift: int, moves: Tensor) -> Tensor:
    """Mirror images and shift each by up to `shift` pixels on a border of zeros, by `moves`, on their device."""
    count, _, height, width = images.shape
    device = images.device
    rows = torch.arange(height, device=device).expand(count, height)
    columns = torch.arange(width, device=device).expand(count, width)
    if flip:
        columns = torch.where(moves[0, :, None] == 1, columns.flip(1), columns)
    if shift:
        images = torch.nn.functional.pad(images, (shift,) * 4)
        rows, columns = rows + moves[1, :, None], columns + moves[2, :, None]
    index = torch.arange(count, device=device)[:, None, None]
    return images.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
