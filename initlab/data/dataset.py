"""Images on the device: normalised batches, augmentation, and the fixed subsets for probes and validation.

The whole set sits on the device as uint8. Data order and augmentation come from (seed, stream, epoch or step), so
they are the same for every scheme and need no saved state.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from initlab.data.scales import at_side
from initlab.data.sources import Raw
from initlab.errors import UserError
from initlab.random_streams import stream_seed
from initlab.to_device import to_device

# All rows of a batch, all examples of a set.
WHOLE = slice(None)
CPU = torch.device("cpu")
Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Preprocessing:
    """Which images of a set become inputs, at which scale, of which type and where."""

    scale: float = 1.0  # standard deviation of the inputs, after the mean image is removed
    train_examples: int | None = None  # a fixed random subset; None = all
    val_examples: int | None = None
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True, kw_only=True)
class Images(ABC):
    """A data set ready for training, whose inputs are images minus the training mean, times `factor`.

    `ImageSet` holds it in memory, `FolderSet` reads it from files.
    """

    train_labels: Tensor  # (N,) int64
    val_labels: Tensor
    mean: Tensor  # (C, H, W), per pixel over the training set; its device and type are those of the batches
    factor: float
    num_classes: int
    flip: bool  # whether training mirrors images
    class_names: tuple[str, ...] = ()  # none = by their numbers

    @property
    def chance(self) -> float:
        """Error of the best constant guess on the training set, a fraction."""
        most = torch.bincount(self.train_labels, minlength=self.num_classes).max()
        return 1 - most.item() / len(self.train_labels)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one input."""
        channels, height, width = self.mean.shape
        return channels, height, width

    @property
    def val_side(self) -> int:
        """Shorter side in pixels of the images that `val_batches` takes its views from."""
        return min(self.input_shape[1:])

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 images minus the mean image, at the requested std, in the mean's floating type."""
        return (images.to(self.mean.dtype) - self.mean) * self.factor

    @abstractmethod
    def train_batches(self, seed: int, batch_size: int, first: int, last: int, part: slice = WHOLE) -> Batches:
        """Augmented inputs (B, C, H, W) and labels (B,) of the steps from `first` to before `last`.

        Of each batch only the rows `part`; the draws are those of the whole batch.
        """

    @abstractmethod
    def val_batches(self, batch_size: int) -> Batches:
        """The validation set in order, not augmented."""

    @abstractmethod
    def val_at(self, side: int, batch_size: int) -> Batches:
        """The validation set with its shorter side at `side` pixels, for testing: every image once, whole.

        Images of one size (B, C, height, width) in grey levels, rounded as stored ones are, in the mean's type; and
        their places (B,) in `val_labels`.
        """

    @abstractmethod
    def probe_batch(self, examples: int) -> tuple[Tensor, Tensor]:
        """The first `examples` of one fixed permutation of the training set, the same for all seeds and schemes."""


@dataclass(frozen=True, kw_only=True)
class ImageSet(Images):
    """A data set in memory, on the device."""

    train_images: Tensor  # (N, C, H, W) uint8
    val_images: Tensor
    shift: int

    def train_batch(self, indices: Tensor, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Augmented, normalised images (B, C, H, W) and labels (B,) of one training step."""
        moves = self.moves(len(indices), seed, step)
        return self.batch(indices, None if moves is None else to_device(moves, self.mean.device))

    def moves(self, count: int, seed: int, step: int) -> Tensor | None:
        """The `moves` of `augmented` for the images of a step, on the CPU; None without augmentation."""
        if not (self.flip or self.shift):
            return None
        generator = torch.Generator().manual_seed(stream_seed(seed, "augment", step))
        return drawn_moves(count, self.flip, self.shift, generator)

    def batch(self, indices: Tensor, moves: Tensor | None) -> tuple[Tensor, Tensor]:
        """Images and labels of a batch whose indices and moves are on the device; the host neither waits nor draws."""
        images = self.train_images[indices]
        if moves is not None:
            images = augmented(images, self.flip, self.shift, moves)
        return self.normalised(images), self.train_labels[indices]

    def train_batches(self, seed: int, batch_size: int, first: int, last: int, part: slice = WHOLE) -> Batches:
        """As `Images`, in the epochs' orders."""
        orders = step_indices(len(self.train_labels), batch_size, seed, first, last, self.mean.device)
        for step, indices in enumerate(orders, start=first):
            images, labels = self.train_batch(indices, seed, step)
            yield images[part], labels[part]

    def val_batches(self, batch_size: int) -> Batches:
        """As `Images`."""
        for start in range(0, len(self.val_labels), batch_size):
            part = slice(start, start + batch_size)
            yield self.normalised(self.val_images[part]), self.val_labels[part]

    def val_at(self, side: int, batch_size: int) -> Batches:
        """As `Images`."""
        for places in torch.arange(len(self.val_labels)).split(batch_size):
            yield at_side(self.val_images[places.to(self.mean.device)].to(self.mean.dtype), side), places

    def probe_batch(self, examples: int) -> tuple[Tensor, Tensor]:
        """As `Images`."""
        indices = fixed_permutation(len(self.train_labels), "probe")[:examples].to(self.train_labels.device)
        return self.normalised(self.train_images[indices]), self.train_labels[indices]


def prepare(raw: Raw, preprocessing: Preprocessing, *, flip: bool | None = None, shift: int = 0) -> ImageSet:
    """Put a raw set on the device, with the statistics of its training part.

    `flip` mirrors half of the training images (None = as fits the set); they move by up to `shift` pixels.

    Raises:
        UserError: more examples asked for than there are.
        ValueError: training images that are all alike.
    """
    train = fixed_subset("train_examples", preprocessing.train_examples, len(raw.train_labels))
    val = fixed_subset("val_examples", preprocessing.val_examples, len(raw.val_labels))
    train_images, device = raw.train_images[train], preprocessing.device
    mean, std = pixel_statistics(train_images)
    if std == 0:
        raise ValueError("data: the training images are all alike (got a std of 0 around their mean); use real images")
    return ImageSet(
        train_images=train_images.to(device),
        train_labels=raw.train_labels[train].to(device),
        val_images=raw.val_images[val].to(device),
        val_labels=raw.val_labels[val].to(device),
        mean=mean.to(device, preprocessing.dtype),
        factor=preprocessing.scale / std,
        num_classes=raw.num_classes,
        flip=raw.flip if flip is None else flip,
        shift=shift,
        class_names=raw.class_names,
    )


def fixed_subset(name: str, size: int | None, examples: int) -> slice | list[int]:
    """Indices of a fixed random subset of `size` among so many examples; `name` is the field that asks for it."""
    if size is None:
        return WHOLE
    if size > examples:
        raise UserError(f"data.{name}: more than there are (got {size}); at most {examples}")
    return list(fixed_permutation(examples, name)[:size].tolist())


def pixel_statistics(images: Tensor) -> tuple[Tensor, float]:
    """Per-pixel mean (C, H, W) and the standard deviation around it over all pixels, in float64."""
    sums = sum(chunk.double().sum(0) for chunk in images.split(4096))
    mean = torch.as_tensor(sums) / len(images)
    squares = sum(((chunk.double() - mean) ** 2).sum().item() for chunk in images.split(4096))
    return mean, (squares / images.numel()) ** 0.5


def fixed_permutation(size: int, name: str) -> Tensor:
    """A random permutation that depends on its size and name alone."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(stream_seed(0, "permutation", name)))


def epoch_order(examples: int, seed: int, epoch: int) -> Tensor:
    """The order of the training set in one epoch, the same for all schemes."""
    return torch.randperm(examples, generator=torch.Generator().manual_seed(stream_seed(seed, "order", epoch)))


def step_indices(
    examples: int, batch_size: int, seed: int, first: int, last: int, device: torch.device = CPU
) -> Iterator[Tensor]:
    """Indices (batch_size,) of the training images of each step from `first` to before `last`."""
    order, per_epoch = torch.empty(0), examples // batch_size
    for step in range(first, last):
        epoch, position = divmod(step, per_epoch)
        if position == 0 or step == first:
            order = to_device(epoch_order(examples, seed, epoch), device)
        yield order[position * batch_size : (position + 1) * batch_size]


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
