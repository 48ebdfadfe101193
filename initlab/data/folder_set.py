"""A set of pictures in class folders, ready for training: decoded by worker processes, augmented on the device."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import BatchSampler

from initlab.data.cache import cached_statistics, decoded
from initlab.data.dataset import WHOLE, Batches, Images, Preprocessing, fixed_permutation, fixed_subset, step_indices
from initlab.data.folders import Listing, class_names, fingerprint
from initlab.data.pictures import Files, Pictures, one_pass, read, unpacked
from initlab.data.statistics import CentreViews, Statistics, measure
from initlab.data.views import Draws, Views, at_shorter_side, color_shift, draw, training_views
from initlab.errors import UserError
from initlab.to_device import to_device


@dataclass(frozen=True, kw_only=True)
class FolderSet(Images):
    """Pictures of mixed sizes; labels stay on the CPU."""

    train: Pictures
    val: Pictures
    components: Tensor  # (3, 3), see `Statistics`
    views: Views
    workers: int

    def train_batches(self, seed: int, batch_size: int, first: int, last: int, part: slice = WHOLE) -> Batches:
        """As `Images`; rows out of `part` are not decoded, and a picture that cannot be read any more is refused."""
        device = self.mean.device
        rows = (indices[part].tolist() for indices in step_indices(len(self.train), batch_size, seed, first, last))
        for step, batch in enumerate(read(self.train, rows, self.workers, device), start=first):
            indices, pictures = unpacked(batch, device)
            draws = Draws(*(rows[part] for rows in draw(self.views, batch_size, seed, step)))
            images = training_views(pictures, draws, self.views.crop).to(self.mean.dtype)
            if self.views.color_std:
                images += color_shift(to_device(draws.color.to(self.mean.dtype), device), self.components)
            yield self.normalised(images), to_device(self.train_labels[indices], device)

    def val_batches(self, batch_size: int) -> Batches:
        """The centre views of the validation set in order, normalised."""
        views = CentreViews(self.val, self.views)
        for batch in read(views, BatchSampler(range(len(views)), batch_size, False), self.workers, self.mean.device):
            indices, pictures = unpacked(batch, self.mean.device)
            yield self.normalised(torch.stack(pictures)), to_device(self.val_labels[indices], self.mean.device)

    @property
    def val_side(self) -> int:
        """Shorter side in pixels of the pictures that `val_batches` takes its views from."""
        return self.views.val_side

    def val_at(self, side: int, batch_size: int) -> Batches:
        """As `Images`: whole pictures, those of one size among `batch_size` read together."""
        device = self.mean.device
        for batch in read(self.val, BatchSampler(range(len(self.val)), batch_size, False), self.workers, device):
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
        views = CentreViews(self.train, self.views)
        images = torch.stack([views[index].to(self.mean.device) for index in indices.tolist()])
        return self.normalised(images), self.train_labels[indices].to(self.mean.device)


def open_folder(
    listing: Listing,
    preprocessing: Preprocessing,
    views: Views,
    *,
    side: int | None,
    workers: int,
    cache: Path,
    keep_decoded: bool,
    say: Callable[[str], None] = print,
) -> FolderSet:
    """Check and measure a set of pictures; what was computed before comes from the cache folder.

    Every picture is read once before training starts, so that a bad file is named now. Their shorter side is resized to
    `side` once (None = as delivered), by `workers` processes (0 = this one). The cache folder takes the statistics, and
    with `keep_decoded` the decoded pictures; `say` gets a line of progress now and then. More examples than there are
    are refused, and pictures that cannot be read.
    """
    train = listing.train.chosen(fixed_subset("train_examples", preprocessing.train_examples, len(listing.train.files)))
    val = listing.val.chosen(fixed_subset("val_examples", preprocessing.val_examples, len(listing.val.files)))
    keys = [f"{fingerprint(listing.root, part)}-{side or 'full'}" for part in (train, val)]
    pictures: list[Pictures] = [Files(listing.root, part.files, side) for part in (train, val)]
    if keep_decoded:
        pictures = [decoded(part, cache, key, workers, say) for part, key in zip(pictures, keys, strict=True)]
    train_centres, val_centres = (CentreViews(part, views) for part in pictures)

    def read_all() -> Statistics:
        """Read every picture once."""
        if not keep_decoded:
            deque(one_pass(val_centres, workers, "checked", lambda _: None), maxlen=0)
        return measure(train_centres, workers, say)

    statistics = cached_statistics(cache, f"{'-'.join(keys)}-{views.val_side}-{views.crop}", read_all)
    if statistics.std == 0:
        raise UserError("data: the training pictures are all alike (got a std of 0 around their mean); use real ones")
    return FolderSet(
        train=pictures[0],
        val=pictures[1],
        train_labels=torch.tensor(train.labels),
        val_labels=torch.tensor(val.labels),
        num_classes=len(listing.classes),
        class_names=class_names(listing),
        mean=statistics.mean.to(preprocessing.device, preprocessing.dtype),
        components=statistics.components.to(preprocessing.device, preprocessing.dtype),
        factor=preprocessing.scale / statistics.std,
        flip=views.flip,
        views=views,
        workers=workers,
    )
