"""Auxiliary classifiers: their losses add up by hand, reach the early layers, and leave testing alone."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from initlab.data.orders import step_indices
from initlab.plan.plan import plan
from initlab.study.mistakes import StudyError
from initlab.study.study import Study
from initlab.train.auxiliary import Auxiliary
from tests.train.test_trial import parts, same_weights, spec, train

AUX: dict[str, dict[str, Any]] = {"train": {"auxiliary": [1, 3], "dropout": 0.3}}


def test_the_loss_is_the_weighted_sum_of_the_heads_by_hand() -> None:
    data, net = parts(spec())
    auxiliary = Auxiliary(net, (1, 3), 0.3, 10, seed=0)
    images, labels = next(data.train_batches(0, 32, 0, 1))
    net(images)
    expected = 0.0
    for depth, head in zip((1, 5), auxiliary.heads, strict=True):  # conv1_1; act1_1, conv1_2, act1_2, conv2_1
        map_of = net[:depth](images)
        logits = F.linear(map_of.clamp(min=0).mean((2, 3)), head.weight, head.bias)
        expected += 0.3 * F.cross_entropy(logits, labels).item()
    assert auxiliary.loss(labels, F.cross_entropy).item() == pytest.approx(expected, rel=1e-6)
    assert not auxiliary.maps
    net.eval()
    net(images)
    assert not auxiliary.maps  # nothing is kept of probes and validations


def test_the_first_step_follows_the_gradient_of_both_losses() -> None:
    trial_spec = spec(train={"epochs": 1 / 6, "auxiliary": [2], "auxiliary_weight": 0.7, "weight_decay": 0.0})
    trial, _, _ = train(trial_spec)
    data, net = parts(trial_spec)
    head = Auxiliary(net, (2,), 0.7, 10, seed=0)
    (indices,) = step_indices(200, 32, 0, 0, 1)
    images, labels = data.train_batch(indices, 0, 0)
    loss = F.cross_entropy(net(images), labels)
    (loss + head.loss(labels, F.cross_entropy)).backward()
    for name, parameter in net.named_parameters():
        assert torch.allclose(trial.net.get_parameter(name), parameter - 0.02 * parameter.grad, atol=1e-7), name
    assert trial.passes.auxiliary is not None
    moved = head.heads[0].weight - 0.02 * head.heads[0].weight.grad
    assert torch.allclose(trial.passes.auxiliary.heads[0].weight, moved, atol=1e-7)


def test_a_resumed_trial_with_heads_ends_bit_identical_and_probes_change_nothing() -> None:
    trial_spec = spec(**AUX)
    whole, _, _ = train(trial_spec)
    calls = iter(range(10_000))
    _, before, _ = train(trial_spec, should_stop=lambda: next(calls) >= 7)
    second, _, _ = train(trial_spec, resumed=before.states[-1])
    assert same_weights(whole, second)
    assert same_weights(whole, train(spec(**AUX, probe={"every": 0}))[0])
    assert not same_weights(whole, train(spec(train={"dropout": 0.3}))[0])


def test_a_convolution_that_is_not_there_is_refused() -> None:
    study = Study.model_validate({"name": "x", "net": {"depth": 7}, "train": {"auxiliary": [5]}})
    with pytest.raises(StudyError, match=r"train.auxiliary: no such convolution \(got 5\); allowed: 1 to 4"):
        plan(study)
    with pytest.raises(ValueError, match=r"no such convolution \(got 5\)"):
        Auxiliary(parts(spec())[1], (5,), 0.3, 10, seed=0)
