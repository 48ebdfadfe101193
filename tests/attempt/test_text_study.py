"""A study of text from its file to its results: decoders under branches and embeddings of a chosen size."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import initlab
from initlab.attempt.assemble import build_net, load_data
from initlab.data.text import digest
from initlab.engine.task import DataAccess
from initlab.study.spec import TrialSpec
from initlab.study.study import Study

DATA = {"name": "topics", "sequence": 8, "train_examples": 64, "val_examples": 16}
NET = {"name": "transformer", "depth": 2, "width": 16, "norm": "pre"}


def net_of(**init: Any) -> torch.nn.Module:
    spec = TrialSpec.model_validate({"data": DATA, "net": NET, "init": init, "probe": {"examples": 4}})
    data = load_data(spec, torch.device("cpu"), DataAccess(), {}, print)
    return build_net(spec, data, torch.device("cpu"))


def test_branches_and_embeddings_are_set_before_training() -> None:
    plain, scaled = (net_of(scheme="xavier", **more) for more in ({}, {"branches": "scaled", "embedding_std": 0.02}))
    for name, weight in plain.named_parameters():
        # 1 / sqrt(2 L) of 2 blocks.
        factor = 0.5 if "output" in name or "down" in name else 1.0
        if not name.startswith(("tokens", "positions")):
            torch.testing.assert_close(scaled.get_parameter(name), factor * weight)
    assert scaled.get_parameter("tokens.weight").std().item() == pytest.approx(0.02, rel=0.1)
    assert plain.get_parameter("tokens.weight").std().item() == pytest.approx(1, rel=0.1)


def test_embeddings_as_built_are_the_same_for_every_scheme() -> None:
    he, xavier = (net_of(scheme=scheme).get_parameter("positions.embedding.weight") for scheme in ("he", "xavier"))
    assert torch.equal(he, xavier)


@pytest.mark.parametrize("pack", [1, 2])
def test_a_study_of_text_runs_alone_and_packed(pack: int, tmp_path: Path) -> None:
    study = Study.model_validate({
        "name": "text",
        "data": DATA,
        "net": NET,
        "train": {"epochs": 2.0, "batch_size": 16, "lr": 0.01, "optimizer": "adamw"},
        "probe": {"every": 4, "examples": 4},
        "run": {"jobs": 1, "isolate": "none", "pack": pack},
        "grid": {"seed": [0, 1]},
    })  # fmt: skip
    results = initlab.run(study, tmp_path, show="nothing")
    errors = results.scalars.groupby("trial").val_error.last()
    assert len(errors) == 2
    assert (errors < 1).all()
    # 6 weight layers a block and the head
    assert set(results.signals.groupby(["trial", "step"]).size()) == {13}
    (attempt, *_) = sorted(tmp_path.glob("trials/*/attempt-*/attempt.json"))
    assert json.loads(attempt.read_text())["environment"]["text"] == digest()
