"""One trial: the same numbers with and without probes and interruptions; schedules, dropout, divergence."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from initlab.data.dataset import Preprocessing
from initlab.data.in_memory import ImageSet, prepare
from initlab.data.orders import epoch_order
from initlab.data.sources import load_raw
from initlab.init.apply import init_
from initlab.nets.build import to_modules
from initlab.nets.layers import StreamDropout, set_dropout_step
from initlab.plan.dimensions import describe
from initlab.study.spec import TrialSpec
from initlab.study.training import Train
from initlab.train.evaluate import evaluate
from initlab.train.objective import objective_of
from initlab.train.optimizer import parameter_groups
from initlab.train.records import Outcome
from initlab.train.schedule import Plateau, learning_rate
from initlab.train.trial import Trial

TIMES = ("images_per_s", "wall_s")


class Memory:
    """A recorder that keeps everything in lists."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.probes: list[tuple[int, float, list[dict[str, Any]]]] = []
        self.slope_rows: list[tuple[int, float, list[dict[str, Any]]]] = []
        self.moment_rows: list[tuple[int, float, list[dict[str, Any]]]] = []
        self.states: list[dict[str, Any]] = []

    def record(self, frame: str, rows: list[dict[str, Any]]) -> None:
        if frame == "scalars":
            self.rows += rows
        else:
            frames = {"signals": self.probes, "slopes": self.slope_rows, "running": self.moment_rows}
            frames[frame].append((rows[0]["step"], rows[0]["epoch"], rows))

    def checkpoint(self, state: dict[str, Any]) -> None:
        torch.save(state, "/dev/null")  # must be plain enough to be saved
        self.states.append({key: clone(value) for key, value in state.items()})

    def progress(self, figures: dict[str, Any]) -> None:
        pass

    def timeless(self) -> str:
        return repr([{key: value for key, value in row.items() if key not in TIMES} for row in self.rows])


def clone(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: clone(v) for key, v in value.items()}
    return list(map(clone, value)) if isinstance(value, list) else value


def spec(**sections: dict[str, Any]) -> TrialSpec:
    base: dict[str, dict[str, Any]] = {
        "data": {"train_examples": 200, "val_examples": 60},
        "net": {"depth": 7, "width": 4, "linear_width": 8},
        "train": {"epochs": 3, "lr": 0.02, "log_every": 4},
        "probe": {"every": 5, "examples": 16},
    }
    return TrialSpec.model_validate({**base, **{k: {**base.get(k, {}), **v} for k, v in sections.items()}})


def parts(trial_spec: TrialSpec) -> tuple[ImageSet, nn.Module]:
    section = trial_spec.data
    preprocessing = Preprocessing(train_examples=section.train_examples, val_examples=section.val_examples)
    data = prepare(load_raw("digits"), preprocessing, flip=section.flip, shift=section.shift)
    return data, init_(
        to_modules(describe(trial_spec, 10, data.input_shape)), trial_spec.init.scheme, seed=trial_spec.seed
    )


def train(
    trial_spec: TrialSpec,
    resumed: dict[str, Any] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    every_s: float = 1e9,
) -> tuple[Trial, Memory, Outcome]:
    data, net = parts(trial_spec)
    memory = Memory()
    trial = Trial(trial_spec, net, data, memory)
    trial.begin(resumed)
    return trial, memory, trial.run(should_stop, every_s)


def same_weights(a: Trial, b: Trial) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.net.state_dict().values(), b.net.state_dict().values(), strict=True))


HARD = {"data": {"flip": True, "shift": 1}, "train": {"dropout": 0.3, "schedule": "plateau", "patience": 1}}


@pytest.mark.parametrize("sections", [{}, HARD], ids=["plain", "dropout, augmentation and plateau"])
def test_the_trajectory_is_bit_identical_with_and_without_probes(sections: dict[str, Any]) -> None:
    probed, records, _ = train(spec(**sections))
    plain, without, _ = train(spec(**sections, probe={"every": 0}))
    assert len(records.probes) > 3
    assert without.probes == []
    assert same_weights(probed, plain)
    assert records.timeless() == without.timeless()


@pytest.mark.parametrize("stop_at", [1, 5, 6, 12, 17])
def test_a_resumed_trial_ends_bit_identical_to_one_never_interrupted(stop_at: int) -> None:
    trial_spec = spec(**HARD)
    whole, records, outcome = train(trial_spec)
    calls = iter(range(10_000))
    first, before, stopped = train(trial_spec, should_stop=lambda: next(calls) >= stop_at)
    assert (stopped.state, first.step) == ("interrupted", stop_at)
    second, after, finished = train(trial_spec, resumed=before.states[-1])
    assert same_weights(whole, second)
    assert finished.state == outcome.state == "done"
    before.rows += after.rows
    assert before.timeless() == records.timeless()
    assert repr(before.probes + after.probes) == repr(records.probes)


@pytest.mark.parametrize(
    ("evidence", "state"),
    [({"learned": False}, "stopped"), ({"learned": True}, "done"), (None, "done")],
    ids=["has not learned", "has learned", "a checkpoint from before there was evidence"],
)
def test_a_resumed_trial_remembers_its_evidence_when_hopeless_ones_are_skipped(
    evidence: dict[str, Any] | None, state: str
) -> None:
    # 30 layers of tiny weights under strong decay learn nothing: given up after 6 of 12 steps, unless they once did.
    settings = {"epochs": 2, "weight_decay": 0.05}
    hopeless = spec(net={"depth": 30}, init={"scheme": "gaussian"}, train=settings, probe={"every": 2})
    calls = iter(range(10_000))
    _, before, _ = train(hopeless, should_stop=lambda: next(calls) >= 5)
    checkpoint = before.states[-1]
    checkpoint["evidence"] |= evidence or {}
    if evidence is None:
        del checkpoint["evidence"]
    data, net = parts(hopeless)
    trial = Trial(hopeless, net, data, Memory())
    trial.begin(checkpoint)
    outcome = trial.run(lambda: False, 1e9, skip_hopeless=True)
    assert (outcome.state, trial.step) == (state, 6 if state == "stopped" else 12)


def test_checkpoints_come_by_time_and_at_the_end() -> None:
    _, memory, _ = train(spec(), every_s=0.0)
    assert [state["step"] for state in memory.states] == list(range(1, 19))
    assert [state["step"] for state in train(spec())[1].states] == [18]


def test_rows_probes_and_validations_come_when_they_are_due() -> None:
    # 200 // 32 = 6 steps an epoch, 18 in all; validations at 0, 6, 12, 18; log_every 4
    _, memory, outcome = train(spec())
    assert [row["step"] for row in memory.rows] == [0, 4, 6, 8, 12, 16, 18]
    assert [row["step"] for row in memory.rows if not math.isnan(row["val_error"])] == [0, 6, 12, 18]
    assert [step for step, _, _ in memory.probes] == [0, 5, 10, 15, 18]
    assert [epoch for _, epoch, _ in memory.probes] == pytest.approx([0, 5 / 6, 10 / 6, 15 / 6, 3])
    assert (outcome.figures["epoch"], outcome.figures["train_examples"]) == (3.0, 192)


def test_training_rows_are_means_over_the_steps_since_the_row_before() -> None:
    by_step = train(spec(train={"log_every": 1}))[1].rows
    by_six = train(spec(train={"log_every": 100}))[1].rows
    losses = [row["train_loss"] for row in by_step[1:7]]
    errors = [row["train_error"] for row in by_step[1:7]]
    assert by_six[1]["step"] == 6
    assert by_six[1]["train_loss"] == pytest.approx(sum(losses) / 6, rel=1e-12)
    assert by_six[1]["train_error"] == pytest.approx(sum(errors) / 6, rel=1e-12)


def test_the_first_step_is_plain_sgd_with_momentum_and_decay() -> None:
    trial_spec = spec(train={"epochs": 2 / 6})
    trial, _, _ = train(trial_spec)
    data, net = parts(trial_spec)
    weight, velocity = net.conv1_1.weight, torch.zeros_like(net.conv1_1.weight)
    others = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    for step in range(2):
        chosen = epoch_order(200, 0, 0)[32 * step : 32 * step + 32]
        images, labels = data.train_batch(chosen, 0, step)
        loss = nn.functional.cross_entropy(net(images), labels)
        others.zero_grad()
        loss.backward()
        velocity = 0.9 * velocity + weight.grad + 5e-4 * weight.detach()
        expected = weight.detach() - 0.02 * velocity
        others.step()
        assert torch.allclose(weight, expected, atol=1e-7)
    assert torch.allclose(trial.net.conv1_1.weight, expected, atol=1e-7)


def test_a_non_finite_loss_ends_the_trial_as_diverged() -> None:
    trial, memory, outcome = train(spec(train={"lr": 1e6, "epochs": 20}))
    assert outcome.state == "diverged"
    assert trial.step < trial.steps
    assert not math.isfinite(memory.rows[-1]["train_loss"])


def test_prelu_slopes_get_no_weight_decay() -> None:
    trial_spec = spec(net={"activation": "prelu"})
    _, net = parts(trial_spec)
    decayed, slopes = parameter_groups(net, trial_spec.train)
    assert (decayed["weight_decay"], slopes["weight_decay"]) == (5e-4, 0.0)
    assert [tuple(p.shape) for p in slopes["params"]] == [(4,), (4,), (8,), (16,), (8,), (8,)]
    assert all(torch.equal(p, torch.full_like(p, 0.25)) for p in slopes["params"])


def test_dropout_masks_come_from_seed_and_step() -> None:
    layer = StreamDropout(0.3, "dropout1")
    x = torch.ones(200, 50)

    def mask(seed: int, step: int) -> torch.Tensor:
        set_dropout_step(layer, seed, step)
        return layer(x)

    assert torch.equal(mask(0, 3), mask(0, 3))
    assert not torch.equal(mask(0, 3), mask(0, 4))
    assert not torch.equal(mask(0, 3), mask(1, 3))
    assert mask(0, 3).unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert mask(0, 3).mean().item() == pytest.approx(1, abs=5 * math.sqrt(0.3 / 0.7 / 10_000))
    assert torch.equal(layer.eval()(x), x)


def test_masks_drawn_ahead_are_those_drawn_at_their_step() -> None:
    plain, ahead, x = StreamDropout(0.3, "dropout1"), StreamDropout(0.3, "dropout1"), torch.ones(20, 50)
    # Step 5 comes after a resumption; a second call of a step goes on in its stream; a copy draws for itself.
    for seed, step in [(0, 0), (0, 1), (0, 5), (1, 6), (1, 7)]:
        set_dropout_step(plain, seed, step)
        set_dropout_step(ahead, seed, step, ahead=True)
        copied = copy.deepcopy(ahead)
        first, second = plain(x), plain(x)
        for layer in (ahead, copied):
            assert torch.equal(layer(x), first) and torch.equal(layer(x), second)
        assert ahead.next is not None and ahead.next[0] == (seed, step + 1, (20, 50))


def test_dropout_without_a_stream_is_refused() -> None:
    with pytest.raises(RuntimeError, match="call set_dropout_step"):
        StreamDropout(0.5, "d")(torch.ones(3))


def test_evaluation_counts_top_1_and_top_5_as_by_hand() -> None:
    data, _ = parts(spec())
    logits = torch.randn(60, 10, generator=torch.Generator().manual_seed(0))

    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return logits[: len(x)]

    evaluation = evaluate(Fixed(), data, objective_of(None, data))
    ranks = [
        sorted(range(10), key=lambda k: -row[k]).index(label)
        for row, label in zip(logits.tolist(), data.val_labels.tolist(), strict=True)
    ]
    assert evaluation.val_error == pytest.approx(sum(rank > 0 for rank in ranks) / 60)
    assert evaluation.val_error_top5 == pytest.approx(sum(rank > 4 for rank in ranks) / 60)
    loss = -torch.log_softmax(logits, 1)[torch.arange(60), data.val_labels].mean().item()
    assert evaluation.val_loss == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedule": "constant"}, {0: 0.1, 99: 0.1}),
        ({"schedule": "step", "milestones": (2, 5.5)}, {19: 0.1, 20: 0.01, 54: 0.01, 55: 0.001}),
        ({"schedule": "cosine"}, {0: 0.1, 50: 0.05, 100: 0.0}),
    ],
)
def test_schedules_by_hand(options: dict[str, Any], expected: dict[int, float]) -> None:
    settings = Train(lr=0.1, **options)
    for step, lr in expected.items():
        assert learning_rate(settings, step, 10, 100, cuts=0) == pytest.approx(lr, abs=1e-12)


def test_the_plateau_schedule_falls_after_patience_validations_without_a_better_error() -> None:
    plateau, cuts = Plateau(), []
    for error in (0.9, 0.8, 0.8, 0.85, 0.7, 0.7, 0.7):
        plateau.see(error, patience=2)
        cuts.append(plateau.cuts)
    assert cuts == [0, 0, 0, 1, 1, 1, 2]
    assert learning_rate(Train(lr=0.1, schedule="plateau"), 5, 10, 100, cuts=2) == pytest.approx(0.001)
