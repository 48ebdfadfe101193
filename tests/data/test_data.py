"""Data: digits, normalisation, augmentation, fixed subsets, and CIFAR-10 where it is."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from initlab.data.dataset import Preprocessing
from initlab.data.examples import Examples
from initlab.data.facts import FACTS
from initlab.data.in_memory import ImageSet, augmented, drawn_moves, prepare
from initlab.data.orders import epoch_order
from initlab.data.sources import load_raw


def image_set(raw: Examples | None = None, flip: bool | None = None, shift: int = 0, **changes: Any) -> ImageSet:
    return prepare(raw or load_raw("digits"), Preprocessing(**changes), flip=flip, shift=shift)


@pytest.mark.parametrize("size", [None, 16])
def test_digits_are_split_1437_to_360_without_overlap(size: int | None) -> None:
    raw = load_raw("digits", image_size=size)
    side = size or 8
    assert raw.train_inputs.shape == (1437, 1, side, side)
    assert raw.val_inputs.shape == (360, 1, side, side)
    assert raw.num_classes == 10
    train = {bytes(image.numpy().tobytes()) for image in raw.train_inputs}
    val = {bytes(image.numpy().tobytes()) for image in raw.val_inputs}
    assert len(train & val) <= 1  # scikit-learn's set is all but free of repeated images


def test_digits_at_their_own_size_are_scikit_learns_pixels() -> None:
    from sklearn.datasets import load_digits

    raw = load_raw("digits")
    whole = torch.cat([raw.train_inputs, raw.val_inputs]).double().sum().item()
    assert whole == pytest.approx(load_digits().images.sum() * 255 / 16, rel=2e-3)


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_the_facts_known_before_loading_are_true(name: str) -> None:
    raw, facts = load_raw(name), FACTS[name]
    assert (len(raw.train_labels), len(raw.val_labels)) == (facts.train, facts.val)
    assert raw.train_inputs.shape[1:] == (facts.channels, facts.size, facts.size)
    assert raw.flip == facts.flip


@pytest.mark.parametrize("scale", [1.0, 64.0])
def test_inputs_have_zero_mean_per_pixel_and_the_wanted_std(scale: float) -> None:
    data = image_set(scale=scale)
    inputs = data.normalised(data.train_inputs).double()
    assert inputs.mean(0).abs().max().item() < 1e-5 * scale
    assert inputs.std(correction=0).item() == pytest.approx(scale, rel=1e-5)


def test_a_flip_mirrors_each_image_or_leaves_it() -> None:
    images = torch.randint(0, 255, (200, 3, 4, 5), dtype=torch.uint8)
    out = augmented(images, True, 0, drawn_moves(200, True, 0, torch.Generator().manual_seed(0)))
    mirrored = (out == images.flip(3)).flatten(1).all(1)
    assert ((out == images).flatten(1).all(1) | mirrored).all()
    assert 60 < mirrored.sum() < 140


def test_a_shift_crops_the_zero_padded_image_within_its_bounds() -> None:
    images = torch.randint(1, 255, (300, 1, 6, 6), dtype=torch.uint8)
    out = augmented(images, False, 1, drawn_moves(300, False, 1, torch.Generator().manual_seed(0)))
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    crops = torch.stack([padded[:, :, r : r + 6, c : c + 6] for r in range(3) for c in range(3)])
    matches = (crops == out).flatten(2).all(2)  # 9 x N
    assert (matches.sum(0) == 1).all()
    assert (matches.sum(1) > 10).all()


def test_batches_depend_on_seed_and_step_alone() -> None:
    data = image_set(flip=True, shift=1)
    indices = torch.arange(32)
    first, again = data.train_batch(indices, 0, 5)[0], data.train_batch(indices, 0, 5)[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, data.train_batch(indices, 0, 6)[0])
    assert not torch.equal(first, data.train_batch(indices, 1, 5)[0])


def test_an_epochs_order_is_a_permutation_that_changes_with_epoch_and_seed() -> None:
    orders = [epoch_order(50, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(torch.equal(order.sort().values, torch.arange(50)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 4


def test_the_probe_batch_is_the_same_every_time_and_of_the_training_set() -> None:
    data = image_set()
    images, labels = data.probe_batch(16)
    more = data.probe_batch(32)[0]
    assert torch.equal(images, more[:16])
    assert torch.equal(images, data.probe_batch(16)[0])
    inputs = data.normalised(data.train_inputs)
    for image, label in zip(images, labels, strict=True):
        index = (inputs == image).flatten(1).all(1).nonzero()[0]
        assert data.train_labels[index].item() == label.item()


def test_the_probe_takes_the_first_of_one_fixed_permutation_whatever_the_set() -> None:
    labels = torch.arange(40)
    images = labels.to(torch.uint8)[:, None, None, None].expand(40, 1, 2, 2)
    data = image_set(Examples(images, labels, images, labels, num_classes=40))
    inputs, probed = data.probe_batch(8)
    assert probed.tolist() == [10, 3, 15, 4, 2, 16, 1, 31]
    assert torch.equal(inputs, data.normalised(images[probed]))


def test_subsets_are_fixed_and_too_large_ones_refused() -> None:
    assert torch.equal(image_set(val_examples=100).val_labels, image_set(val_examples=100).val_labels)
    with pytest.raises(ValueError, match=r"data.val_examples: more than there are \(got 361\); at most 360"):
        image_set(val_examples=361)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion-mnist"])
def test_absent_files_are_named_with_the_way_to_get_them(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{name} is not in .*wanted .*data.download=true") as caught:
        load_raw(name, folder=tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(FileNotFoundError, match="--data-dir DIR or set INITLAB_DATA"):
        load_raw(name)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"val_labels": torch.zeros(3, dtype=torch.int64)}, r"val: not a label for each input .*labels \(3,\)"),
        ({"train_labels": torch.tensor([0, 1, 2, 3])}, r"train_labels: out of range \(got 0 to 3\); allowed: 0 to 2"),
        ({"class_names": ("cat", "dog")}, "class_names: got 2; allowed: none, or 3"),
    ],
)
def test_a_users_data_set_of_the_wrong_form_is_refused(changes: dict, words: str) -> None:
    good = {
        "train_inputs": torch.zeros(4, 1, 2, 2, dtype=torch.uint8),
        "train_labels": torch.zeros(4, dtype=torch.int64),
        "val_inputs": torch.zeros(4, 1, 2, 2, dtype=torch.uint8),
        "val_labels": torch.zeros(4, dtype=torch.int64),
    }
    with pytest.raises(ValueError, match=words):
        Examples(**{**good, **changes}, num_classes=3)


def test_images_that_are_all_alike_are_refused() -> None:
    images, labels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match="all alike"):
        image_set(Examples(images, labels, images, labels, num_classes=3))


def test_cifar10_has_its_published_channel_means() -> None:
    folder = os.environ.get("INITLAB_DATA")
    if not folder or not (Path(folder) / "cifar-10-batches-py").is_dir():
        pytest.skip("CIFAR-10 not found: set INITLAB_DATA to the folder that holds cifar-10-batches-py")
    raw = load_raw("cifar10", folder=Path(folder))
    assert (len(raw.train_labels), len(raw.val_labels)) == (50_000, 10_000)
    means = raw.train_inputs.double().mean((0, 2, 3)) / 255
    assert means.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)
    assert torch.bincount(raw.train_labels).tolist() == [5000] * 10
