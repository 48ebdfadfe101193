"""A set of pictures in class folders, ready for training: decoded by worker processes, augmented on the device.

`FolderSet` decodes batch by batch, `ResidentSet` has all pictures on the device already; the numbers are the same.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import BatchSampler

from initlab.data.cache import cached_statistics, decoded
from initlab.data.dataset import Batches, Images, Preprocessing
from initlab.data.folders import Listing, class_names, fingerprint
from initlab.data.orders import WHOLE, fixed_permutation, fixed_subset, step_indices
from initlab.data.pictures import BATCH, Files, Pictures, one_pass, read, unpacked
from initlab.data.resident import Resident, Unfit, places, resident, windows
from initlab.data.scales import centre_view
from initlab.data.statistics import CentreViews, Statistics, measure, statistics_of
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
            draws = self.draws(batch_size, seed, step, part)
            images = training_views(pictures, draws, self.views.crop)
            yield self.colored(images, draws), to_device(self.train_labels[indices], device)

    def draws(self, batch_size: int, seed: int, step: int, part: slice) -> Draws:
        """The draws for the rows `part` of a step's batch."""
        return Draws(*(rows[part] for rows in draw(self.views, batch_size, seed, step)))

    def colored(self, images: Tensor, draws: Draws) -> Tensor:
        """Training squares (B, 3, crop, crop) uint8 with their colours moved, normalised."""
        if not self.views.color_std:
            return self.normalised(images)
        coefficients = to_device(draws.color.to(self.mean.dtype), self.mean.device)
        return self.normalised(images.to(self.mean.dtype) + color_shift(coefficients, self.components))

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


@dataclass(frozen=True, kw_only=True)
class ResidentSet(FolderSet):
    """Pictures that are all on the device at one size; only `val_at` reads files."""

    resident: Resident

    def train_batches(self, seed: int, batch_size: int, first: int, last: int, part: slice = WHOLE) -> Batches:
        """As `Images`; one transfer of small numbers and one gather a step, and the host waits for neither."""
        images, crop = self.resident.train, self.views.crop
        orders = step_indices(len(self.train), batch_size, seed, first, last)
        for step, order in enumerate(orders, start=first):
            indices, draws = order[part], self.draws(batch_size, seed, step, part)
            rows = torch.stack([*places(images, indices, draws, crop), self.train_labels[indices]])
            rows = to_device(rows, self.mean.device)
            yield self.colored(windows(images, rows[:4], crop), draws), rows[4]

    def val_batches(self, batch_size: int) -> Batches:
        """The centre views of the validation set in order, normalised."""
        for images, labels in zip(self.resident.val.split(batch_size), self.val_labels.split(batch_size), strict=True):
            yield self.normalised(images), to_device(labels, self.mean.device)

    def probe_batch(self, examples: int) -> tuple[Tensor, Tensor]:
        """The first `examples` of one fixed permutation of the training set, as validation would see them."""
        indices = fixed_permutation(len(self.train), "probe")[:examples]
        images = self.resident.train[indices.to(self.mean.device)]
        views = centre_view(images, self.views.crop, self.views.crop)
        return self.normalised(views), self.train_labels[indices].to(self.mean.device)


def open_folder(
    listing: Listing,
    preprocessing: Preprocessing,
    views: Views,
    *,
    side: int | None,
    workers: int,
    cache: Path,
    keep_decoded: bool,
    on_device: bool = False,
    say: Callable[[str], None] = print,
) -> FolderSet:
    """Check and measure a set of pictures; what was computed before comes from the cache folder.

    Every picture is read once before training starts, so that a bad file is named now. Their shorter side is resized to
    `side` once (None = as delivered), by `workers` processes (0 = this one). The cache folder takes the statistics, and
    with `keep_decoded` the decoded pictures; `say` gets a line of progress now and then. More examples than there are
    are refused, and pictures that cannot be read. With `on_device` pictures of one size stay on the device, where they
    fit; `say` hears why they don't.
    """
    train = listing.train.chosen(fixed_subset("train_examples", preprocessing.train_examples, len(listing.train.files)))
    val = listing.val.chosen(fixed_subset("val_examples", preprocessing.val_examples, len(listing.val.files)))
    keys = [f"{fingerprint(listing.root, part)}-{side or 'full'}" for part in (train, val)]
    pictures: list[Pictures] = [Files(listing.root, part.files, side) for part in (train, val)]
    if keep_decoded:
        pictures = [decoded(part, cache, key, workers, say) for part, key in zip(pictures, keys, strict=True)]
    key, device = f"{'-'.join(keys)}-{views.val_side}-{views.crop}", preprocessing.device
    held = held_on(device, pictures, key, views, workers, say) if on_device else None
    if held:
        # Devices round resized pixels differently, by a grey level.
        key += "" if device.type == "cpu" else f"-{device.type}"
        squares = (centre_view(batch, views.crop, views.crop) for batch in held.train.split(BATCH))
        read_all = partial(statistics_of, squares)
    else:
        read_all = partial(read_once, pictures, views, workers, keep_decoded, say)
    statistics = cached_statistics(cache, key, read_all)
    if statistics.std == 0:
        raise UserError("data: the training pictures are all alike (got a std of 0 around their mean); use real ones")
    make = partial(ResidentSet, resident=held) if held else FolderSet
    return make(
        train=pictures[0],
        val=pictures[1],
        train_labels=torch.tensor(train.labels),
        val_labels=torch.tensor(val.labels),
        num_classes=len(listing.classes),
        class_names=class_names(listing),
        mean=statistics.mean.to(device, preprocessing.dtype),
        components=statistics.components.to(device, preprocessing.dtype),
        factor=preprocessing.scale / statistics.std,
        flip=views.flip,
        views=views,
        workers=workers,
    )


def held_on(
    device: torch.device, pictures: Sequence[Pictures], key: str, views: Views, workers: int, say: Callable[[str], None]
) -> Resident | None:
    """The pictures of both parts on the device at one size; None where they don't fit, and `say` hears why."""
    try:
        return resident(pictures[0], pictures[1], f"{key}-{device}", views, workers, device, say)
    except Unfit as reason:
        say(f"pictures are read batch by batch: {reason}")
        return None


def read_once(
    pictures: Sequence[Pictures], views: Views, workers: int, keep_decoded: bool, say: Callable[[str], None]
) -> Statistics:
    """Look at every picture of both parts once, but for those of validation that were decoded already."""
    train, val = (CentreViews(part, views) for part in pictures)
    if not keep_decoded:
        deque(one_pass(val, workers, "checked", lambda _: None), maxlen=0)
    return measure(train, workers, say)
