"""Pictures in class folders: what is listed, classes numbered as torchvision does, and every wrong layout refused."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torchvision

from initlab.data.folders import class_names, fingerprint, scan
from initlab.errors import UserError
from tests.data.pictures import write_folder, write_picture


def test_files_and_labels_are_those_of_torchvisions_image_folder(tmp_path: Path) -> None:
    write_folder(tmp_path)
    write_picture(tmp_path / "train/bee/deeper/x.PNG", (8, 8), 1)
    listing = scan("imagefolder", tmp_path, 3)
    for part in ("train", "val"):
        theirs = torchvision.datasets.ImageFolder(str(tmp_path / part)).samples
        ours = getattr(listing, part)
        assert sorted(zip(ours.files, ours.labels, strict=True)) == sorted(
            (os.path.relpath(path, tmp_path), label) for path, label in theirs
        )
    assert listing.classes == ("ant", "bee", "cat")


def test_classes_are_called_as_words_txt_says_where_there_is_one(tmp_path: Path) -> None:
    write_folder(tmp_path)
    assert class_names(scan("imagefolder", tmp_path)) == ("ant", "bee", "cat")
    (tmp_path / "words.txt").write_text("cat\tdomestic cat, Felis catus\nbee\tbee\nyak\tyak\n")
    assert class_names(scan("imagefolder", tmp_path)) == ("ant", "bee", "domestic cat")


def test_files_that_are_no_pictures_are_counted_and_hidden_ones_ignored(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "train/ant/notes.txt").write_text("x")
    (tmp_path / "val/cat/.DS_Store").write_text("x")
    listing = scan("imagefolder", tmp_path)
    assert listing.skipped == ("train/ant/notes.txt",)
    assert (len(listing.train.files), len(listing.val.files)) == (30, 12)


def remove(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def emptied(root: Path) -> None:
    for file in (root / "train/bee").iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (emptied, r"train has class folders without a picture \(got 1: bee\)"),
        (lambda root: write_picture(root / "val/dog/0.jpg", (8, 8), 0), r"val has classes that train has not .*dog"),
        (lambda root: remove(root / "val/cat"), r"val lacks classes that train has \(got 1: cat\)"),
        (lambda root: (root / "train/dog").mkdir(), r"train has 4 class folders \(wanted 3\); set data.classes"),
    ],
)
def test_class_folders_that_do_not_fit_are_refused(spoil: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    spoil(write_folder(tmp_path))
    with pytest.raises(UserError, match=words) as caught:
        scan("imagefolder", tmp_path, 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["imagefolder", "imagenet", "tiny-imagenet"])
def test_absent_folders_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"{name} needs a folder with train/CLASS.*--data-dir"):
        scan(name, None)
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match=rf"{name} is not in {tmp_path} \(wanted the folders val"):
        scan(name, tmp_path)


def test_imagenet_has_a_thousand_classes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"3 class folders \(wanted 1000\); is the set complete"):
        scan("imagenet", write_folder(tmp_path))
    with pytest.raises(UserError, match=r"imagenet/train has 3 class folders"):
        scan("imagenet", write_folder(tmp_path / "imagenet").parent)


@pytest.fixture
def tiny_imagenet(tmp_path: Path) -> Path:
    """200 classes of one picture in each part, in the original layout."""
    root = tmp_path / "tiny-imagenet-200"
    names = [f"n{index:08d}" for index in range(200)]
    for name in names:
        write_picture(root / f"train/{name}/images/{name}_0.JPEG", (8, 8), 0)
    for index in range(200):
        write_picture(root / f"val/images/val_{index}.JPEG", (8, 8), 0)
    rows = [f"val_{index}.JPEG\t{names[(7 * index) % 200]}\t0\t0\t7\t7\n" for index in range(200)]
    (root / "val/val_annotations.txt").write_text("".join(rows))
    return root


def test_tiny_imagenets_table_gives_the_classes_of_its_validation_pictures(tiny_imagenet: Path) -> None:
    listing = scan("tiny-imagenet", tiny_imagenet.parent)
    assert scan("tiny-imagenet", tiny_imagenet).val == listing.val  # its own folder does too
    assert len(listing.train.files) == 200
    labels = dict(zip(listing.val.files, listing.val.labels, strict=True))
    assert labels["val/images/val_3.JPEG"] == 21
    assert labels["val/images/val_100.JPEG"] == 100


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("val_3.JPEG\tn00000021\t0\t0\t7\t7\n", "", r"names no class for val_3.JPEG \(1 such\)"),
        ("val_3.JPEG", "val_3000.JPEG", r"names no class for val_3.JPEG \(2 such\)"),
        ("n00000021", "n99999999", r"has classes that train has not \(got 1: n99999999\)"),
        ("n00000021", "n00000028", r"lacks classes that train has \(got 1: n00000021\)"),
        ("\tn00000021", " n00000021", r"has classes that train has not"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(old: str, new: str, words: str, tiny_imagenet: Path) -> None:
    table = tiny_imagenet / "val/val_annotations.txt"
    table.write_text(table.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=words):
        scan("tiny-imagenet", tiny_imagenet)


def test_a_fingerprint_changes_with_a_files_bytes_name_or_class(tmp_path: Path) -> None:
    write_folder(tmp_path)

    def now() -> str:
        return fingerprint(tmp_path, scan("imagefolder", tmp_path).train)

    digests = [now()]
    assert now() == digests[0]
    write_picture(tmp_path / "train/ant/000.jpg", (9, 9), 5)
    digests.append(now())
    (tmp_path / "train/ant/000.jpg").rename(tmp_path / "train/ant/1000.jpg")
    digests.append(now())
    (tmp_path / "train/ant/1000.jpg").rename(tmp_path / "train/bee/1000.jpg")
    digests.append(now())
    assert len(set(digests)) == 4
