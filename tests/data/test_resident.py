"""Pictures that stay on the device: the same numbers as those that are read batch by batch, for less work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from initlab.data import resident
from initlab.data.dataset import Preprocessing
from initlab.data.folder_set import FolderSet, ResidentSet, open_folder
from initlab.data.folders import scan
from initlab.data.resident import places, windows
from initlab.data.views import Draws, Views, draw, training_views
from initlab.errors import UserError
from tests.data.pictures import CLASSES, write_picture

VIEWS = Views(crop=12, val_side=16, jitter=(16, 16), flip=True, color_std=0.1)
# Width, height: of one shape at a shorter side of 16.
ALIKE = ((24, 24), (24, 24), (40, 40))
Opener = Callable[..., FolderSet]


def write_set(root: Path, sizes: tuple[tuple[int, int], ...]) -> None:
    for seed, part in enumerate(("train", "val")):
        for label, name in enumerate(CLASSES):
            for index, size in enumerate(sizes * 4):
                write_picture(root / part / name / f"{index:03d}.jpg", size, 1000 * seed + 100 * label + index)


@pytest.fixture
def opened(tmp_path: Path) -> Opener:
    """Opens tmp_path/set, written once with pictures of some sizes, with some settings changed."""

    def make(sizes: tuple[tuple[int, int], ...] = ALIKE, views: Views = VIEWS, **changes: Any) -> FolderSet:
        if not (tmp_path / "set").exists():
            write_set(tmp_path / "set", sizes)
        settings = {"side": None, "workers": 0, "cache": tmp_path / "cache", "keep_decoded": False, "on_device": True}
        listing = scan("imagefolder", tmp_path / "set", 3)
        return open_folder(listing, Preprocessing(scale=64.0), views, **{**settings, **changes})

    return make


@pytest.mark.parametrize("changes", [{}, {"workers": 2}, {"keep_decoded": True}, {"side": 20}])
def test_every_batch_is_the_loaders_to_the_bit(opened: Opener, changes: dict[str, Any], tmp_path: Path) -> None:
    loader = opened(on_device=False, cache=tmp_path / "other", **{**changes, "workers": 0})
    held = opened(**changes)
    assert type(loader) is FolderSet and isinstance(held, ResidentSet)
    assert torch.equal(held.mean, loader.mean) and torch.equal(held.components, loader.components)
    assert held.factor == loader.factor
    # Of 36 pictures, steps in two epochs, from the middle of one; parts of a batch too.
    for first, last, part in ((0, 7, slice(None)), (3, 5, slice(2, 7))):
        pairs = zip(
            held.train_batches(3, 8, first, last, part), loader.train_batches(3, 8, first, last, part), strict=True
        )
        assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)
    for one, other in ((held.val_batches(5), loader.val_batches(5)), (held.val_at(20, 5), loader.val_at(20, 5))):
        assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(one, other, strict=True))
    assert all(map(torch.equal, held.probe_batch(6), loader.probe_batch(6)))


def test_windows_are_cut_at_their_places_and_mirrored() -> None:
    image = torch.arange(20, dtype=torch.uint8).view(1, 1, 4, 5).expand(1, 3, 4, 5)
    top_left, mirrored = windows(image, torch.tensor([[0, 0], [0, 1], [0, 2], [0, 1]]), 3)
    assert top_left[0].tolist() == [[0, 1, 2], [5, 6, 7], [10, 11, 12]]
    assert mirrored[2].tolist() == [[9, 8, 7], [14, 13, 12], [19, 18, 17]]


def test_places_are_those_of_single_squares_for_many_draws() -> None:
    images = torch.randint(0, 256, (5, 3, 16, 19), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    indices = torch.arange(500) % 5
    draws: Draws = draw(VIEWS, 500, 0, 0)
    assert torch.equal(
        windows(images, places(images, indices, draws, 12), 12),
        training_views([images[index] for index in indices.tolist()], draws, 12),
    )


def test_the_next_trial_on_the_same_pictures_decodes_none(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened()
    monkeypatch.setattr(resident, "one_pass", None)
    again = opened()
    assert isinstance(first, ResidentSet) and isinstance(again, ResidentSet)
    assert again.resident.train is first.resident.train


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"sizes": ((24, 24), (36, 24))}, "not of one shape"),
        ({"views": Views(crop=12, val_side=16, jitter=(14, 24), flip=True, color_std=0.0)}, "varies"),
    ],
)
def test_other_pictures_are_read_batch_by_batch_and_a_line_says_why(
    opened: Opener, settings: dict[str, Any], reason: str
) -> None:
    lines: list[str] = []
    data = opened(**settings, say=lines.append)
    assert type(data) is FolderSet and len(lines) == 1 and reason in lines[0]
    images, _ = next(data.train_batches(0, 4, 0, 1))
    assert images.shape == (4, 3, 12, 12)


def test_pictures_that_take_more_than_half_of_a_gpus_free_memory_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**9, 2 * 10**9))
    resident.check_room(5 * 10**8, torch.device("cuda"))
    with pytest.raises(resident.Unfit, match=r"0\.6 GB \(at most half of the 1\.0 GB"):
        resident.check_room(6 * 10**8, torch.device("cuda"))


def test_a_broken_picture_is_named(opened: Opener, tmp_path: Path) -> None:
    write_set(tmp_path / "set", ALIKE)
    (tmp_path / "set/val/bee/003.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"bee/003\.jpg"):
        opened()
