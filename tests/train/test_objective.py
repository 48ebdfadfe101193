"""Losses, errors and what guessing has, against loops, torch's own functions, closed forms and counts by hand."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from initlab.data.dataset import Preprocessing
from initlab.data.examples import Examples
from initlab.data.in_memory import TensorSet, prepare
from initlab.errors import UserError
from initlab.train.evaluate import evaluation_of, totals_of
from initlab.train.objective import objective_of
from initlab.verdict.judge import judge
from initlab.verdict.rules import noise_floor

DRAW = torch.Generator().manual_seed(0)


def data_of(labels: Tensor, num_classes: int | None = None) -> TensorSet:
    inputs = torch.arange(len(labels), dtype=torch.float32)[:, None]
    data = prepare(Examples(inputs, labels, inputs, labels, num_classes), Preprocessing())
    assert isinstance(data, TensorSet)
    return data


def figures(loss: str | None, labels: Tensor, output: Tensor) -> tuple[float, float, float, float]:
    """Mean loss and mean error in training, then the same in validation, of a batch."""
    objective = objective_of(loss, data_of(labels))
    evaluation = evaluation_of(totals_of(objective, output, labels).double())
    in_training = objective.loss(output, labels).item(), objective.misses(output, labels).item() / len(labels)
    return *in_training, evaluation.val_loss, evaluation.val_error


def test_chance_of_classes_is_the_error_of_the_commonest() -> None:
    guess = objective_of(None, data_of(torch.tensor([0, 0, 0, 1, 2]))).guess
    assert guess.error == pytest.approx(0.4)
    assert guess.loss == pytest.approx(math.log(3))


def test_chance_over_positions_is_the_unigrams_counted_by_hand() -> None:
    # Of 7 positions that count, 3 hold the word 1: 4/7 are wrong. Of the examples 1/3, 1 and 1/2 are.
    labels = torch.tensor([[1, 1, 0], [0, 2, -100], [1, 3, -100]])
    guess = objective_of(None, data_of(labels)).guess
    assert guess.error == pytest.approx(4 / 7)
    shares = torch.tensor([1 / 3, 1.0, 1 / 2])
    assert guess.spread == pytest.approx(shares.std(correction=0).item())
    assert guess.loss == pytest.approx(math.log(4))


@pytest.mark.parametrize("second", [False, True])
def test_positions_have_the_loss_and_error_of_a_loop_over_those_that_count(second: bool) -> None:
    output = torch.randn(5, 4, 3, generator=DRAW, dtype=torch.float64)
    labels = torch.randint(3, (5, 4), generator=DRAW)
    labels[0, 1:] = -100
    counted = [(n, t) for n in range(5) for t in range(4) if labels[n, t] != -100]
    loss = sum(-output[n, t].log_softmax(0)[labels[n, t]].item() for n, t in counted) / len(counted)
    error = sum(int(output[n, t].argmax()) != int(labels[n, t]) for n, t in counted) / len(counted)
    expected = [loss, error] * 2
    assert figures(None, labels, output.movedim(2, 1) if second else output) == pytest.approx(expected)


def test_regressions_error_is_the_squared_error_over_the_labels_variance() -> None:
    labels = torch.tensor([[1.0, 10.0], [3.0, 10.0], [1.0, 30.0], [3.0, 30.0]])
    # Variances 1 and 100, 50.5 on average; all off by 1 in the first number, and by 2 in the second.
    off = labels + torch.tensor([1.0, -2.0])
    assert figures(None, labels, off) == pytest.approx([2.5, 2.5 / 50.5] * 2)
    mean = labels.mean(0).expand(4, 2)
    assert figures(None, labels, mean)[1] == pytest.approx(1)
    assert figures(None, labels[:, 0], mean[:, :1])[1] == pytest.approx(1), "an output of one number each"


@pytest.mark.parametrize(("labels", "loss"), [(torch.bool, None), (torch.bool, "bce"), (torch.float32, "bce")])
def test_multilabel_has_torchs_loss_and_the_share_of_labels_wrong(labels: torch.dtype, loss: str | None) -> None:
    holds = torch.tensor([[1, 0], [1, 0], [1, 1], [0, 0], [1, 0]])
    output = torch.tensor([[2.0, -1.0], [-0.1, -3.0], [1.0, -1.0], [-1.0, 0.5], [4.0, 0.0]])
    expected = F.binary_cross_entropy_with_logits(output, holds.float()).item()
    assert figures(loss, holds.to(labels), output) == pytest.approx([expected, 3 / 10] * 2)
    # min(4/5, 1/5) and min(1/5, 4/5).
    assert objective_of(loss, data_of(holds.to(labels))).guess.error == pytest.approx(1 / 5)


def test_an_output_that_is_not_finite_is_wrong() -> None:
    labels = torch.tensor([[False, True], [True, False]])
    assert figures("bce", labels, torch.full((2, 2), math.nan))[3] == 1


@pytest.mark.parametrize(("distribution", "kurtosis"), [("normal", 3.0), ("uniform", 1.8)])
def test_the_spread_of_the_means_error_is_that_of_the_labels_kurtosis(distribution: str, kurtosis: float) -> None:
    draws = torch.randn(200_000, generator=DRAW) if distribution == "normal" else torch.rand(200_000, generator=DRAW)
    guess = objective_of(None, data_of(7 + 3 * draws)).guess
    assert guess.error == 1
    assert guess.spread == pytest.approx(math.sqrt(kurtosis - 1), rel=0.02)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_a_net_that_predicts_the_mean_stays_above_the_noise_floor(shape: tuple[int, ...]) -> None:
    """20,000 epochs of 128 examples: 4 standard errors are a one-sided chance of 3e-5, and less as squares skew."""
    labels = torch.randn(4096, *shape, generator=DRAW) ** 3
    objective = objective_of(None, data_of(labels))
    errors = objective.errors(labels.mean(0).expand_as(labels), labels)[0].flatten(1) if shape else None
    each = errors.mean(1) if errors is not None else objective.errors(labels.mean().expand(4096), labels)[0]
    epochs = each[torch.randint(4096, (20_000, 128), generator=DRAW)].mean(1)
    floor = noise_floor(1, 128, objective.guess.spread)
    assert (epochs < floor).double().mean() < 1e-4
    assert epochs.std().item() == pytest.approx((1 - floor) / 4, rel=0.05), "the floor is 4 standard errors below 1"


def test_a_regression_is_judged_by_the_variance_that_it_explains() -> None:
    def verdict(errors: list[float], loss: float = 2.0) -> str:
        rows = {"step": range(5), "epoch": range(5), "train_loss": [math.nan, 2.0, loss, 2.0, 2.0]}
        rows |= {"train_error": [math.nan, *errors], "val_error": [1.0, *errors]}
        facts: Any = {"steps_per_epoch": 1, "batch_size": 800, "chance_loss": 2.0, "chance": 1.0, "threshold": 0.5}
        return judge(rows, **facts, spread=math.sqrt(2)).verdict

    # The floor is 1 - 4 sqrt(2 / 800) = 0.8.
    assert verdict([1.0, 0.9, 0.81, 0.81]) == "stalled"
    assert verdict([1.0, 0.9, 0.79, 0.81]) == "slow"
    assert verdict([1.0, 0.9, 0.6, 0.5]) == "converged"
    assert verdict([1.0, 0.9, 0.6, 0.5], loss=20.1) == "diverged"


@pytest.mark.parametrize(
    ("loss", "labels", "expected"),
    [
        ("mse", torch.tensor([0, 1]), r"train.loss: mse takes other labels \(got torch.int64\)"),
        ("cross_entropy", torch.tensor([0.5, 1]), r"takes other labels \(got torch.float32\); allowed: int64 classes"),
        ("bce", torch.tensor([0.5, 1.5]), r"bce takes labels of 0 and 1 \(got 0.5 to 1.5\)"),
        (None, torch.tensor([1, 1]), "the training labels are all alike"),
        (None, torch.tensor([[1, 1], [1, -100]]), "the training labels are all alike"),
        (None, torch.tensor([0.1, 0.1]), "the training labels are all alike"),
        (None, torch.tensor([[True, False], [True, False]]), "the training labels are all alike"),
    ],
)
def test_labels_that_a_loss_does_not_take_are_refused(loss: str | None, labels: Tensor, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        objective_of(loss, data_of(labels))


@pytest.mark.parametrize(
    ("labels", "shape", "allowed"),
    [
        (torch.tensor([0, 2]), (2, 2), r"\(2, 3\)"),
        (torch.tensor([[0, 1], [2, 0]]), (2, 2), r"\(2, 2, 3\)"),
        (torch.tensor([0.0, 1.0]), (2, 2), r"\(2,\)"),
        (torch.tensor([[True, False], [False, True]]), (2, 3), r"\(2, 2\)"),
    ],
)
def test_an_output_that_does_not_fit_the_labels_is_refused(labels: Tensor, shape: Any, allowed: str) -> None:
    data = data_of(labels)
    with pytest.raises(UserError, match=rf"the output does not fit labels .*; allowed: {allowed}"):
        objective_of(None, data).check_output(torch.zeros(shape, requires_grad=True), labels, data.num_classes)


def test_auxiliary_heads_and_slices_with_uncounted_positions_are_refused() -> None:
    labels = torch.tensor([[0, 1], [1, -100]])
    objective = objective_of(None, data_of(labels))
    with pytest.raises(UserError, match=r"train.auxiliary: heads give one answer"):
        objective.check_settings(labels, (1,), 1)
    with pytest.raises(UserError, match=r"train.accumulate, --devices: the slices of a batch differ"):
        objective.check_settings(labels, (), 2)
    objective.check_settings(labels[:1], (), 2)
