"""PReLU's slopes in training: what is recorded, their own learning rate, no decay, the same after an interruption."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from initlab import build_net
from initlab.train.records import slope_rows
from tests.train.test_trial import HARD, parts, spec, train

PRELU = {"net": {"activation": "prelu"}}


def slopes_of(net: nn.Module) -> list[torch.Tensor]:
    return [module.weight.detach() for module in net.modules() if isinstance(module, nn.PReLU)]


def test_rows_are_the_moments_of_each_layers_slopes() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.PReLU(4), nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Sequential(nn.PReLU()))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([0.0, 0.5, -0.25, 0.75]))
    assert slope_rows(net) == [
        # mean of squares 0.21875, less 0.25^2
        {"layer": 0, "name": "1", "channels": 4, "mean": 0.25, "std": math.sqrt(0.15625), "min": -0.25, "max": 0.75},
        {"layer": 1, "name": "4.0", "channels": 1, "mean": 0.25, "std": 0.0, "min": 0.25, "max": 0.25},
    ]
    assert slope_rows(build_net("plain", depth=7, input_shape=(1, 8, 8), activation="leaky_relu")) == []


@pytest.mark.parametrize(("kind", "channels"), [("prelu", [4, 4, 8, 16, 8, 8]), ("prelu_shared", [1] * 6)])
def test_slopes_are_recorded_at_every_validation(kind: str, channels: list[int]) -> None:
    trial, memory, _ = train(spec(net={"activation": kind}))
    assert [(step, epoch) for step, epoch, _ in memory.slope_rows] == [(0, 0.0), (6, 1.0), (12, 2.0), (18, 3.0)]
    first, last = memory.slope_rows[0][2], memory.slope_rows[-1][2]
    names = ["act1_1", "act1_2", "act2_1", "act3_1", "fc_act1", "fc_act2"]
    assert [(row["name"], row["channels"]) for row in first] == list(zip(names, channels, strict=True))
    assert all((row["mean"], row["std"]) == (0.25, 0.0) for row in first)
    assert [row["mean"] for row in last] == pytest.approx([s.double().mean().item() for s in slopes_of(trial.net)])
    assert all(row["mean"] != 0.25 for row in last)


def test_a_net_without_prelu_records_none() -> None:
    assert train(spec())[1].slope_rows == []


def test_the_recorded_slopes_go_on_after_an_interruption() -> None:
    trial_spec = spec(**{**HARD, "net": {"activation": "prelu"}, "train": {**HARD["train"], "slope_lr_factor": 3.0}})
    whole = train(trial_spec)[1]
    calls = iter(range(10_000))
    before = train(trial_spec, should_stop=lambda: next(calls) >= 8)[1]
    after = train(trial_spec, resumed=before.states[-1])[1]
    assert repr(before.slope_rows + after.slope_rows) == repr(whole.slope_rows)


def first_steps(factor: float, **sections: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """(the net before, the net after one step) at lr 0.02 times `factor` for the slopes."""
    trial_spec = spec(**PRELU, train={"epochs": 1 / 6, "slope_lr_factor": factor}, **sections)
    return parts(trial_spec)[1], train(trial_spec)[0].net


def test_the_first_step_of_slopes_is_their_gradient_times_their_own_rate() -> None:
    before, after = first_steps(10.0)
    same, usual = first_steps(1.0)
    for a, b, c, d in zip(slopes_of(before), slopes_of(after), slopes_of(same), slopes_of(usual), strict=True):
        assert torch.equal(a, c)
        assert torch.allclose(b - a, 10 * (d - c), atol=1e-6)
    weights = [{k: v for k, v in net.state_dict().items() if "act" not in k} for net in (after, usual)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_factor_of_0_keeps_the_slopes_and_trains_the_rest() -> None:
    trial, memory, _ = train(spec(**PRELU, train={"slope_lr_factor": 0.0}))
    assert all(torch.equal(slope, torch.full_like(slope, 0.25)) for slope in slopes_of(trial.net))
    assert memory.rows[-1]["train_loss"] < memory.rows[1]["train_loss"]


def test_decay_does_not_reach_the_slopes() -> None:
    """One step under a decay so strong that it would take a tenth of each slope away: slopes step as without it."""
    (_, decayed), (_, free) = (
        (None, train(spec(**PRELU, train={"epochs": 1 / 6, "weight_decay": decay}))[0].net) for decay in (5.0, 0.0)
    )
    assert all(torch.equal(a, b) for a, b in zip(slopes_of(decayed), slopes_of(free), strict=True))
    assert not torch.equal(decayed.conv1_1.weight, free.conv1_1.weight)


@pytest.mark.parametrize("sections", [{"net": {"skip": "identity"}}, {"net": {"norm": "batch", "skip": "identity"}}])
def test_a_residual_and_a_normalised_net_resume_bit_identically(sections: dict[str, Any]) -> None:
    trial_spec = spec(**{**HARD, "net": {**sections["net"], "depth": 12, "activation": "prelu"}})
    whole, records, _ = train(trial_spec)
    calls = iter(range(10_000))
    before = train(trial_spec, should_stop=lambda: next(calls) >= 7)[1]
    second, after, _ = train(trial_spec, resumed=before.states[-1])
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.net.state_dict().values(), second.net.state_dict().values(), strict=True)
    )
    before.rows += after.rows
    assert before.timeless() == records.timeless()
    assert any("add" in name for name, _ in whole.net.named_children())
