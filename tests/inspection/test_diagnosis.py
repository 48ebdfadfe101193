"""Verdicts from tables whose numbers are chosen: each word, its sentence and the words of the layers."""

import math

import pytest

from initlab.inspection.diagnosis import STATUSES, VERDICTS, diagnose
from initlab.inspection.troubles import Evidence
from initlab.signal.paths import INPUT, Wiring
from initlab.signal.start import Start
from tests.signal.tables import table

DEPTH = 30
LEVEL = [1.0] * DEPTH
HALVING = [0.5**layer for layer in range(DEPTH)]
UNKNOWN = Wiring((), (), frozenset(), frozenset())


def starting(loss: float, classes: int = 10, wiring: Wiring = UNKNOWN) -> Evidence:
    """A loss that was measured, beside ln K."""
    return Evidence(Start(wiring, loss, math.log(classes), classes, math.log(classes), 3.0))


def test_a_level_net_is_healthy() -> None:
    diagnosis = diagnose(table(LEVEL, backward=LEVEL), starting(5.0, 64))
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
    diagnosis = diagnose(rows, Evidence(normed=True))
    assert diagnosis.verdict == "uneven"
    assert "gradients grow ×1.47 per layer from `cc` down to `a`, norms hold the signals level" in diagnosis.reason
    growing = table([2.0**layer for layer in range(DEPTH)], backward=HALVING)
    assert diagnose(growing, Evidence(normed=True)).verdict == "exploding"


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
    assert diagnosis.reason.startswith(
        "the activation after `c` gives only zeros, no gradient comes to 3 of 5 layers (`a` to `c`)"
    )


def test_a_classifier_that_starts_at_zero_is_waited_for() -> None:
    rows = table([1.0] * 4 + [0.0], backward=[0.0] * 4 + [1.0]).assign(weight_var=[1.0] * 4 + [0.0])
    diagnosis = diagnose(rows, starting(2.3))
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


def test_a_measured_loss_above_ten_times_chance_is_saturated() -> None:
    rows, at_limit = table([1.0] * 5, backward=1.0), 10 * math.log(10)
    for loss, verdict in ((0.99 * at_limit, "healthy"), (1.01 * at_limit, "saturated")):
        assert diagnose(rows, starting(loss)).verdict == verdict
    diagnosis = diagnose(rows, starting(429.0))
    assert diagnosis.status[-1] == "saturated"
    assert diagnosis.reason.startswith(
        "the loss starts at 429 where ln 10 = 2.30 is chance (the outputs have an rms of 3)"
    )
    unknown = Evidence(Start(UNKNOWN, 429.0, math.nan, 0, math.nan, 3.0))
    assert diagnose(rows, unknown).verdict == "healthy"


def test_a_loss_that_is_no_cross_entropy_is_saturated_where_a_copy_does_not_learn() -> None:
    rows, start = table([1.0] * 5, backward=1.0), Start(UNKNOWN, 500.0, 1.0, 0, math.nan, 3.0)
    assert diagnose(rows, Evidence(start, learns=lambda *_: False)).verdict == "saturated"
    assert diagnose(rows, Evidence(start, learns=lambda *_: True)).verdict == "healthy"


def test_a_drift_is_no_trouble_of_a_copy_that_learns() -> None:
    rows = table(HALVING, backward=HALVING[::-1])
    start = Start(UNKNOWN, 2.3, 2.3, 10, 2.3, 1.0)
    assert diagnose(rows, Evidence(start, learns=lambda *_: False)).verdict == "vanishing"
    assert diagnose(rows, Evidence(start, learns=lambda *_: True)).verdict == "healthy"


def test_gradients_that_grow_around_skips_are_not_uneven() -> None:
    names = [f"blocks.{i}.conv" for i in range(DEPTH)]
    rows = table(LEVEL, backward=[1.35**-layer for layer in range(DEPTH)], width=512).assign(name=names)
    row = Wiring(tuple(names), tuple(frozenset([i - 1]) for i in range(DEPTH)), frozenset([DEPTH - 1]), frozenset())
    around = tuple(frozenset(range(INPUT, i)) for i in range(DEPTH))
    skipping = Wiring(tuple(names), around, frozenset(range(DEPTH)), frozenset(["Add"]))
    verdicts = []
    for wiring in (row, skipping):
        evidence = Evidence(Start(wiring, 2.3, 2.3, 10, 2.3, 1.0), normed=True)
        verdicts.append(diagnose(rows, evidence).verdict)
    assert verdicts == ["uneven", "healthy"]


def test_a_dead_layer_is_told_where_a_copy_learns_around_it() -> None:
    rows = table([1.0, 1.0, 1e-9, 1e-9, 1e-9], backward=[1.0, 0.0, 1.0, 1.0, 1.0])
    start = Start(UNKNOWN, 2.3, 2.3, 10, 2.3, 1.0)
    for learns, verdict in ((True, "dead"), (False, "vanishing")):
        evidence = Evidence(start, learns=lambda *_, learns=learns: learns, opened=lambda: {"a.weight"})
        assert diagnose(rows, evidence).verdict == verdict


def test_half_precision_that_loses_gradients_is_underflow() -> None:
    rows = table(LEVEL, backward=LEVEL).assign(underflow=[0.97] + [0.1] * (DEPTH - 1))
    diagnosis = diagnose(rows)
    assert diagnosis.verdict == "underflow"
    assert diagnosis.reason.startswith("half precision rounds 97% of the gradients at `a` to 0: train in bfloat16")
    assert diagnosis.status[:2] == ("underflow", "ok")


def test_what_was_not_seen_is_not_judged_unless_there_is_worse() -> None:
    evidence = Evidence(unjudged=["`rnn` is recurrent"])
    assert diagnose(table(LEVEL), evidence).verdict == "not_judged"
    assert diagnose(table(LEVEL), evidence).reason.startswith("`rnn` is recurrent")
    assert diagnose(table(HALVING), evidence).verdict == "vanishing"
    assert diagnose(table([])).reason.startswith("no weight layer was seen")


def test_an_expert_that_gets_no_example_is_unused() -> None:
    rows = table([1.0, 1.0, math.nan, 1.0], backward=1.0).assign(outputs=[64.0, 64.0, 0.0, 64.0])
    diagnosis = diagnose(rows)
    assert (diagnosis.verdict, diagnosis.status) == ("healthy", ("ok", "ok", "unused", "ok"))


def test_what_a_copy_opens_waits_and_what_it_does_not_is_dead() -> None:
    rows = table([1.0, 0.0, 1.0, 1.0], backward=[1.0, 0.0, 1.0, 1.0]).assign(
        name=["stem", "gate", "block", "head"], weight_var=[1.0, 0.0, 1.0, 1.0], weight_grad_rms=[1.0, 0.0, 1.0, 1.0]
    )
    diagnosis = diagnose(rows, Evidence(opened=lambda: {"stem.weight", "block.weight", "gate.bias"}))
    assert (diagnosis.verdict, diagnosis.first) == ("dead", "gate")
    diagnosis = diagnose(rows, Evidence(opened=lambda: {"gate.weight"}))
    assert (diagnosis.verdict, diagnosis.status[1]) == ("healthy", "closed")


def test_a_layer_that_never_ran_is_unused_and_not_judged() -> None:
    rows = table([1.0, 1.0, 1.0, math.nan]).assign(calls=[1, 1, 1, 0])
    diagnosis = diagnose(rows)
    assert (diagnosis.verdict, diagnosis.status[-1]) == ("healthy", "unused")


def test_nothing_to_compare() -> None:
    assert diagnose(table([1.0]), starting(0.7, 2)).reason.startswith("no two layers of one path before the last")


def test_every_verdict_is_a_status_and_healthy_comes_first() -> None:
    assert VERDICTS[0] == "healthy"
    assert set(VERDICTS[1:]) < set(STATUSES)
