"""Running moments of packed trials: those of each trial alone, each at its own cadence, captured or not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from initlab.signal.running import BACKWARD, FORWARD, RunningMoments
from initlab.signal.running_packed import PackedMoments
from initlab.study.spec import TrialSpec
from initlab.train.cuda import WARM_UP
from initlab.train.packed import Pack
from initlab.train.trial import Trial
from tests.train.tape import tape
from tests.train.test_cuda import VARIED, Waits
from tests.train.test_packed import (
    FOUR,
    Memory,
    alone,
    assert_same,
    assert_same_moments,
    begun,
    packed,
    spec,
    stopped_and_resumed,
)

CADENCES = (3, 0, 5, 7)


def watched(specs: list[TrialSpec], cadences: tuple[int, ...] = CADENCES) -> list[TrialSpec]:
    """The same trials, each with running moments at its own cadence."""
    return [
        one.model_copy(update={"probe": one.probe.model_copy(update={"running_every": every})})
        for one, every in zip(specs, cadences, strict=False)
    ]


def assert_as_alone(trials: list[Trial], specs: list[TrialSpec]) -> None:
    for trial, one in zip(trials, specs, strict=True):
        solo = alone(one)[0]
        assert_same(solo, trial)
        assert bool(solo.recorder.running) == bool(one.probe.running_every)
        assert_same_moments(solo.recorder, trial.recorder)


@pytest.mark.parametrize("specs", [FOUR, VARIED], ids=["plain", "dropout"])
def test_a_packed_trial_has_the_moments_that_it_has_alone(specs: list[TrialSpec]) -> None:
    specs = watched(specs)
    trials = [begun(one) for one in specs]
    packed(trials)
    assert_as_alone(trials, specs)


def test_captured_sampled_steps_are_a_second_graph_and_count_alike() -> None:
    specs = watched(VARIED)
    trials = [begun(one) for one in specs]
    replays: list[list[int]] = []

    def capture(step: Callable[[], None]) -> Callable[[], None]:
        again, calls = tape(step), []
        replays.append(calls)
        return lambda: (calls.append(1), again())[1]

    pack = Pack(trials, capture)
    pack.run(lambda: False, 1e9)
    assert pack.eager is None
    sampled = sum(any(step % every == 0 for every in (3, 5, 7)) for step in range(1, 51))
    # every step after the capture, of either kind
    assert sorted(map(len, replays)) == sorted(count - WARM_UP - 1 for count in (sampled, 50 - sampled))
    assert_as_alone(trials, specs)


def test_a_trial_that_leaves_takes_its_moments_along_and_a_diverged_one_spoils_none() -> None:
    specs = watched([spec(0), spec(1, lr=1e9), spec(2, epochs=6, log_every=100)], (7, 1, 4))
    trials = [begun(one) for one in specs]
    Pack(trials, tape).run(lambda: False, 1e9)
    assert_as_alone([trials[0], trials[2]], [specs[0], specs[2]])
    assert trials[1].step < 50


@pytest.mark.parametrize("then", ["packed", "alone"])
def test_open_sums_go_through_a_checkpoint_to_a_pack_or_a_trial_alone(then: str) -> None:
    specs = watched([spec(0, log_every=100), spec(1, log_every=100)], (4, 3))
    first, second = stopped_and_resumed(specs, then)
    for one, before, after in zip(specs, first, second, strict=True):
        after.recorder.running = before.recorder.running + after.recorder.running
        assert len(after.recorder.running) == 10 * 7  # a row of each layer at each epoch's end
        assert_same_moments(alone(one)[0].recorder, after.recorder)


def test_they_change_no_bit_of_a_packs_trajectory() -> None:
    trials, plain = ([begun(one) for one in specs] for specs in (watched(VARIED), VARIED))
    packed(trials)
    packed(plain)
    for one, other in zip(trials, plain, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.net.parameters(), other.net.parameters(), strict=True))
        assert one.recorder.rows == other.recorder.rows


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("piece", [1, 8, 100])
def test_what_float32_squares_to_0_is_summed_exactly(dim: int, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("initlab.signal.running_packed.CPU_PIECE", piece)
    layer = nn.Linear(2, 2)
    moments = PackedMoments(layer, [RunningMoments(layer, torch.device("cpu"))] * 3, torch.device("cpu"))
    y_KNC = torch.tensor([1.0, 2.0, 3.0])[:, None, None] * torch.full((3, 5, 2), 2.0**-95)  # 2.5e-29
    for direction in (FORWARD, BACKWARD):
        moments.add(0, direction, dim, y_KNC.movedim(0, dim))
    moments.begin([True, False, True])
    moments.sampled(examples=5)
    for k, times in ((0, 1.0), (2, 3.0)):
        y = times * 2.0**-95
        expected = [10 * y, 10 * y * y, 10 * 5 * y, 10 * 25 * y * y]
        assert moments.sums_K[k, 0].tolist() == pytest.approx(expected, rel=1e-15)
    assert not moments.sums_K[1].any()
    assert moments.counts.tolist() == [[10, 10]]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last, self.shared = nn.Linear(64, 10), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.shared(self.shared(x.flatten(1)).relu()).relu())


def test_a_layer_used_twice_is_one_row_in_order_of_first_call() -> None:
    def trial_of(one: TrialSpec) -> Trial:
        torch.manual_seed(one.seed)
        trial = Trial(one, Twice().double(), begun(one).data, Memory())
        trial.begin(None)
        return trial

    specs = watched([spec(0, epochs=1), spec(1, epochs=1)], (2, 2))
    trials, solos = ([trial_of(one) for one in specs] for _ in range(2))
    packed(trials)
    for trial, solo in zip(trials, solos, strict=True):
        solo.run(lambda: False, 1e9)
        assert [row["name"] for row in trial.recorder.running] == ["shared", "last"]
        assert_same_moments(solo.recorder, trial.recorder)


def test_a_sampled_step_waits_for_nothing() -> None:
    pack = Pack([begun(one) for one in watched(VARIED, (1, 2, 0, 0))])
    pack.update()
    with Waits() as waits:
        pack.update()
    assert waits.waits == []
    assert not any(module._forward_hooks for module in pack.net.modules())
