"""The loss at the start against torch's own, and what chance has."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from initlab.signal.start import start_of


def mse(output: Tensor, labels: Tensor) -> Tensor:
    return (output - labels).square().mean(1)


@pytest.mark.parametrize("shape", [(6,), (6, 5), (6, 5, 4)])
def test_cross_entropy_is_the_mean_over_labels_of_any_number_of_dimensions(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net, x, y = nn.Linear(3, 7), torch.randn(*shape, 3), torch.randint(7, shape)
    start = start_of(net, x, y)
    assert start.loss == pytest.approx(F.cross_entropy(net(x).flatten(0, -2), y.flatten()).item(), rel=1e-5)
    assert (start.chance, start.classes) == (math.log(7), 7)


def test_classes_that_come_second_as_torch_has_them() -> None:
    torch.manual_seed(0)
    net, x, y = nn.Conv2d(3, 5, 1), torch.randn(2, 3, 4, 4), torch.randint(5, (2, 4, 4))
    start = start_of(net, x, y)
    assert start.loss == pytest.approx(F.cross_entropy(net(x), y).item(), rel=1e-5)
    assert start.classes == 5


def test_labels_that_are_ignored_do_not_count() -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(3, 7), torch.randn(4, 3)
    y = torch.tensor([1, -100, 2, -100])
    assert start_of(net, x, y).loss == pytest.approx(F.cross_entropy(net(x), y).item(), rel=1e-5)


def test_a_loss_of_ones_own_is_held_against_its_value_at_zeros() -> None:
    torch.manual_seed(0)
    net, x, t = nn.Linear(3, 2), torch.randn(8, 3), torch.randn(8, 2)
    start = start_of(net, x, t, mse)
    assert start.loss == pytest.approx(F.mse_loss(net(x), t).item(), rel=1e-5)
    assert (start.chance, start.classes) == (pytest.approx(t.square().mean().item(), rel=1e-5), 0)
    assert math.isnan(start_of(net, x, torch.zeros(8, 2), mse).chance)
    named = start_of(net, x, torch.arange(8) % 2, F.cross_entropy)
    assert (named.classes, named.chance) == (2, pytest.approx(math.log(2)))


def test_log_probabilities_have_the_chance_of_logits() -> None:
    torch.manual_seed(0)
    net, y = nn.Sequential(nn.Linear(3, 4), nn.LogSoftmax(1)), torch.arange(8) % 4
    start = start_of(net, torch.randn(8, 3), y, F.nll_loss)
    assert (start.chance, start.classes) == (math.log(4), 4)


def test_the_precision_that_runs_is_the_one_measured() -> None:
    torch.manual_seed(0)
    net, x, y = nn.Linear(64, 4).half(), torch.randn(8, 64), torch.arange(8) % 4
    expected = F.cross_entropy(net(x.half()).float(), y).item()
    assert start_of(net, x, y).loss == pytest.approx(expected, rel=1e-6)


def test_the_tied_unit_normal_embedding_starts_far_above_chance() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(256, 64), nn.LayerNorm(64), nn.Linear(64, 256, bias=False))
    net[2].weight = net[0].weight
    tokens = torch.randint(256, (4, 16))
    start = start_of(net, tokens, tokens.roll(1, 1))
    assert start.loss == pytest.approx(F.cross_entropy(net(tokens).flatten(0, 1), tokens.roll(1, 1).flatten()).item())
    assert start.ratio > 5
