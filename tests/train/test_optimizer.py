"""Optimisers: their updates by other means, resumed, accumulated, clipped, warmed up; how large updates are."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import initlab
from initlab.study.mistakes import StudyError
from initlab.study.spec import TrialSpec
from initlab.study.training import OPTIMIZERS, Train
from initlab.train.optimizer import Updates, hidden_matrices, parameter_groups
from initlab.train.schedule import learning_rate
from initlab.train.update_rules import orthogonal
from tests.launch.test_launch import run
from tests.train.test_packed import alone, assert_same, assert_same_moments, spec as double
from tests.train.test_trial import same_weights, spec, train


class Noisy(torch.optim.SGD):
    """The user's: two groups of different rates, and a noise from torch's own generator."""

    def __init__(self, params: list[Tensor], lr: float, noise: float = 0.0) -> None:
        assert isinstance(params, list)
        super().__init__([{"params": params[:2], "lr": lr / 4}, {"params": params[2:]}], lr=lr, momentum=0.5)
        self.noise = noise

    def step(self, closure: Any = None) -> None:
        super().step()
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p += group["lr"] * self.noise * torch.randn_like(p)


def not_one(params: list[Tensor], lr: float) -> list[Tensor]:
    return params


MINE = {"optimizer": "tests.train.test_optimizer:Noisy", "optimizer_options": {"noise": 0.1}}
# lr, and what the optimiser is by torch's plain loops, or by hand
SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.02},
    "adamw": {"lr": 0.003, "weight_decay": 0.1, "betas": [0.8, 0.95]},
    "adam": {"lr": 0.003, "weight_decay": 0.1, "eps": 1e-3},
    "lion": {"lr": 0.001, "weight_decay": 0.1},
    "muon": {"lr": 0.003, "weight_decay": 0.1},
}
ALL = [*({"optimizer": name, **settings} for name, settings in SETTINGS.items()), {"lr": 0.02, **MINE}]
assert SETTINGS.keys() == OPTIMIZERS.keys()
by_name = pytest.mark.parametrize("settings", ALL, ids=lambda settings: settings["optimizer"])


def model(seed: int = 0) -> nn.Sequential:
    """Everything that is taken apart: a convolution, a norm, PReLU, hidden and last linear layers, biases."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 6, 3), nn.GroupNorm(2, 6), nn.PReLU(), nn.Flatten(), nn.Linear(96, 5), nn.Linear(5, 3)]
    return nn.Sequential(*layers)


def gradients(net: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for p in net.parameters():
        p.grad = torch.randn(p.shape, generator=generator) * 0.1


def stepped(net: nn.Module, count: int, step: Callable[[], Any]) -> dict[str, Tensor]:
    for number in range(count):
        gradients(net, number)
        step()
    return net.state_dict()


def lion(net: nn.Module, lr: float, decay: float, exempt: list[nn.Parameter]) -> Callable[[], None]:
    """Chen et al. (2023), algorithm 2, line by line with β₁ = 0.9 and β₂ = 0.99."""
    momenta = {p: torch.zeros_like(p) for p in net.parameters()}

    @torch.no_grad()
    def step() -> None:
        for p, m in momenta.items():
            c = 0.9 * m + (1 - 0.9) * p.grad
            p -= lr * (torch.sign(c) + (0.0 if any(p is other for other in exempt) else decay) * p)
            m.copy_(0.99 * m + (1 - 0.99) * p.grad)

    return step


@pytest.mark.parametrize("name", SETTINGS)
def test_five_updates_are_those_of_torchs_own_code_or_of_the_paper(name: str) -> None:
    settings, net, other = Train.model_validate({"optimizer": name, **SETTINGS[name]}), model(), model()
    updates = Updates(parameter_groups(net, settings), settings)
    ours = stepped(net, 5, lambda: updates.step(settings.lr))
    slopes, plain = list(other[2].parameters()), {"foreach": False, "fused": False}
    rest = [p for p in other.parameters() if all(p is not slope for slope in slopes)]
    groups = [{"params": rest}, {"params": slopes, "weight_decay": 0.0}]
    if name == "lion":
        step: Callable[[], Any] = lion(other, 0.001, 0.1, slopes)
    elif name == "muon":
        # Torch's own, which takes matrices alone: the convolution's weight is one of 6 x 9 that shares its numbers.
        flat = nn.Parameter(other[0].weight.data.view(6, 9))
        hidden = [flat, other[4].weight]
        groups[0]["params"] = [p for p in rest if p is not other[0].weight and p is not other[4].weight]
        both = [
            torch.optim.Muon(hidden, 0.003, 0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(groups, 0.003, weight_decay=0.1, **plain),
        ]

        def step() -> None:
            flat.grad = other[0].weight.grad.view(6, 9)
            for one in both:
                one.step()
    else:
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
        options = {"momentum": 0.9, "weight_decay": 5e-4} if name == "sgd" else SETTINGS[name]
        step = kind(groups, **{"lr": 0.02, **options}, **plain).step
    for key, value in stepped(other, 5, step).items():
        torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-7, msg=key)
        assert not torch.equal(value, model().state_dict()[key])


@pytest.mark.parametrize("shape", [(5, 40), (40, 5), (16, 16)])
def test_muons_matrices_have_singular_values_about_1_and_the_same_singular_vectors(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    inner = left.T @ orthogonal(matrix).float() @ right.T
    large = values > 0.1 * values[0]
    assert ((inner.diagonal() > 0.5) & (inner.diagonal() < 1.5))[large].all()
    assert (inner - inner.diagonal().diag()).abs().max() < 0.1


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.place = nn.Parameter(torch.zeros(5, 4))
        self.attention = nn.MultiheadAttention(4, 2)
        self.norm, self.maps = nn.LayerNorm([5, 4]), nn.Conv1d(4, 4, 3)
        self.gates, self.head = nn.LSTM(4, 3), nn.Linear(3, 7)


def test_muon_takes_hidden_matrices_and_decay_may_spare_norms_and_biases() -> None:
    net = Parts()
    named = {id(p): name for name, p in net.named_parameters()}
    assert {named[i] for i in hidden_matrices(net)} == {
        *("attention.in_proj_weight", "attention.out_proj.weight", "maps.weight"),
        *("gates.weight_ih_l0", "gates.weight_hh_l0"),
    }
    net.head = nn.Linear(4, 7)
    net.head.weight = net.embedding.weight
    net.maps = nn.Linear(4, 4)
    groups = parameter_groups(net, Train(optimizer="adamw", decay_exempt="norms_and_biases", weight_decay=0.1))
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert {p.dim() for p in groups[0]["params"]} == {2} and {p.dim() for p in groups[1]["params"]} == {1}
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))


HARD = {
    "data": {"flip": True, "shift": 1},
    "net": {"activation": "prelu"},
    "train": {
        "dropout": 0.3,
        "clip_norm": 0.5,
        "warmup_epochs": 1.5,
        "accumulate": 2,
        "decay_exempt": "norms_and_biases",
    },
}


def hard(settings: dict[str, Any], **sections: Any) -> TrialSpec:
    return spec(**{**HARD, "train": {**HARD["train"], **settings}, **sections})


@by_name
def test_a_resumed_trial_ends_bit_identical_and_probes_change_nothing(settings: dict[str, Any]) -> None:
    whole, records, _ = train(hard(settings))
    without, _, _ = train(hard(settings, probe={"every": 0}))
    assert same_weights(whole, without)
    calls = iter(range(10_000))
    first, before, stopped = train(hard(settings), should_stop=lambda: next(calls) >= 7)
    assert (stopped.state, first.step) == ("interrupted", 7)
    second, after, finished = train(hard(settings), resumed=before.states[-1])
    assert same_weights(whole, second) and finished.state == "done"
    before.rows += after.rows
    assert before.timeless() == records.timeless()
    assert repr(before.probes + after.probes) == repr(records.probes)


def test_a_batch_in_parts_gives_the_numbers_of_the_whole_batch() -> None:
    """In float64: losses and moments too, under dropout and with classifiers on inner layers."""
    fields = {"dropout": 0.3, "auxiliary": [2], "lr": 0.003, "optimizer": "adamw", "epochs": 4}
    sections = {"probe": {"running_every": 2}, "net": {"activation": "prelu"}}
    (whole, _), (parted, _) = (alone(double(0, **fields, **sections, accumulate=parts)) for parts in (1, 4))
    assert_same(whole, parted)
    assert_same_moments(whole.recorder, parted.recorder)
    assert len(whole.recorder.running) > 20


def test_a_gradient_is_cut_to_the_norm_and_a_small_one_is_left() -> None:
    settings = Train(momentum=0.0, weight_decay=0.0, clip_norm=0.5)
    net = model()
    updates = Updates(parameter_groups(net, settings), settings)
    before = torch.cat([p.detach().flatten().clone() for p in net.parameters()])
    gradients(net, 0)
    whole = torch.cat([p.grad.flatten() for p in net.parameters()])
    updates.step(1.0)
    moved = before - torch.cat([p.detach().flatten() for p in net.parameters()])
    assert whole.norm() > 0.5
    torch.testing.assert_close(moved, 0.5 * whole / whole.norm(), rtol=1e-4, atol=1e-6)
    for p in net.parameters():
        p.grad = torch.full_like(p, 1e-4)
    before = net[0].weight.detach().clone()
    updates.step(1.0)
    torch.testing.assert_close(before - net[0].weight.detach(), torch.full_like(before, 1e-4), rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {0: 0.1 / 20, 9: 0.05, 19: 0.1, 20: 0.1, 99: 0.1}),
        ({"schedule": "cosine"}, {0: 0.1 / 20, 50: 0.05, 100: 0.0}),
        ({"schedule": "step", "milestones": (1.0,)}, {9: 0.05, 10: 0.0055, 20: 0.01}),
    ],
)
def test_a_warm_up_by_hand(options: dict[str, Any], expected: dict[int, float]) -> None:
    # 10 steps an epoch, 20 of warm-up
    settings = Train(lr=0.1, warmup_epochs=2.0, **options)
    for step, lr in expected.items():
        assert learning_rate(settings, step, 10, 100, cuts=0) == pytest.approx(lr, abs=1e-12)


@by_name
def test_the_ratios_are_those_of_the_update_that_comes(settings: dict[str, Any]) -> None:
    """By the next real step on the same gradients, in float64; the measurement leaves all as it was."""
    fields = Train.model_validate(
        {**settings, "clip_norm": 1.0} | ({"optimizer_options": {}} if ":" in settings["optimizer"] else {})
    )
    net = model().double()
    updates = Updates(parameter_groups(net, fields), fields)
    for step in range(3):
        gradients_in_double(net, step)
        updates.step(0.01)
    gradients_in_double(net, 3)
    weights = [net[0].weight, net[4].weight, net[5].weight]
    before, state = copy.deepcopy(net.state_dict()), copy.deepcopy(updates.optimizer.state_dict())
    grads = {p: p.grad.clone() for p in net.parameters()}
    measured = updates.ratios(weights, grads, 0.02)
    assert repr(updates.optimizer.state_dict()["state"]) == repr(state["state"])
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    old = [w.detach().clone() for w in weights]
    updates.step(0.02)
    for w, was, (update, decay) in zip(weights, old, measured, strict=True):
        moved = w.detach() - was
        assert update == pytest.approx((moved.norm() / was.norm()).item(), rel=1e-6)
        if fields.optimizer in ("adamw", "lion", "muon"):
            of_decay = -0.02 * 0.1 * was
            assert decay == pytest.approx((of_decay.norm() / (moved - of_decay).norm()).item(), rel=1e-6)
        else:
            assert math.isnan(decay)
    # A layer that no gradient reaches has no update to speak of.
    assert all(map(math.isnan, updates.ratios([net[0].weight], {}, 0.02)[0]))


def gradients_in_double(net: nn.Module, step: int) -> None:
    for p in net.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64) * 0.1


def test_adam_moves_layers_whose_gradients_vanish_until_they_come_near_eps() -> None:
    # One number w = 2 with gradient g: Adam's first update is lr g / (|g| + eps).
    w = nn.Parameter(torch.tensor([2.0]))
    for optimizer, sizes in {"sgd": [1e-3, 1e-9, 1e-12], "adam": [0.5, 0.5 / 1.01, 0.5 / 11]}.items():
        settings = Train(optimizer=optimizer, weight_decay=0.0, eps=1e-8)
        updates = Updates([{"params": [w], "weight_decay": 0.0, "lr": 1.0}], settings)
        for gradient, size in zip(
            [2e-3, 1e-6, 1e-9] if optimizer == "adam" else [2e-3, 2e-9, 2e-12], sizes, strict=True
        ):
            ((update, _),) = updates.ratios([w], {w: torch.tensor([gradient])}, 1.0)
            assert update == pytest.approx(size, rel=1e-4)


def test_under_adamw_a_net_learns_digits_as_its_forecast_says_and_none_is_given_up(
    tiny: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stalled one, std 0.001, would be given up under SGD (test_skip_hopeless.py)."""
    fields = {"epochs": 8, "lr": 0.02, "optimizer": "adamw", "weight_decay": 0.01, "warmup_epochs": 1}
    study = tiny(train=fields, init={"scheme": "gaussian"}, grid={"init.std": [1e-6, 0.25]})
    results = initlab.run(study, tmp_path / "a", jobs=1, device="cpu", show="lines", skip_hopeless=True)
    assert results.trials.state.tolist() == ["done", "done"]
    assert results.verdicts.verdict.tolist() == ["stalled", "converged"]
    assert "--skip-hopeless: stops none of 2 trials whose optimiser is not sgd" in capsys.readouterr().out
    assert results.forecasts.forecast.tolist() == ["stalled", "converged"]
    first = results.signals[results.signals.step == 0].groupby("trial")[["update_ratio", "decay_ratio"]].median()
    told = results.forecasts.set_index("trial")["update"]
    # The probe measures the step to come, which is the first of 8 of the warm-up, and in which dead units take no part.
    learner = results.trials.trial[1]
    assert told[learner] == pytest.approx(math.log(8 * first.update_ratio[learner]), abs=0.7)


def test_an_optimiser_of_yours_runs_where_allowed_with_its_source_kept(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    study = tiny(train={"epochs": 1, **MINE}, run={"isolate": "none"})
    with pytest.raises(StudyError, match=r"^train.optimizer: names code .* --allow-code"):
        run(study, tmp_path / "a")
    results = run(study, tmp_path / "a", allow_code=True)
    (trial,) = results.stored
    assert trial.status["state"] == "done" and trial.spec.train.weight_decay == 5e-4
    assert results.signals.decay_ratio.isna().all() and (results.signals.update_ratio > 0).all()
    assert "train.optimizer" in (trial.folder / "trial.json").read_text()
    wrong = Train(optimizer="tests.train.test_optimizer:not_one")
    words = (
        r"^train.optimizer: no optimiser \(got list from 'tests.train.test_optimizer:not_one'\); return a torch.optim"
    )
    with pytest.raises(TypeError, match=words):
        Updates(parameter_groups(model(), wrong), wrong)


def test_groups_of_yours_keep_the_ratio_of_their_rates() -> None:
    trial, _, _ = train(spec(train={**MINE, "schedule": "cosine"}))
    first, second = (group["lr"] for group in trial.updates.optimizer.param_groups)
    assert first == pytest.approx(second / 4) and second < 0.02
