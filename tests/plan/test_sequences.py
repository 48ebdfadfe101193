"""Text and nets for sequences in a plan: examples and costs by hand, and one line for what does not fit together."""

from typing import Any

import pytest

from initlab.data.facts import FACTS
from initlab.plan.conflicts import conflicts
from initlab.plan.cost import cost
from initlab.plan.dimensions import available_examples
from initlab.report.layer_tables import catalog_lines, net_lines
from initlab.study.mistakes import StudyError
from initlab.study.sections import Data
from initlab.study.spec import TrialSpec

DECODER = {"name": "transformer", "depth": 1, "width": 8, "heads": 2}


def test_a_decoder_on_text_is_counted_before_anything_is_loaded() -> None:
    spec = TrialSpec.model_validate(
        {"data": {"name": "topics", "sequence": 16}, "net": DECODER, "train": {"epochs": 1, "batch_size": 100}}
    )
    # embeddings of 97 tokens and 16 positions, 12 d^2 + 9 d of a block without norms, the head
    parameters = 97 * 8 + 16 * 8 + (12 * 64 + 9 * 8) + 8 * 97 + 97
    # a position's 12 d^2 weights, its products with 16 positions in two turns, the head
    multiply_adds = 16 * (12 * 64 + 2 * 16 * 8 + 8 * 97)
    # 2^18 characters are 16384 sequences of 16, 163 whole batches
    expected = cost(spec)
    assert (expected.parameters, expected.multiply_adds, expected.steps) == (parameters, multiply_adds, 163)
    assert list(conflicts(spec)) == []


def test_facts_of_text_are_those_of_its_usual_length() -> None:
    assert available_examples(Data(name="topics")) == (FACTS["topics"].train, FACTS["topics"].val)
    assert available_examples(Data(name="topics", sequence=100)) == (2621, 327)


@pytest.mark.parametrize(
    ("fields", "mistake"),
    [
        ({"data": {"name": "topics"}}, "net.name: takes pictures (got plain for inputs of 64); allowed: mlp, "),
        ({"data": {"name": "topics"}, "net": {"name": "mlp"}}, "net.name: takes numbers (got mlp for tokens)"),
        ({"net": {"name": "lstm"}}, "data.name: for lstm: no sequence of tokens (got 1x8x8); allowed: one dimension, "),
        ({"net": {"norm": "post"}}, "net.norm: not for plain (got 'post'); allowed: none, batch"),
        (
            {"data": {"name": "topics"}, "net": {**DECODER, "norm": "batch"}},
            "net.norm: not for transformer (got 'batch'); allowed: none, pre, post",
        ),
        (
            {"data": {"name": "topics"}, "net": {**DECODER, "heads": 3}},
            "net.heads: do not divide the width of 8 (got 3); allowed: its divisors",
        ),
        ({"init": {"branches": "scaled"}}, "init.branches: needs residual branches (got scaled for plain); allowed: "),
        (
            {"data": {"name": "topics", "sequence": 64, "train_examples": 5000}, "net": DECODER},
            "data.train_examples: more than topics has (got 5000); allowed: at most 4096",
        ),
        (
            {"net": {"name": "mlp"}, "train": {"auxiliary": [1]}},
            "train.auxiliary: needs convolutions (got mlp); allowed: a net that has some",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_one_line(fields: dict[str, Any], mistake: str) -> None:
    first, *_ = (f"{path}: {text}" for path, text in conflicts(TrialSpec.model_validate(fields)))
    assert first.startswith(mistake)


def test_branches_of_a_residual_plain_net_are_no_mistake() -> None:
    spec = TrialSpec.model_validate({"net": {"skip": "identity"}, "init": {"branches": "fixup"}})
    assert list(conflicts(spec)) == []


def test_nets_lists_those_of_any_depth_and_their_layers() -> None:
    assert list(catalog_lines())[-1] == "of any depth, see initlab nets NAME: plain, mlp, transformer, lstm"
    lines = list(net_lines("transformer", "16", overrides=["net.depth=1", "net.width=8", "net.heads=2"]))
    assert lines[0] == "transformer-1 on 16 tokens, 97 classes"
    # 4 d^2 + 4 d parameters, 16 positions of 4 d^2 + 2 * 16 d products
    assert lines[4].split() == ["attention1", "Attention", "2", "heads", "16x8", "288", "8,192"]
    assert lines[-1].split() == ["total", "7", "weight", "layers", "2,617", "28,800"]
    with pytest.raises(StudyError, match=r"--input: for lstm: no sequence of tokens \(got 1x8x8\)"):
        list(net_lines("lstm", "1x8x8"))
