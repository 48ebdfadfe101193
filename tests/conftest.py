"""Small real things that several test files use: a study that trains in a second, and its parts."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

# Before numpy and torch read it, here and in every process that a test starts: the workers of pytest share the cores.
os.environ["OMP_NUM_THREADS"] = "1"
# Files of tests that take 10 s or more each: the last of them begun late, one worker would wait for the other.
LONG = ("test_notebooks.py", "test_pattern.py", "test_ray.py")

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"name": "digits", "train_examples": 256, "val_examples": 100},
    "net": {"depth": 7, "width": 4, "linear_width": 8},
    "train": {"epochs": 2, "lr": 0.01, "log_every": 3},
    "probe": {"every": 5, "examples": 16},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long tests first."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Whatever number of threads a test before set."""
    import torch

    torch.set_num_threads(1)


def write_tiny(folder: Path, **changes: Any) -> Path:
    """The tiny study in `folder` with some sections changed, e.g. write_tiny(folder, train={"epochs": 1})."""
    content = {key: value.copy() if isinstance(value, dict) else value for key, value in TINY.items()}
    for key, value in changes.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(content.get(key), dict) else value
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Path]:
    """Writes the tiny study with some sections changed, e.g. tiny(train={"epochs": 1}, grid={"seed": [0, 1]})."""
    return partial(write_tiny, tmp_path)
