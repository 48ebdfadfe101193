"""Every Python block of the documents runs, top to bottom, with the names that a document takes for granted."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from torch import Tensor, nn

import initlab

ROOT = Path(__file__).parent.parent
WITH_CODE = [
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if "```python" in path.read_text()
]


class Net(nn.Module):
    """A net of the user's, for pictures of three colours."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 32)
        )
        self.head = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).relu())


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the documents speak of, in a folder from which the project's own can be named."""
    for folder in ("sweeps", "results"):
        (tmp_path / folder).mkdir()
    (tmp_path / "results/reference").symlink_to(ROOT / "results/reference")
    for study in (ROOT / "sweeps").iterdir():
        (tmp_path / "sweeps" / study.name).symlink_to(study)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model, images, labels = Net(), torch.randn(64, 3, 16, 16), torch.randint(0, 10, (64,))
    yield {
        "initlab": initlab,
        "build": Net,
        "model": model,
        "net": model,
        "images": images,
        "labels": labels,
        "loss": None,
        "my_scheme": lambda normals, layer: normals / layer.fan_in**0.5,
        **dict.fromkeys(("train_inputs", "train_labels", "val_inputs", "val_labels")),
    }
    plt.close("all")


@pytest.mark.parametrize("document", WITH_CODE)
def test_the_code_in_a_document_runs(document: str, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # The demo takes minutes and is tested elsewhere; the results of another study stand for its own.
    monkeypatch.setattr(initlab, "run", lambda study: initlab.load(ROOT / "results/reference/desk-fig2"))
    for block in re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.S):
        exec(compile(block, document, "exec"), names)
    for path in re.findall(r'savefig\("(.*?)"\)', (ROOT / document).read_text()):
        assert os.path.getsize(path) > 10_000, "a picture with something in it"
    if document == "docs/own-loop.md":
        assert Path("results/mine/study.yaml").exists() and len(names["results"].verdicts) == 4
