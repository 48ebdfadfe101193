"""A set of pictures in class folders, ready for training: decoded by worker processes, augmented on the device."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from initlab.data.cache import cached_statistics, decoded
from initlab.data.dataset import WHOLE, Images, fixed_permutation, fixed_subset, step_indices
from initlab.data.folders import Part, class_names, fingerprint, scan
from initlab.data.one_pass import one_pass
from initlab.data.pictures import Files, Pictures, in_batches, read, unpacked
from initlab.data.statistics import CentreViews, Statistics, measure
from initlab.data.views import Views, at_shorter_side, color_shift, draw, training_views
from initlab.errors import UserError
from initlab.to_device import sent


@dataclass(frozen=True, kw_only=True)
class FolderSet(Images):
    """Pictures of mixed sizes; labels stay on the CPU."""

    train: Pictures
    val: Pictures
    components: Tensor  # (3, 3), see `Statistics`
    views: Views
    workers: int

    def train_batches(
        self, seed: int, batch_size: int, first: int, last: int, part: slice = WHOLE
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As `Images`; rows out of `part` are not decoded.

        Raises:
            UserError: a picture that cannot be read any more.
        """
        device = self.mean.device
        rows = (indices[part].tolist() for indices in step_indices(len(self.train), batch_size, seed, first, last))
        for step, batch in enumerate(read(self.train, rows, self.workers, device), start=first):
            indices, pictures = unpacked(batch, device)
            draws = draw(self.views, batch_size, seed, step).rows(part)
            images = training_views(pictures, draws, self.views.crop).to(self.mean.dtype)
            if self.views.color_std:
                images += color_shift(sent(draws.color.to(self.mean.dtype), device), self.components)
            yield self.normalised(images), sent(self.train_labels[indices], device)

    def val_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The centre views of the validation set in order, normalised."""
        views = CentreViews(self.val, self.views.val_side, self.views.crop)
        for batch in read(views, in_batches(len(views), batch_size), self.workers, self.mean.device):
            indices, pictures = unpacked(batch, self.mean.device)
            yield self.normalised(torch.stack(pictures)), sent(self.val_labels[indices], self.mean.device)

    @property
    def val_side(self) -> int:
        """Shorter side in pixels of the pictures that `val_batches` takes its views from."""
        return self.views.val_side

    def val_at(self, side: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """As `Images`: whole pictures, those of one size among `batch_size` read together."""
        device = self.mean.device
        for batch in read(self.val, in_batches(len(self.val), batch_size), self.workers, device):
            by_shape: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
            for index, picture in zip(*unpacked(batch, device), strict=True):
                whole = at_shorter_side(picture, side)
                by_shape.setdefault(tuple(whole.shape), []).append((index, whole))
            for group in by_shape.values():
                places, pictures = zip(*group, strict=True)
                yield torch.stack(pictures).to(self.mean.dtype), torch.tensor(places)

    def probe_batch(self, examples: int) -> tuple[Tensor, Tensor]:
        """The first `examples` of one fixed permutation of the training set, as validation would see them."""
        indices = fixed_permutation(len(self.train), "probe")[:examples]
        views = CentreViews(self.train, self.views.val_side, self.views.crop)
        images = torch.stack([views[index].to(self.mean.device) for index in indices.tolist()])
        return self.normalised(images), self.train_labels[indices].to(self.mean.device)


def open_folder(
    name: str,
    folder: Path | None,
    *,
    classes: int,
    views: Views,
    side: int | None,
    scale: float,
    train_examples: int | None,
    val_examples: int | None,
    workers: int,
    cache: Path,
    keep_decoded: bool,
    device: torch.device,
    dtype: torch.dtype,
    say: Callable[[str], None] = print,
) -> FolderSet:
    """List, check and measure a set of pictures; what was computed before comes from the cache folder.

    Every picture is read once before training starts, so that a bad file is named now.

    Args:
        classes: how many class folders an `imagefolder` must have.
        side: length that the shorter side of every picture is resized to once; None = as delivered.
        scale: standard deviation of the inputs, after the mean image is removed.
        train_examples: a fixed random subset; None = all.
        workers: processes that decode; 0 = this one.
        cache: folder for statistics, and with `keep_decoded` for the decoded pictures.
        say: gets a line of progress now and then, in a long pass over all pictures.

    Raises:
        FileNotFoundError, UserError: as `scan`; pictures that cannot be read; more examples asked for than there are.
    """
    listing = scan(name, folder, classes)
    parts = {
        "train": subset("train_examples", train_examples, listing.train),
        "val": subset("val_examples", val_examples, listing.val),
    }
    keys = {part: f"{fingerprint(listing.root, parts[part])}-{side or 'full'}" for part in parts}
    pictures: dict[str, Pictures] = {part: Files(listing.root, parts[part].files, side) for part in parts}
    if keep_decoded:
        pictures = {part: decoded(pictures[part], cache, keys[part], workers, say) for part in pictures}

    def make() -> Statistics:
        """Read every picture once."""
        if not keep_decoded:
            for _ in one_pass(
                CentreViews(pictures["val"], views.val_side, views.crop), workers, "checked", lambda _: None
            ):
                pass
        return measure(CentreViews(pictures["train"], views.val_side, views.crop), workers, say)

    statistics = cached_statistics(cache, f"{keys['train']}-{keys['val']}-{views.val_side}-{views.crop}", make)
    if statistics.std == 0:
        raise UserError("data: the training pictures are all alike (got a std of 0 around their mean); use real ones")
    return FolderSet(
        train=pictures["train"],
        val=pictures["val"],
        train_labels=torch.tensor(parts["train"].labels),
        val_labels=torch.tensor(parts["val"].labels),
        num_classes=len(listing.classes),
        class_names=class_names(listing),
        mean=statistics.mean.to(device, dtype),
        components=statistics.components.to(device, dtype),
        factor=scale / statistics.std,
        flip=views.flip,
        views=views,
        workers=workers,
    )


def subset(name: str, size: int | None, part: Part) -> Part:
    """All of a part, or a fixed random subset of it."""
    return part if size is None else part.chosen(fixed_subset(name, size, len(part.files)).tolist())
