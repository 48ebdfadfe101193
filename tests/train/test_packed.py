"""A packed trial gives the numbers of the trial alone: weights, rows, probes, resumed or beside one that diverges."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from initlab.data.dataset import Preprocessing
from initlab.data.in_memory import ImageSet, prepare
from initlab.data.sources import load_raw
from initlab.init.apply import init_
from initlab.nets.build import to_modules
from initlab.plan.dimensions import describe
from initlab.study.spec import TrialSpec
from initlab.train.evaluate import evaluate
from initlab.train.packed import Pack
from initlab.train.records import Outcome
from initlab.train.trial import Trial
from tests.train.tape import tape

TOLERANCE = 1e-9  # float64 rounds at 1e-16, and 50 steps of these small nets amplify that by far less than 1e7
TIMES = {"images_per_s", "wall_s"}
Ends = dict[Trial, Outcome | Exception]


class Memory:
    """A recorder that keeps everything in lists; `full` makes it fail at its second row."""

    def __init__(self, full: bool = False) -> None:
        self.rows: list[dict[str, Any]] = []
        self.probes: list[dict[str, Any]] = []
        self.running: list[dict[str, Any]] = []
        self.states: list[dict[str, Any]] = []
        self.full = full

    def record(self, frame: str, rows: list[dict[str, Any]]) -> None:
        if frame == "scalars" and self.full and self.rows:
            raise OSError("No space left on device")
        home = {"scalars": self.rows, "running": self.running}.get(frame, self.probes)
        home += [{key: value for key, value in row.items() if key not in TIMES} for row in rows]

    def checkpoint(self, state: dict[str, Any]) -> None:
        self.states.append(copied(state))

    def progress(self, figures: dict[str, Any]) -> None:
        pass


def copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: copied(part) for key, part in value.items()}
    return list(map(copied, value)) if isinstance(value, list) else value


def spec(seed: int = 0, **train: Any) -> TrialSpec:
    """50 steps: 5 an epoch."""
    fields = {"epochs": 10, "lr": 0.02, "batch_size": 16, "log_every": 7, "precision": "float64", **train}
    scheme = fields.pop("scheme", "he")
    data = fields.pop("data", {})
    probe = fields.pop("probe", {})
    net = fields.pop("net", {})
    return TrialSpec.model_validate(
        {
            "data": {"train_examples": 80, "val_examples": 40, **data},
            "net": {"depth": 7, "width": 2, "linear_width": 8, **net},
            "init": {"scheme": scheme},
            "probe": {"every": 20, "examples": 8, **probe},
            "train": fields,
            "seed": seed,
        }
    )


def images(trial_spec: TrialSpec) -> ImageSet:
    data = trial_spec.data
    preprocessing = Preprocessing(data.scale, data.train_examples, data.val_examples, dtype=torch.float64)
    return prepare(load_raw("digits"), preprocessing, flip=data.flip, shift=data.shift)


def begun(trial_spec: TrialSpec, resumed: dict[str, Any] | None = None, full: bool = False) -> Trial:
    data = images(trial_spec)
    net = init_(
        to_modules(describe(trial_spec, 10, data.input_shape)).double(), trial_spec.init.scheme, seed=trial_spec.seed
    )
    trial = Trial(trial_spec, net, data, Memory(full))
    trial.begin(resumed)
    return trial


def alone(trial_spec: TrialSpec) -> tuple[Trial, Outcome]:
    trial = begun(trial_spec)
    return trial, trial.run(lambda: False, 1e9)


def packed(trials: list[Trial], stop_after: int = 10_000, every_s: float = 1e9) -> Ends:
    ends: Ends = {}
    calls = iter(range(100_000))
    pack = Pack(trials, on_end=ends.__setitem__)
    assert pack.unpackable_because() is None
    pack.run(lambda: next(calls) >= stop_after, every_s)
    return ends


def assert_same(one: Trial, other: Trial) -> None:
    assert one.step == other.step
    for key, value in one.net.state_dict().items():
        torch.testing.assert_close(other.net.state_dict()[key], value, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
    for rows, others in ((one.recorder.rows, other.recorder.rows), (one.recorder.probes, other.recorder.probes)):
        assert len(rows) == len(others) > 3
        for row, other_row in zip(rows, others, strict=True):
            assert other_row.keys() == row.keys()
            for key, value in row.items():
                expected = (
                    value if isinstance(value, str) else pytest.approx(value, rel=TOLERANCE, abs=1e-15, nan_ok=True)
                )
                assert other_row[key] == expected, (key, row)


def assert_same_moments(one: Memory, other: Memory) -> None:
    """A mean is a difference: to rounding of its standard deviation, and the last layer's of the gradient is 0."""
    assert len(one.running) == len(other.running)
    for row, other_row in zip(one.running, other.running, strict=True):
        for key, value in row.items():
            near_0 = TOLERANCE * math.sqrt(row[key.replace("mean", "var")]) if key.endswith("mean") else 0
            expected = value if isinstance(value, str) else pytest.approx(value, rel=TOLERANCE, abs=near_0)
            assert other_row[key] == expected, (key, row)


FOUR = [
    spec(0),
    spec(1, lr=0.005, momentum=0.5, weight_decay=1e-2),
    spec(2, scheme="xavier", schedule="cosine", log_every=3, momentum=0.0),
    spec(2, data={"flip": True, "shift": 1, "scale": 2.0}, schedule="plateau", patience=1, validate_every=0.5),
]


@pytest.mark.parametrize(
    "changes",
    [{}, {"train": {"dropout": 0.3}, "net": {"activation": "prelu"}}, {"net": {"skip": "identity", "depth": 10}}],
    ids=["plain", "dropout and learned slopes", "identity skips"],
)
def test_a_packed_trial_equals_the_trial_alone(changes: dict[str, dict[str, Any]]) -> None:
    specs = [
        one.model_copy(update={key: getattr(one, key).model_copy(update=new) for key, new in changes.items()})
        for one in FOUR
    ]
    trials = [begun(one) for one in specs]
    ends = packed(trials)
    for trial, one in zip(trials, specs, strict=True):
        solo, outcome = alone(one)
        assert_same(solo, trial)
        assert solo.step == 50
        assert (ends[trial].state, outcome.state) == ("done", "done")


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "lion"])
def test_a_packed_trial_equals_the_trial_alone_under_every_optimiser(optimizer: str) -> None:
    """Captured, with clipping of one trial and not of the other, stopped after 23 steps and gone on with."""
    fields = {"optimizer": optimizer, "decay_exempt": "norms_and_biases", "lr": 0.003, "net": {"activation": "prelu"}}
    specs = [
        spec(0, **fields, weight_decay=0.1, slope_lr_factor=0.5),
        spec(1, **{**fields, "lr": 0.001}, clip_norm=0.3, warmup_epochs=2.0),
    ]
    first = [begun(one) for one in specs]
    calls = iter(range(10_000))
    pack = Pack(first, tape)
    assert pack.unpackable_because() is None
    pack.run(lambda: next(calls) >= 23, 1e9)
    assert pack.eager is None
    second = [begun(one, trial.recorder.states[-1]) for one, trial in zip(specs, first, strict=True)]
    packed(second)
    for one, before, after in zip(specs, first, second, strict=True):
        after.recorder.rows = before.recorder.rows + after.recorder.rows
        after.recorder.probes = before.recorder.probes + after.recorder.probes
        solo, _ = alone(one)
        assert_same(solo, after)
        states = [trial.updates.optimizer.state_dict()["state"] for trial in (solo, after)]
        for number, kept in states[0].items():
            torch.testing.assert_close(states[1][number], kept, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_trial_under_adam_goes_on_alone_from_where_its_pack_left_it() -> None:
    trials = [begun(spec(seed, optimizer="adam", lr=0.003)) for seed in range(2)]
    pack = Pack(trials)
    for _ in range(23):
        pack.update()
        pack.record_due()
    trials[0].run(lambda: False, 1e9)
    assert_same(alone(spec(0, optimizer="adam", lr=0.003))[0], trials[0])


def test_a_trial_that_diverges_leaves_its_neighbours_untouched() -> None:
    specs = [spec(0), spec(1, lr=1e9), spec(2)]
    trials = [begun(one) for one in specs]
    ends = packed(trials)
    assert [ends[trial].state for trial in trials] == ["done", "diverged", "done"]
    for i in (0, 2):
        assert_same(alone(specs[i])[0], trials[i])
    solo, outcome = alone(specs[1])
    assert outcome.state == "diverged"
    assert trials[1].step == solo.step < 50


def stopped_and_resumed(specs: list[TrialSpec], then: str) -> tuple[list[Trial], list[Trial]]:
    """A pack stopped after 23 steps, and the same trials run on from there to their ends: `packed` or `alone`."""
    first = [begun(one) for one in specs]
    ends = packed(first, stop_after=23)
    assert [ends[trial].state for trial in first] == ["interrupted"] * len(first)
    second = [begun(one, trial.recorder.states[-1]) for one, trial in zip(specs, first, strict=True)]
    if then == "packed":
        packed(second)
    else:
        for trial in second:
            trial.run(lambda: False, 1e9)
    return first, second


@pytest.mark.parametrize("then", ["packed", "alone"])
def test_a_stopped_pack_goes_on_packed_or_alone(then: str) -> None:
    specs = [spec(0, dropout=0.2), spec(1, dropout=0.2, lr=0.01)]
    first, second = stopped_and_resumed(specs, then)
    for one, before, after in zip(specs, first, second, strict=True):
        after.recorder.rows = before.recorder.rows + after.recorder.rows
        after.recorder.probes = before.recorder.probes + after.recorder.probes
        assert_same(alone(one)[0], after)


def test_trials_at_different_steps_and_of_different_lengths_can_share_a_pack() -> None:
    specs = [spec(0), spec(1, epochs=4)]
    ahead = begun(specs[0])
    packed([ahead], stop_after=9)
    resumed = begun(specs[0], ahead.recorder.states[-1])
    assert resumed.step == 9
    other = begun(specs[1])
    ends = packed([resumed, other])
    assert [ends[trial].figures["step"] for trial in (resumed, other)] == [50, 20]
    assert_same(alone(specs[1])[0], other)
    solo = alone(specs[0])[0]
    for key, value in solo.net.state_dict().items():
        torch.testing.assert_close(resumed.net.state_dict()[key], value, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_trial_whose_records_cannot_be_written_ends_alone() -> None:
    trials = [begun(spec(0), full=True), begun(spec(1))]
    ends = packed(trials)
    assert isinstance(ends[trials[0]], OSError)
    assert ends[trials[1]].state == "done"
    assert_same(alone(spec(1))[0], trials[1])


def test_checkpoints_come_by_time_for_every_trial() -> None:
    trials = [begun(spec(0)), begun(spec(1))]
    packed(trials, every_s=0.0)
    for trial in trials:
        assert [state["step"] for state in trial.recorder.states] == list(range(1, 51))


class BranchingInTests(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if self.training or x.sum() > 0 else -x


@pytest.mark.parametrize(("last", "alone_too"), [(nn.Identity(), 0), (BranchingInTests(), 3 * 2)])
def test_trials_on_the_same_images_are_validated_at_once_where_torch_can(
    last: nn.Module, alone_too: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [spec(seed, epochs=2, dropout=0.3) for seed in range(3)]
    data = images(specs[0])

    def begun_on_data(one: TrialSpec) -> Trial:
        net = init_(to_modules(describe(one, 10, data.input_shape)).double(), "he", seed=one.seed)
        trial = Trial(one, nn.Sequential(net, last), data, Memory())
        trial.begin(None)
        return trial

    solos = [begun_on_data(one) for one in specs]
    for trial in solos:
        trial.run(lambda: False, 1e9)
    trials, calls = [begun_on_data(one) for one in specs], []
    monkeypatch.setattr("initlab.train.trial.evaluate", lambda *args: (calls.append(1), evaluate(*args))[1])
    packed(trials)
    assert len(calls) == alone_too  # two epochs' ends
    for solo, trial in zip(solos, trials, strict=True):
        assert_same(solo, trial)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (nn.BatchNorm1d(64), "the net keeps buffers"),
        (Branching(), "torch cannot run the net for several at once"),
        (nn.Dropout(0.5), "torch cannot run the net for several at once"),
    ],
    ids=["buffers", "branches", "random numbers"],
)
def test_nets_that_cannot_be_packed_say_why(extra: nn.Module, words: str) -> None:
    trials = []
    for seed in range(2):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), extra, nn.Linear(64, 10)).double()
        trials.append(Trial(spec(seed), net, images(spec(seed)), Memory()))
        trials[-1].begin(None)
    reason = Pack(trials).unpackable_because()
    assert reason is not None
    assert words in reason
    assert "\n" not in reason
    assert trials[0].run(lambda: False, 1e9).state == "done"


def test_momentum_from_a_pack_suits_weights_that_lie_channels_last() -> None:
    first = [begun(spec(0)), begun(spec(1))]
    packed(first, stop_after=23)
    data = images(spec(0))
    net = to_modules(describe(spec(0), 10, data.input_shape)).double().to(memory_format=torch.channels_last)
    resumed = Trial(spec(0), net, data, Memory())  # as on a GPU
    resumed.begin(first[0].recorder.states[-1])
    resumed.run(lambda: False, 1e9)
    solo = alone(spec(0))[0]
    for key, value in solo.net.state_dict().items():
        torch.testing.assert_close(resumed.net.state_dict()[key], value, rtol=TOLERANCE, atol=TOLERANCE)
