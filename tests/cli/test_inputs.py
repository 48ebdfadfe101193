"""`--input`, `--batch` and `--loss`: what a model on the command line takes, its labels, and wrong words."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner
from torch import Tensor, nn

from initlab.cli import main
from initlab.errors import UserError
from initlab.inspection.inputs import Input, parse_inputs
from initlab.inspection.subject import resolve_model

CODE = """
import torch
from torch import nn
class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.pixels, self.head = nn.Embedding(50, 16), nn.Conv2d(3, 16, 3), nn.Linear(16, 5)
    def forward(self, ids, picture):
        return self.head(self.words(ids).mean(1) + self.pixels(picture).mean((2, 3)))
def mlp(): return nn.Sequential(nn.Linear(100, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
def conv(): return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
def sequence(): return nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 8, 3), nn.Flatten(),
                                  nn.Linear(1760, 4))
def words(): return nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 50))
def actor(): return nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
def batch(): return torch.ones(4, 6), torch.full((4, 1), 3.0)
def alone(): return torch.ones(4, 6)
def number(): return 3
def loss(output, labels): return ((output - labels) ** 2).squeeze(1)
"""


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "users_inputs.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "users_inputs", raising=False)
    return "users_inputs"


def shapes(batch: Any) -> Any:
    """The shapes in a batch."""
    if isinstance(batch, Tensor):
        return tuple(batch.shape)
    return {k: shapes(v) for k, v in batch.items()} if isinstance(batch, dict) else tuple(map(shapes, batch))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("mlp", "100", (8, 100)),
        ("conv", "32", (8, 3, 32, 32)),  # of a convolution, a bare number is a side
        ("sequence", "3x224", (8, 3, 224)),
        ("words", "tokens:24", (8, 24)),
        ("Mixed", '["tokens:7", "3x8x8"]', ((8, 7), (8, 3, 8, 8))),
        ("Mixed", '{"picture": "3x8x8", "ids": "tokens:7"}', {"picture": (8, 3, 8, 8), "ids": (8, 7)}),
    ],
)
def test_a_model_gets_what_the_text_says(users: str, name: str, text: str, expected: Any) -> None:
    subject = resolve_model(f"{users}:{name}", inputs=parse_inputs(text), allow_code=True)
    assert shapes(subject.images) == expected
    assert subject.labels is not None and len(subject.labels) == 8


def test_tokens_lie_below_the_number_of_words(users: str) -> None:
    drawn = [
        resolve_model(f"{users}:words", inputs=Input("tokens", (400,)), vocab=vocab, allow_code=True).images
        for vocab in (None, 5)
    ]
    assert [int(ids.max()) for ids in drawn if isinstance(ids, Tensor)] == [49, 4]


def test_the_users_batch_and_loss_are_those_that_are_judged(users: str) -> None:
    words = ["inspect", f"{users}:actor", "--allow-code", "--batch", f"{users}:batch", "--json"]
    result = CliRunner().invoke(main, [*words, "--loss", f"{users}:loss"])
    assert result.exit_code in (0, 1), result.output
    layers = json.loads(result.stdout)["layers"]
    # All examples are alike, so that the last layer's output is one number and its gradient 2 (y - 3).
    subject = resolve_model(f"{users}:actor", batch=f"{users}:batch", allow_code=True)
    assert isinstance(subject.images, Tensor)
    y = subject.module(subject.images).double().mean().item()
    assert layers[-1]["forward_mean"] == pytest.approx(y, rel=1e-6)
    assert layers[-1]["backward_mean"] == pytest.approx(2 * (y - 3), rel=1e-5)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--input", "tokens"], "--input: not an input (got 'tokens'); allowed: a shape as 3x224x224"),
        (["--input", '{"a": 3.5}'], "--input: not an input (got 3.5)"),
        (["--input", "[3"], "--input: not JSON (got "),
        (["--input", "[]"], "--input: no input (got [])"),
        (["--input", "tokens:24"], "--input tokens: of how many words? (got no embedding in the model)"),
        (["--input", "7"], "users_inputs:mlp: an input of 7 does not fit"),
        (["--batch", "users_inputs:number"], "--batch users_inputs:number: gives no batch (got int)"),
        (["--batch", "users_inputs:nothing"], "--batch: "),
        (["--batch", "users_inputs:alone"], "users_inputs:mlp: an input of 6 does not fit"),
        (["--input", "100", "--vocab", "0"], "Error: Invalid value for '--vocab'"),
    ],
)
def test_wrong_inputs_are_one_line(users: str, words: list[str], line: str) -> None:
    result = CliRunner().invoke(main, ["inspect", f"{users}:mlp", "--allow-code", *words])
    assert (result.exit_code, result.stdout) == (2, "")
    assert line in result.stderr and "Traceback" not in result.stderr


def test_other_libraries_models_are_built_without_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Config:
        architectures, vocab_size = ["Decoder"], 30

    class Decoder(nn.Module):
        def __init__(self, config: Config) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(config.vocab_size, 8), nn.Linear(8, config.vocab_size)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.words(ids))

    asked: list[tuple[str, bool]] = []
    library: Any = ModuleType("transformers")
    library.Decoder = Decoder
    library.AutoConfig = ModuleType("auto")
    library.AutoConfig.from_pretrained = lambda path, local_files_only: asked.append((path, local_files_only)) or Config
    monkeypatch.setitem(sys.modules, "transformers", library)
    subject = resolve_model(f"hf:{tmp_path / 'config.json'}")
    assert asked == [(str(tmp_path), True)] and isinstance(subject.images, Tensor)
    assert subject.images.shape == (8, 24) and subject.images.max() == 29
    assert subject.labels is not None and subject.labels.shape == (8, 24)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"^hf:bert: needs transformers \(got none\); pip install transformers$"):
        resolve_model("hf:bert")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"^timm:vit: needs timm"):
        resolve_model("timm:vit")
