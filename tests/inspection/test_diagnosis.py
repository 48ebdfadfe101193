"""Verdicts from tables whose numbers are chosen: each word, its sentence and the words of the layers."""

import math

import pytest

from initlab.inspection.diagnosis import STATUSES, VERDICTS, diagnose
from tests.signal.tables import table

DEPTH = 30
LEVEL = [1.0] * DEPTH
HALVING = [0.5**layer for layer in range(DEPTH)]


def test_a_level_net_is_healthy() -> None:
    diagnosis = diagnose(table(LEVEL, backward=LEVEL), num_classes=64)
    assert (diagnosis.verdict, diagnosis.first) == ("healthy", "")
    assert set(diagnosis.status) == {"ok"}
    assert diagnosis.reason.startswith(
        "beyond unequal fans and pooling, signals change ×1 over 28 layers (chance alone: ×"
    )


def test_both_directions_are_told_with_their_layers() -> None:
    diagnosis = diagnose(table(HALVING, backward=HALVING[::-1]))
    assert diagnosis.verdict == "vanishing"
    assert (
        "signals shrink ×0.5 per layer from `a` to `cc`, gradients shrink ×0.5 per layer from `cc`" in diagnosis.reason
    )
    assert "down to `a`: expect a stall" in diagnosis.reason
    assert diagnosis.status == ("vanishing",) * 29 + ("ok",)
    assert (diagnosis.first, diagnosis.last) == ("a", "cc")


def test_a_signal_held_by_biases_is_caught_through_the_gradient() -> None:
    diagnosis = diagnose(table([1.0, 0.2] + [0.05] * 28, backward=[6.0**layer for layer in range(DEPTH)]))
    assert diagnosis.verdict == "vanishing"
    assert diagnosis.reason.startswith(
        "gradients shrink ×0.167 per layer from `cc` down to `a`, the signals themselves"
    )


def test_growth_is_exploding_without_norms_and_uneven_with_them() -> None:
    rows = table(LEVEL, backward=[(math.pi / (math.pi - 1)) ** -layer for layer in range(DEPTH)], width=512)
    assert diagnose(rows).verdict == "exploding"
    diagnosis = diagnose(rows, normed=True)
    assert diagnosis.verdict == "uneven"
    assert "gradients grow ×1.47 per layer from `cc` down to `a`, norms hold the signals level" in diagnosis.reason
    growing = table([2.0**layer for layer in range(DEPTH)], backward=HALVING)
    assert diagnose(growing, normed=True).verdict == "exploding"


def test_decay_is_counted_where_it_is_stronger_than_the_loss() -> None:
    rows = table(HALVING, backward=HALVING[::-1]).assign(decay_ratio=[2.0] * 9 + [0.5] * 21)
    assert "weight decay outweighs the loss gradient in 9 of 30 layers: expect a stall" in diagnose(rows).reason


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_signal_that_is_not_finite(bad: float) -> None:
    diagnosis = diagnose(table([1.0, 1.0, bad, bad], backward=math.nan))
    assert diagnosis.verdict == "nonfinite"
    assert diagnosis.reason == "signals are not finite from `c` on: it can't train"
    assert diagnosis.status == ("ok", "ok", "nonfinite", "nonfinite")


def test_a_gradient_that_is_not_finite_and_one_that_never_came() -> None:
    rows = table([1.0] * 4, backward=[math.nan, math.nan, 1.0, 1.0])
    assert diagnose(rows.assign(reached=True)).reason.startswith("gradients are not finite from `b` down")
    assert diagnose(rows.assign(reached=[False, False, True, True])).verdict == "healthy"


def test_an_activation_that_gives_only_zeros_is_dead() -> None:
    rows = table([1.0] * 5, backward=[0.0, 0.0, 0.0, 1.0, 1.0]).assign(zero_fraction=[0.5, 0.5, 1.0, 0.5, 0.5])
    diagnosis = diagnose(rows)
    assert diagnosis.verdict == "dead"
    assert diagnosis.reason.startswith("the activation after `c` gives only zeros, no gradient comes to 3 of 5 layers")


def test_a_classifier_that_starts_at_zero_is_waited_for() -> None:
    rows = table([1.0] * 4 + [0.0], backward=[0.0] * 4 + [1.0]).assign(weight_var=[1.0] * 4 + [0.0])
    diagnosis = diagnose(rows, num_classes=10)
    assert diagnosis.verdict == "healthy"
    assert diagnosis.status == ("waiting",) * 4 + ("closed",)
    assert "`e` starts at 0 and 4 of 5 layers get no gradient in the first step" in diagnosis.reason


def test_a_net_of_zeros_never_opens() -> None:
    rows = table([0.0] * 3, backward=[0.0, 0.0, 1.0]).assign(weight_var=0.0, weight_grad_rms=0.0)
    diagnosis = diagnose(rows)
    assert diagnosis.verdict == "dead"
    assert set(diagnosis.status) == {"dead"}


def test_a_closed_branch_leaves_the_trunk_its_gradient() -> None:
    rows = table([1.0, 1.0, 0.0, 1.0, 1.0], backward=[1.0, 0.0, 1.0, 1.0, 1.0])
    diagnosis = diagnose(rows.assign(weight_var=[1.0, 1.0, 0.0, 1.0, 1.0]))
    assert diagnosis.verdict == "healthy"
    assert diagnosis.status == ("ok", "waiting", "closed", "ok", "ok")


def test_underflow_after_a_fall_is_vanishing_and_not_dead() -> None:
    rows = table([10.0 ** (-3 * layer) for layer in range(12)] + [0.0] * 3)
    assert diagnose(rows).verdict == "vanishing"


def test_logits_that_put_the_loss_above_ten_times_chance_are_saturated() -> None:
    # There sqrt(2 v ln K) = 10 ln K.
    at_limit = 50 * math.log(10)
    for moment, verdict in ((0.99 * at_limit, "healthy"), (1.01 * at_limit, "saturated")):
        rows = table([1.0] * 4 + [moment], backward=1.0)
        assert diagnose(rows, num_classes=10).verdict == verdict
        assert diagnose(rows).verdict == "healthy"
    diagnosis = diagnose(table([1.0] * 4 + [40000.0]), num_classes=10)
    assert diagnosis.status[-1] == "saturated"
    assert "logits start with an rms of 200, so the loss is near 429 where ln 10 = 2.30 is chance" in diagnosis.reason


def test_a_signal_far_from_its_own_theory_is_told() -> None:
    """ln 8 is 5.9 standard deviations of a band from 1/2 to 2; ln 4 is 3.9, which chance may do."""
    rows = table(LEVEL).assign(forward_predicted=1.0, forward_low=0.5, forward_high=2.0, basis="theory")
    rows = rows.assign(backward_predicted=1.0, backward_low=0.5, backward_high=2.0)
    rows.loc[4, "forward_var"] = 4.0
    assert "off their theory" not in diagnose(rows).reason
    rows.loc[4, "forward_var"] = 8.0
    assert f"signals are 5.9 standard deviations off their theory at `{rows.name[4]}`" in diagnose(rows).reason
    assert "off their theory" not in diagnose(rows, normed=True).reason
    assert "off their theory" not in diagnose(rows.assign(basis="measured")).reason


def test_a_layer_that_never_ran_is_unused_and_not_judged() -> None:
    rows = table([1.0, 1.0, 1.0, math.nan]).assign(calls=[1, 1, 1, 0])
    diagnosis = diagnose(rows)
    assert (diagnosis.verdict, diagnosis.status[-1]) == ("healthy", "unused")


def test_nothing_to_compare() -> None:
    for rows in (table([]), table([1.0])):
        assert diagnose(rows, num_classes=2).reason.startswith("fewer than two layers before the last")


def test_every_verdict_is_a_status_and_healthy_comes_first() -> None:
    assert VERDICTS[0] == "healthy"
    assert set(VERDICTS[1:]) < set(STATUSES)
