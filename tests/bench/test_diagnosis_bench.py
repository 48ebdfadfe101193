"""The benchmark of diagnosis: faults are planted where they say, other tools' rules fire as published, tables count."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from initlab.bench.diagnosis_case import end_of, fault_row, sound_row
from initlab.bench.diagnosis_faults import FAULTS, plant
from initlab.bench.diagnosis_nets import NETS, half_of
from initlab.bench.diagnosis_rules import Watch, oscillates
from initlab.bench.diagnosis_table import score_rows
from initlab.bench.sound_nets import SoundNet
from initlab.cli import main

SMALL = ("actor-critic", "lstm", "gpt", "resnet", "autoencoder", "diffusion")


def numbers(net: SoundNet) -> dict[str, Tensor]:
    return {name: p.detach().double().clone() for name, p in net.model.named_parameters()}


def differ(first: Tensor, second: Tensor) -> bool:
    return first.shape != second.shape or not torch.equal(first.nan_to_num(1e9), second.nan_to_num(1e9))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_changes_the_parameters_that_it_names_and_no_other(fault: str) -> None:
    structure = fault in ("no norms", "sigmoids", "float16")
    applied = 0
    for name in SMALL:
        before, net = numbers(NETS[name](0)), NETS[name](0)
        planted = plant(fault, net)
        if planted is None:
            continue
        applied += 1
        after = numbers(planted.net)
        changed = {key for key in after if differ(before[key], after[key])}
        assert set(planted.parameters) <= changed or structure
        if structure or fault.startswith(("inputs", "labels")):
            assert not planted.parameters
        elif fault not in ("zero layer under ReLU", "torch's default left in"):
            # A zero layer's bias is 0 already or goes with its weight; torch's default draws all layers anew.
            assert changed == set(planted.parameters)
    assert applied


def test_ten_times_the_gain_in_one_layer_is_in_the_middle_one() -> None:
    net = SoundNet(nn.Sequential(*(nn.Linear(4, 4) for _ in range(6))), torch.randn(8, 4), torch.arange(8) % 4)
    before = numbers(net)
    planted = plant("gain x10 in one layer", net)
    assert planted and planted.parameters == ("2.weight",)
    assert torch.allclose(numbers(net)["2.weight"], 10 * before["2.weight"])


def test_the_fan_of_the_wrong_axis_scales_by_the_root_of_their_ratio() -> None:
    net = SoundNet(nn.Sequential(nn.Linear(16, 64), nn.Linear(64, 10)), torch.randn(8, 16), torch.arange(8))
    before = numbers(net)
    planted = plant("fan of the wrong axis", net)
    assert planted and planted.parameters == ("0.weight",)
    assert torch.allclose(numbers(net)["0.weight"], before["0.weight"] * math.sqrt(16 / 64))


def test_inputs_and_labels_that_are_one_tensor_change_apart() -> None:
    for fault, batch_changes in (("inputs x255", True), ("labels off by one", False)):
        name = "diffusion" if batch_changes else "gpt"
        sound = NETS[name](0)
        planted = plant(fault, NETS[name](0))
        assert planted
        assert differ(planted.net.batch, sound.batch) == batch_changes
        assert differ(planted.net.labels, sound.labels) != batch_changes


def test_gains_under_weight_norm_are_its_lengths() -> None:
    planted = plant("gain x10 in one layer", NETS["weight-norm"](0))
    assert planted and planted.parameters == ("6.parametrizations.weight.original0",)


def test_half_of_the_nets_are_held_out() -> None:
    halves = [half_of(name) for name in NETS]
    assert len(NETS) == 40 and halves.count("development") == 20
    assert half_of("gpt") == "held out" and half_of("vit") == "development"


def watched(model: nn.Module, x: Tensor, steps: int = 1, loss: float | None = None) -> dict[str, set[str]]:
    watch = Watch(model, steps)
    with watch.hooked():
        for step in range(steps):
            model.zero_grad()
            value = model(x).square().mean()
            value.backward()
            watch.after_backward(step, value.item() if loss is None else loss, 0.0)
            watch.after_step()
    return watch.alarms


def test_sagemakers_dead_relu_fires_above_half_of_a_layer() -> None:
    model = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1))
    for dead, fires in ((2, False), (3, True)):
        nn.init.ones_(model[0].weight)  # type: ignore[arg-type]
        model[0].bias.data = torch.tensor([-9.0] * dead + [9.0] * (4 - dead))  # type: ignore[union-attr]
        assert ("dead_relu" in watched(model, torch.rand(16, 1))["sagemaker"]) == fires


def test_sagemakers_vanishing_gradient_is_a_mean_below_1e_7_and_all_zero_a_tensor_of_zeros() -> None:
    model = nn.Linear(1, 1, bias=False)
    for weight, fires in ((1e-6, False), (1e-9, True)):
        # The loss (w x)^2 has the gradient 2 w at x = 1.
        nn.init.constant_(model.weight, weight)
        assert ("vanishing_gradient" in watched(model, torch.ones(4, 1))["sagemaker"]) == fires
    nn.init.zeros_(model.weight)
    assert "all_zero" in watched(model, torch.ones(4, 1))["sagemaker"]


def test_a_tanh_that_takes_ten_is_saturated() -> None:
    model = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
    for size, fires in ((9.0, False), (10.0, True)):
        nn.init.zeros_(model[0].weight)  # type: ignore[arg-type]
        nn.init.constant_(model[0].bias, size)  # type: ignore[arg-type]
        assert ("saturated_activation" in watched(model, torch.ones(4, 1))["sagemaker"]) == fires


def test_nan_is_seen_by_all_and_infinity_not_by_anomaly_mode() -> None:
    model = nn.Linear(2, 1)
    alarms = watched(model, torch.tensor([[math.nan, 1.0]]))
    assert "exploding_tensor" in alarms["sagemaker"] and alarms["anomaly"] and "explode" in alarms["autotrainer"]
    alarms = watched(model, torch.ones(1, 2), loss=math.inf)
    assert "exploding_tensor" in alarms["sagemaker"] and not alarms["anomaly"]


def test_autotrainer_sees_a_first_gradient_that_is_a_thousandth_of_the_last() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    # Small second weights let little gradient through to the first.
    nn.init.constant_(model[0].weight, 1.0)  # type: ignore[arg-type]
    nn.init.constant_(model[1].weight, 1e-5)  # type: ignore[arg-type]
    assert watched(model, torch.ones(4, 2))["autotrainer"] == {"vanish"}
    nn.init.constant_(model[0].weight, 1e-3)  # type: ignore[arg-type]
    nn.init.constant_(model[1].weight, 1.0)  # type: ignore[arg-type]
    assert watched(model, torch.ones(4, 2))["autotrainer"] == {"explode"}


def test_accuracies_that_go_up_and_down_oscillate() -> None:
    assert oscillates([0.1, 0.3, 0.1, 0.3, 0.1, 0.3]) and not oscillates([0.1, 0.2, 0.3, 0.4])


def test_the_end_of_a_run_is_the_median_of_its_last_five_losses_and_never_nan() -> None:
    assert end_of([9.0, 5.0, 1.0, 2.0, 3.0, 4.0]) == 3.0
    assert end_of([1.0, math.nan]) == math.inf


def test_nan_in_a_weight_matters_is_caught_named_and_cured() -> None:
    row = fault_row("actor-critic", "NaN in one weight", sound_row("actor-critic", 20))
    assert row["matters"] and row["caught"] and row["named"] and row["precise"] and row["cured"]
    assert row["others"]["anomaly"] and row["verdict"] == "nonfinite"


def case(half: str, **answers: Any) -> dict[str, Any]:
    row = {"kind": "fault", "model": "m", "half": half, "fault": "f", "applies": True, "planted": ["w"], "call": ""}
    return row | {"matters": True, "caught": False, "named": None, "cured": False, "others": {}, "error": ""} | answers


def test_the_table_counts_by_hand() -> None:
    rows = [
        case("development", caught=True, named=True, call="x", cured=True, others={"sagemaker": ["all_zero"]}),
        case("development", caught=True, named=False, call="x"),
        case("development"),
        case("development", matters=False, caught=True),
        case("held out", caught=True, named=None, planted=[]),
        {"kind": "draw", "model": "m", "half": "held out", "seed": 0, "false_alarm": True},
        {"kind": "draw", "model": "m", "half": "held out", "seed": 1, "false_alarm": False},
    ]
    table = {title.strip(): shares for title, *shares in score_rows(rows)}
    assert table["faults planted that matter"] == ["75 % (3/4)", "100 % (1/1)"]
    assert table["caught by initlab"] == ["67 % (2/3)", "100 % (1/1)"]
    assert table["right parameters named"] == ["50 % (1/2)", "-"]
    assert table["of those, it works"] == ["50 % (1/2)", "-"]
    assert table["flagged though they do not matter"] == ["100 % (1/1)", "-"]
    assert table["false alarms on sound draws"] == ["-", "50 % (1/2)"]
    assert table["caught by SageMaker Debugger"] == ["33 % (1/3)", "0 % (0/1)"]


def test_the_command_writes_rows_as_it_goes_and_goes_on_from_them(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    command = ["bench", "diagnosis", "--models", "actor-critic", "--faults", "inputs x255,labels off by one"]
    command += ["--steps", "20", "--seeds", "1", "--jobs", "1", "--out", str(out)]
    first = CliRunner().invoke(main, command)
    assert first.exit_code == 0, first.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["sound", "fault", "fault", "draw"]
    assert [row["applies"] for row in rows if row["kind"] == "fault"] == [True, False]
    # A line that was cut off is measured again, and nothing else is.
    out.write_text("".join(line + "\n" for line in out.read_text().splitlines()[:3]) + '{"kind": "dr')
    again = CliRunner().invoke(main, command)
    assert "1/1" in again.output and "sound, the loss" not in again.output
    assert first.output[first.output.index("\n\n") :] == again.output[again.output.index("\n\n") :]


def test_an_unknown_net_is_refused_in_one_line() -> None:
    result = CliRunner().invoke(main, ["bench", "diagnosis", "--models", "gtp"])
    assert result.exit_code == 2 and "--models: unknown (got 'gtp'); allowed: plain-he" in result.output
