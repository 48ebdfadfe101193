"""A folder of pictures as a training set: the same numbers with any number of workers, from files or from the cache."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from initlab.data.cache import Decoded
from initlab.data.dataset import Preprocessing
from initlab.data.folder_set import FolderSet, open_folder
from initlab.data.folders import scan
from initlab.data.orders import step_indices
from initlab.data.pictures import decode
from initlab.data.views import Views, centre_view
from initlab.errors import UserError
from initlab.train.objective import objective_of
from tests.data.pictures import write_folder

VIEWS = Views(crop=12, val_side=16, jitter=(14, 24), flip=True, color_std=0.1)
PLAIN = Preprocessing()
Opener = Callable[..., FolderSet]


@pytest.fixture
def opened(tmp_path: Path) -> Opener:
    """Opens tmp_path/set, written once, with some settings changed."""
    write_folder(tmp_path / "set")

    def make(views: Views = VIEWS, preprocessing: Preprocessing = PLAIN, **changes: Any) -> FolderSet:
        settings = {"side": None, "workers": 0, "cache": tmp_path / "cache", "keep_decoded": False}
        listing = scan("imagefolder", tmp_path / "set", 3)
        return open_folder(listing, preprocessing, views, **{**settings, **changes})

    return make


def same(one: Iterator[tuple[Tensor, Tensor]], other: Iterator[tuple[Tensor, Tensor]]) -> bool:
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(list(one), list(other), strict=True))


@pytest.mark.parametrize("side", [None, 18])
def test_workers_and_cache_change_no_number(side: int | None, opened: Opener) -> None:
    plain = opened(side=side)
    for other in (opened(side=side, workers=2), opened(side=side, keep_decoded=True)):
        assert same(plain.train_batches(3, 8, 0, 5), other.train_batches(3, 8, 0, 5))
        assert same(plain.val_batches(5), other.val_batches(5))
        assert torch.equal(plain.probe_batch(6)[0], other.probe_batch(6)[0])


def test_batches_go_on_from_any_step(opened: Opener) -> None:
    data = opened()
    whole = list(data.train_batches(0, 8, 0, 7))  # 3 steps an epoch
    assert same(iter(whole[4:]), data.train_batches(0, 8, 4, 7))


def test_parts_of_a_batch_are_rows_of_the_whole(opened: Opener) -> None:
    data = opened()
    (images, labels), first, second = (
        next(data.train_batches(0, 8, 2, 3, part)) for part in (slice(None), slice(0, 4), slice(4, 8))
    )
    assert torch.equal(images, torch.cat([first[0], second[0]]))
    assert torch.equal(labels, torch.cat([first[1], second[1]]))


def test_labels_stay_with_their_pictures_and_inputs_have_the_wanted_std(opened: Opener, tmp_path: Path) -> None:
    still = replace(VIEWS, jitter=(16, 16), flip=False, color_std=0.0)
    data = opened(still, Preprocessing(scale=64.0))
    listing = scan("imagefolder", tmp_path / "set")
    centres = torch.stack([centre_view(decode(listing.root / file), 16, 12) for file in listing.val.files]).double()
    images, labels = (torch.cat(parts) for parts in zip(*data.val_batches(5), strict=True))
    assert labels.tolist() == list(listing.val.labels)
    assert torch.allclose(images.double(), (centres - data.mean) * data.factor, atol=1e-3)
    inputs, of_which = data.probe_batch(30)
    assert inputs.double().mean(0).abs().max().item() < 1e-3
    assert inputs.double().std(correction=0).item() == pytest.approx(64, rel=1e-5)
    assert torch.bincount(of_which).tolist() == [10, 10, 10]
    (indices,) = step_indices(30, 30, 0, 0, 1)
    ((_, train_labels),) = data.train_batches(0, 30, 0, 1)
    assert train_labels.tolist() == [listing.train.labels[i] for i in indices.tolist()]


def test_the_probe_takes_the_first_of_one_fixed_permutation_as_validation_sees_them(
    opened: Opener, tmp_path: Path
) -> None:
    data, listing = opened(), scan("imagefolder", tmp_path / "set")
    images, labels = data.probe_batch(6)
    indices = [0, 20, 13, 10, 27, 16]
    centres = [centre_view(decode(listing.root / listing.train.files[i]), 16, 12) for i in indices]
    assert labels.tolist() == [listing.train.labels[i] for i in indices]
    assert torch.equal(images, data.normalised(torch.stack(centres)))


def test_a_colour_shift_is_one_colour_per_image_and_moves_no_crop(opened: Opener) -> None:
    with_color, without = opened(), opened(replace(VIEWS, color_std=0.0))
    (one, _), (other, _) = next(with_color.train_batches(0, 8, 0, 1)), next(without.train_batches(0, 8, 0, 1))
    shift = ((one - other) / with_color.factor).double()
    assert shift.abs().max() > 0.5
    assert (shift - shift.mean((2, 3), keepdim=True)).abs().max() < 1e-3


def test_what_was_cached_is_used_and_a_changed_file_is_not(opened: Opener, tmp_path: Path) -> None:
    first = opened(keep_decoded=True)
    cached = sorted(path.name for path in (tmp_path / "cache").glob("*[!k]"))
    assert [name.split("-")[0] for name in cached] == ["pictures"] * 4 + ["statistics"]
    for file in (tmp_path / "set").rglob("*.jpg"):  # the same names, sizes and times, and no longer pictures
        stat = file.stat()
        file.write_bytes(bytes(stat.st_size))
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    again = opened(keep_decoded=True)
    assert same(first.train_batches(0, 8, 0, 3), again.train_batches(0, 8, 0, 3))
    (tmp_path / "set/train/ant/000.jpg").touch()
    with pytest.raises(UserError, match=r"train/ant/000.jpg: not a readable picture"):
        opened(keep_decoded=True)


def test_a_damaged_cache_is_named(opened: Opener, tmp_path: Path) -> None:
    opened(keep_decoded=True)
    path = next((tmp_path / "cache").glob("pictures-*.u8"))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=rf"{path.name}: damaged .*remove the file"):
        Decoded(path)


def test_a_cache_folder_that_cannot_be_written_is_named(opened: Opener, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"not a folder to cache in .*set INITLAB_CACHE"):
        opened(cache=tmp_path / "file")


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("changes", [{}, {"workers": 2}, {"keep_decoded": True}], ids=str)
def test_bad_pictures_of_both_parts_are_named_before_training(
    part: str, changes: dict[str, Any], opened: Opener, tmp_path: Path
) -> None:
    (tmp_path / f"set/{part}/bee/001.jpg").write_text("not found")
    Image.new("RGB", (1, 1)).save(tmp_path / f"set/{part}/cat/002.jpg")
    with pytest.raises(UserError, match=r"bee/001.jpg: not a readable .* \(and 1 more files: .*cat/002.jpg: too thin"):
        opened(**changes)
    assert not list((tmp_path / "cache").glob("statistics*.npz"))


def test_pictures_that_are_all_alike_and_too_large_subsets_are_refused(opened: Opener, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.train_examples: more than there are \(got 31\); at most 30"):
        opened(preprocessing=Preprocessing(train_examples=31))
    for file in (tmp_path / "set/train").rglob("*.jpg"):
        Image.new("RGB", (20, 20), (9, 9, 9)).save(file)
    with pytest.raises(UserError, match="all alike"):
        opened()


def test_a_subset_is_fixed_and_measured_alone(opened: Opener) -> None:
    some, again = (opened(preprocessing=Preprocessing(train_examples=12)) for _ in range(2))
    assert len(some.train_labels) == 12
    assert torch.equal(some.train_labels, again.train_labels)
    assert not torch.equal(some.mean, opened().mean)
    expected = 1 - some.train_labels.bincount().max().item() / 12
    assert objective_of(None, some).guess.error == pytest.approx(expected)
