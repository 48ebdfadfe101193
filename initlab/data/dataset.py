"""What every data set offers: batches of inputs and labels on the device, a fixed one for probes among them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from initlab.data.orders import CPU, WHOLE

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
class Dataset(ABC):
    """A data set ready for training: batches of inputs and labels (see `Examples`) on the device.

    `TensorSet` and `ImageSet` hold it in memory, `FolderSet` reads pictures from files.
    """

    train_labels: Tensor
    val_labels: Tensor
    num_classes: int  # outputs of a net; of a label with several numbers, how many
    class_names: tuple[str, ...] = ()  # none = by their numbers

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where batches are."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The floating type of the net and of inputs that are no integers."""

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Of one input; (channels, height, width) of a picture."""

    @abstractmethod
    def normalised(self, stored: Tensor) -> Tensor:
        """Stored inputs as the net takes them."""

    @abstractmethod
    def train_batches(self, seed: int, batch_size: int, first: int, last: int, part: slice = WHOLE) -> Batches:
        """Inputs (B, ...), of pictures augmented ones, and labels of the steps from `first` to before `last`.

        Of each batch only the rows `part`; the draws are those of the whole batch.
        """

    @abstractmethod
    def val_batches(self, batch_size: int) -> Batches:
        """The validation set in order, not augmented."""

    @abstractmethod
    def probe_batch(self, examples: int) -> tuple[Tensor, Tensor]:
        """The first `examples` of one fixed permutation of the training set, the same for all seeds and schemes."""


@dataclass(frozen=True, kw_only=True)
class Images(Dataset):
    """A data set whose inputs are pictures minus the training mean, times `factor`."""

    mean: Tensor  # (C, H, W), per pixel over the training set; its device and type are those of the batches
    factor: float
    flip: bool  # whether training mirrors images

    @property
    def device(self) -> torch.device:
        """As `Dataset`."""
        return self.mean.device

    @property
    def dtype(self) -> torch.dtype:
        """As `Dataset`."""
        return self.mean.dtype

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one input."""
        channels, height, width = self.mean.shape
        return channels, height, width

    @property
    def val_side(self) -> int:
        """Shorter side in pixels of the images that `val_batches` takes its views from."""
        return min(self.input_shape[1:])

    def normalised(self, stored: Tensor) -> Tensor:
        """uint8 images minus the mean image, at the requested std, in the mean's floating type."""
        return (stored.to(self.mean.dtype) - self.mean) * self.factor

    @abstractmethod
    def val_at(self, side: int, batch_size: int) -> Batches:
        """The validation set with its shorter side at `side` pixels, for testing: every image once, whole.

        Images of one size (B, C, height, width) in grey levels, rounded as stored ones are, in the mean's type; and
        their places (B,) in `val_labels`.
        """
