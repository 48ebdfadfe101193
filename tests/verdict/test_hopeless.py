"""When a trial may be given up, on cases counted by hand."""

import math
from dataclasses import asdict

import pytest

from initlab.verdict.hopeless import Evidence, stop_step
from initlab.verdict.rules import noise_floor


def evidence(errors: float = 0.9, decay: float = 2.0) -> Evidence:
    facts = Evidence()
    facts.see_errors(errors * 1408, 1408, 0.9, epoch_ends=True)
    facts.see_probe([{"decay_ratio": decay}])
    return facts


def test_the_noise_floor_is_below_chance_by_four_standard_errors() -> None:
    # 4 sqrt(0.9 * 0.1 / 1408) = 0.03198
    assert 0.868 < noise_floor(0.9, 1408) < 0.8681


def test_all_three_facts_are_needed() -> None:
    assert evidence().hopeless(50, 100)
    assert not evidence().hopeless(49, 100), "before half"
    assert not evidence(errors=0.8).hopeless(50, 100), "it learns"
    assert not evidence(decay=1.0).hopeless(50, 100), "the gradient still outweighs the decay"
    assert not evidence(decay=math.nan).hopeless(50, 100), "no decay, no evidence"
    assert evidence(decay=math.inf).hopeless(50, 100), "a dead net"


def test_an_epoch_counts_as_a_whole_and_learning_is_never_forgotten() -> None:
    facts = evidence()
    facts.see_errors(0.5 * 64, 64, 0.9, epoch_ends=False)  # 32 of 64, then 0.95 of 1344: 0.929 in all
    assert not facts.learned
    facts.see_errors(0.95 * 1344, 1344, 0.9, epoch_ends=True)
    assert not facts.learned
    facts.see_errors(0.5 * 1408, 1408, 0.9, epoch_ends=True)
    facts.see_errors(0.9 * 1408, 1408, 0.9, epoch_ends=True)
    assert facts.learned and not facts.hopeless(90, 100)
    assert Evidence(**asdict(facts)) == facts


def test_evidence_restored_in_the_middle_of_an_epoch_goes_on_as_if_never_interrupted() -> None:
    whole = evidence()
    whole.see_errors(0.5 * 704, 704, 0.9, epoch_ends=False)
    restored = Evidence(**asdict(whole))
    for shown in (whole, restored):
        shown.see_errors(0.9 * 704, 704, 0.9, epoch_ends=True)  # 0.7 over the epoch
    assert restored == whole and restored.learned and restored.decay_ratio == 2.0


def test_the_median_layer_decides_and_layers_without_a_ratio_have_no_vote() -> None:
    facts = evidence()
    facts.see_probe([{"decay_ratio": ratio} for ratio in (0.1, 0.2, 5.0, math.nan, math.nan)])
    assert facts.decay_ratio == 0.2


@pytest.mark.parametrize(
    ("errors", "ratios", "expected"),
    [
        ([0.9, 0.9, 0.9, 0.9], {0: 2.0}, 20),
        ([0.9, 0.9, 0.9, 0.9], {0: 0.5, 25: 2.0}, 30),  # the probe at 25 is heard at the epoch's end
        ([0.9, 0.5, 0.9, 0.9], {0: 2.0}, None),
        ([0.9, 0.9, 0.9, 0.9], {0: 2.0, 15: 0.5}, None),
        ([0.9, 0.9, 0.9, 0.9], {0: 0.5, 40: 2.0}, None),  # at its end there is nothing left to save
    ],
)
def test_the_step_of_a_replayed_trial(errors: list[float], ratios: dict[int, float], expected: int | None) -> None:
    rows = [{"step": 0, "train_error": math.nan}]
    rows += [{"step": 10 * (i + 1), "train_error": error} for i, error in enumerate(errors)]
    probes = {step: [{"decay_ratio": ratio}] for step, ratio in ratios.items()}
    assert stop_step(rows, probes, batch_size=32, steps_per_epoch=10, steps=40, chance=0.9) == expected
