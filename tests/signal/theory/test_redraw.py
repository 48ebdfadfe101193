"""Bands of redrawn weights: what is drawn, what is measured of it, and that the model stays as it was."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import initlab
from initlab.bench.coverage_nets import COVERAGE_NETS
from initlab.signal.survey import survey, variances
from initlab.signal.theory.redraw import draw_normals, weights_of


@pytest.mark.parametrize("name", ["gpt-tied", "torch-pre-norm", "lstm-2", "weight-norm", "dcgan"])
def test_variances_are_those_of_the_survey(name: str) -> None:
    net = COVERAGE_NETS[name](0)
    whole = survey(net.model, net.batch, net.labels, loss=net.loss).layers
    expected = {row["name"]: [row["forward_var"], row["backward_var"]] for row in whole}
    pairs = {layer: pair for layer, _, pair in variances(net.model, net.batch, net.labels, loss=net.loss)}
    assert list(pairs) == list(expected)
    for layer, pair in pairs.items():
        assert pair == pytest.approx(expected[layer], rel=1e-4)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.model.parameters())


@pytest.mark.parametrize(
    ("build", "numbers"),
    [
        (lambda: nn.LSTM(8, 64), 4 * 64 * (8 + 64)),
        (lambda: nn.MultiheadAttention(32, 4), 4 * 32 * 32),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Embedding(9, 8)), 8 * 3 * 9),
    ],
)
def test_every_matrix_is_drawn_anew_with_its_size_and_nothing_else(
    build: Callable[[], nn.Module], numbers: int
) -> None:
    model = build()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    draw_normals({weight.name: weight.std for weight in weights_of(model)}, model, seed=3)
    drawn = {name: p.detach() for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert sum(parameter.numel() for parameter in drawn.values()) == numbers
    for name, parameter in drawn.items():
        # Ten standard errors of a normal second moment.
        square, old = parameter.square().mean().item(), before[name].square().mean().item()
        assert square == pytest.approx(old, rel=10 * (2 / parameter.numel()) ** 0.5)


def test_inspect_takes_redrawn_bands_where_no_rule_is_proven_and_says_so() -> None:
    net = COVERAGE_NETS["gpt"](0)
    net.model.train()
    buffers = [t.clone() for t in (*net.model.parameters(), *net.model.buffers(), torch.get_rng_state())]
    inspection = initlab.inspect(net.model, net.batch, net.labels)
    after = [*net.model.parameters(), *net.model.buffers(), torch.get_rng_state()]
    assert all(torch.equal(a, b) for a, b in zip(buffers, after, strict=True)) and net.model.training
    table = inspection.table
    assert set(table.basis) == {"redrawn"}
    (note,) = (note for note in inspection.notes if "draws of the weights" in note)
    assert note.startswith("the bands of 49 of 49 layers were measured over 8 draws of the weights, in ")
    # 95 % of points over draws; those of one draw depend on each other.
    for way in ("forward", "backward"):
        assert table[f"{way}_var"].between(table[f"{way}_low"], table[f"{way}_high"]).mean() > 0.7
    assert " redrawn " in repr(inspection) and "<td>redrawn</td>" in inspection._repr_html_()
    bare = initlab.inspect(net.model, net.batch, net.labels, redraws=0)
    assert "redrawn" not in set(bare.table.basis) and not bare.notes


def test_a_net_of_proven_rules_is_not_redrawn() -> None:
    net = COVERAGE_NETS["mlp-relu"](0)
    inspection = initlab.inspect(net.model, net.batch, net.labels)
    assert set(inspection.table.basis) == {"theory"} and not inspection.notes
    assert "basis" not in repr(inspection)


@pytest.mark.parametrize("draws", [1, -2])
def test_too_few_redraws_are_refused(draws: int) -> None:
    with pytest.raises(ValueError, match=rf"inspect: redraws is out of range \(got {draws}\); allowed: 0 for none, or"):
        initlab.inspect(nn.Linear(2, 2), torch.ones(1, 2), redraws=draws)
