"""Pictures in class folders: which files there are and what class each is of. No torch, no file is opened.

The layout is torchvision's ImageFolder, `train/CLASS/**/*.jpg` and `val/CLASS/**/*.jpg`; classes are numbered in
the order of their names. Tiny ImageNet's own layout (`val/images` with `val_annotations.txt`) is read as well.
"""

import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from initlab.data.facts import FACTS, absence, picture_root
from initlab.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp")
# Tiny ImageNet's table: file, class and four numbers, between tabs.
ANNOTATIONS = "val_annotations.txt"
# ImageNet's and Tiny ImageNet's names of classes: class folder, a tab, names with commas between.
WORDS = "words.txt"
# So many of many are named in a message.
MOST_NAMED = 5


@dataclass(frozen=True)
class Part:
    """The files of one part, as paths below the root, and the class of each."""

    files: tuple[str, ...]
    labels: tuple[int, ...]

    def chosen(self, indices: slice | list[int]) -> "Part":
        """Some of the files, in the order of `indices`."""
        rows = np.arange(len(self.files))[indices].tolist()
        return Part(tuple(self.files[i] for i in rows), tuple(self.labels[i] for i in rows))


@dataclass(frozen=True)
class Listing:
    """A set of pictures in class folders; `skipped` are files among them whose suffix is no picture's."""

    root: Path
    classes: tuple[str, ...]
    train: Part
    val: Part
    skipped: tuple[str, ...]


def scan(name: str, folder: Path | None, classes: int | None = None) -> Listing:
    """List the pictures of `imagefolder`, whose class folders `classes` counts, `imagenet` or `tiny-imagenet`.

    Raises:
        FileNotFoundError: the folder or its train and val are absent.
        UserError: a number of classes that is not the expected one, a class in one part alone, a class without a
            picture, or val_annotations.txt that does not fit its pictures.
    """
    absent = absence(name, folder)
    if absent or folder is None:
        raise FileNotFoundError(absent)
    root = picture_root(name, folder)
    names = class_folders(root / "train")
    expected = FACTS[name].num_classes or classes
    if expected is not None and len(names) != expected:
        fix = "set data.classes to it" if not FACTS[name].num_classes else "is the set complete?"
        raise UserError(f"data.classes: {root / 'train'} has {len(names)} class folders (wanted {expected}); {fix}")
    skipped: list[str] = []
    train = listed(root, "train", names, skipped)
    annotated = (root / "val" / ANNOTATIONS).exists()
    val = annotated_val(root, names) if annotated else listed(root, "val", names, skipped)
    return Listing(root, tuple(names), train, val, tuple(skipped))


def class_names(listing: Listing) -> tuple[str, ...]:
    """The name of each class: the first of its names in words.txt where that lies beside train, else its folder."""
    try:
        text = (listing.root / WORDS).read_text(encoding="utf-8")
    except FileNotFoundError:
        return listing.classes
    words = dict(line.split("\t", 1) for line in text.splitlines() if "\t" in line)
    return tuple(words.get(name, name).split(",")[0].strip() for name in listing.classes)


def class_folders(part: Path) -> list[str]:
    """The names of a part's class folders, sorted."""
    return sorted(entry.name for entry in os.scandir(part) if entry.is_dir() and not entry.name.startswith("."))


def listed(root: Path, part: str, names: Sequence[str], skipped: list[str]) -> Part:
    """The pictures below each class folder of a part, classes in the order of `names`."""
    folders = set(class_folders(root / part))
    check_names(root / part, folders - set(names), "has classes that train has not")
    check_names(root / part, set(names) - folders, "lacks classes that train has")
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        for path in files_below(root / part / name):
            (files if path.lower().endswith(SUFFIXES) else skipped).append(os.path.relpath(path, root))
        labels += [label] * (len(files) - len(labels))
    check_names(root / part, set(names) - {names[label] for label in labels}, "has class folders without a picture")
    return Part(tuple(files), tuple(labels))


def check_names(part: Path, wrong: Collection[str], problem: str) -> None:
    """Refuse a part of which some classes are wrong, naming the first few."""
    if wrong:
        named = ", ".join(sorted(wrong)[:MOST_NAMED]) + (", …" if len(wrong) > MOST_NAMED else "")
        raise UserError(
            f"data: {part} {problem} (got {len(wrong)}: {named}); both parts need the same class folders, none empty"
        )


def files_below(folder: Path) -> Iterator[str]:
    """Paths of all files in a folder and its subfolders, sorted; hidden ones are left out."""
    for where, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(files):
            if not name.startswith("."):
                yield os.path.join(where, name)


def annotated_val(root: Path, names: Sequence[str]) -> Part:
    """Tiny ImageNet's validation part: all pictures in one folder, their classes in a table."""
    table = root / "val" / ANNOTATIONS
    places = {name: label for label, name in enumerate(names)}
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines() if line.strip()]
    wrong = sorted({row[1] if len(row) > 1 else "(none)" for row in rows} - places.keys())
    check_names(table, wrong, "has classes that train has not")
    labels = {row[0]: places[row[1]] for row in rows}
    odd = sorted({os.path.basename(path) for path in files_below(root / "val" / "images")} ^ labels.keys())
    if odd:
        problem = "names no class for" if odd[0] not in labels else "names an absent file,"
        raise UserError(
            f"data: {table} {problem} {odd[0]} ({len(odd)} such); it must have one line per file in val/images"
        )
    check_names(table, set(names) - {row[1] for row in rows}, "lacks classes that train has")
    ordered = sorted(labels)
    return Part(tuple(f"val/images/{name}" for name in ordered), tuple(labels[name] for name in ordered))


def fingerprint(root: Path, part: Part) -> str:
    """Hex digits that change with any file's name, size, time of change or class: the key of what is computed."""
    digest = hashlib.sha256()
    for file, label in zip(part.files, part.labels, strict=True):
        stat = os.stat(root / file)
        digest.update(f"{file}\t{stat.st_size}\t{stat.st_mtime_ns}\t{label}\n".encode())
    return digest.hexdigest()[:20]
