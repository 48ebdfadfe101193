"""`initlab bench gpu`: without a GPU one line; its code on tiny sizes on a CPU, its counts by hand."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import initlab
from initlab.bench import gpu, gpu_packs, gpu_rows, gpu_trials, watch
from initlab.bench.gpu import Section
from initlab.bench.gpu_net import flop_per_image, host_syncs, large_trial
from initlab.bench.gpu_rows import FIG3_IMAGES, FULL, QUICK, TINY, Sizes, net_rows, row, value_of, watching_rows
from initlab.bench.gpu_trials import Arm, arms, by_turns, span
from initlab.cli import main
from initlab.study.study import Study
from initlab.train.trial import Trial
from tests.train.tape import tape

CPU = torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_what_it_needs(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["bench", "gpu", "--out", str(tmp_path / "x.json")])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "bench gpu: needs a CUDA GPU (got none); --device cpu --quick tries the same on a CPU\n"
    result = CliRunner().invoke(main, ["bench", "gpu", "--device", "cpu", "--out", str(tmp_path / "x.json")])
    assert (result.exit_code, result.stderr) == (2, "bench gpu: too much for a CPU (got --device cpu); add --quick\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_quick_run_has_every_row_and_writes_them(tmp_path: Path) -> None:
    out = tmp_path / "bench" / "gpu.json"
    result = CliRunner().invoke(main, ["bench", "gpu", "--device", "cpu", "--quick", "--out", str(out)])
    assert result.exit_code == 0, result.output
    content = json.loads(out.read_text())
    rows = {row["what"]: row for row in content["rows"]}
    without = {row["what"] for row in content["rows"] if row["value"] is None}
    assert without <= {arm.name for arm in watch.ARMS if arm.package}, content["rows"]  # what is not installed
    assert {f"24 small trials, {arm.name}" for arm in arms(QUICK.processes, QUICK.streams)} <= rows.keys()
    assert {
        "perceptron alone",
        "demo net, pack of 2, CUDA graph",
        "demo net, pack of 2, compiled, CUDA graph",
    } <= rows.keys()
    for name in ("B", "small-30"):
        runs = {f"{name} bfloat16 eager", f"{name} bfloat16 compiled", f"{name} float32 eager"}
        assert runs | {f"{run}, of the matrix product" for run in runs} <= rows.keys()
    assert {"Fig 3 by small-30 bfloat16 eager", "initlab's probe, every 200 steps"} <= rows.keys()
    assert {"B bfloat16 contiguous", "host syncs in 10 steps of a pack, CUDA graph"} <= rows.keys()
    rates = [row for row in content["rows"] if row["unit"] in ("images/s", "trials/h", "FLOP/s", "min", "%")]
    assert min(row["value"] for row in rates) > 0
    assert (content["device"], content["quick"], content["torch_version"]) == ("cpu", True, torch.__version__)
    lines = result.output.splitlines()
    assert lines[-1].startswith("written to ")
    for entry, line in zip(content["rows"], lines[-1 - len(rows) : -1], strict=True):  # the table comes last
        assert line.startswith(entry["what"])


def test_a_section_that_fails_or_has_no_time_is_a_row_that_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, written = tmp_path / "gpu.json", []

    def broken(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        written.append([row["what"] for row in json.loads(out.read_text())["rows"]])  # those before are safe
        raise RuntimeError("CUDA error: an illegal memory access\nwas encountered\nFor debugging")

    def four(sizes: Sizes, device: torch.device) -> list[Section]:
        return [
            Section("first", 1.0, lambda rows: [row("first", 2.0, "s"), row("more", 3.0, "s")]),
            Section("second", 1.0, broken),
            Section("third", 1e9, broken),
            Section("fourth", 1.0, lambda rows: [row("fourth", value_of(rows, "first"), "s")]),
        ]

    monkeypatch.setattr(gpu, "sections", four)
    lines = list(gpu.bench_gpu("cpu", True, out, minutes=470 / 60))
    rows = json.loads(out.read_text())["rows"]
    assert [(row["what"], row["value"]) for row in rows] == [
        ("first", 2.0),
        ("more", 3.0),
        ("second", None),
        ("third", None),
        ("fourth", 2.0),
    ]
    assert rows[2]["note"] == "failed: RuntimeError: CUDA error: an illegal memory access was encountered"
    assert re.fullmatch("left out: [0-9]+ of 470 s are gone", rows[3]["note"])
    assert written == [["first", "more"]]
    assert lines[-4].split() == ["second", "–", *rows[2]["note"].split()]


def test_shares_and_projections_are_those_of_the_measured_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    # The paper's table 3: 2.32e10 multiply-adds of B for an image; two operations each, and backward is twice forward.
    monkeypatch.setattr(gpu_rows, "rate", lambda net, *how: (2000.0, ["ran uncompiled: torch.compile: no triton"]))
    product = [row("bf16 matrix product", 400e12, "FLOP/s")]
    speed, share = net_rows(FULL, CPU, "B", "bfloat16", "compiled", product)
    assert (speed["value"], speed["note"]) == (2000.0, "ran uncompiled: torch.compile: no triton")
    assert share["value"] == pytest.approx(100 * 2000 * 6 * 2.32e10 / 400e12, rel=0.005)
    assert share["note"] == "target >= 60 %"
    _, fig3 = net_rows(FULL, CPU, "small-30", "bfloat16", "eager", [])  # without the product there is no share
    assert fig3["value"] == pytest.approx(3 * 9.9 * 1_281_167 / 2000 / 60)
    assert fig3["note"].startswith("target <= 50 min on one H200")


@pytest.mark.parametrize("packed", [False, True], ids=["each alone", "recorded packs of one"])
def test_trials_that_take_turns_give_what_they_give_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    if packed:  # as on a GPU
        plain = gpu_trials.steps
        monkeypatch.setattr(gpu_trials, "steps", lambda trial, ended, record: plain(trial, ended, tape))
    study = Study.model_validate(
        {"name": "t", **QUICK.trials, "net": {"depth": 6, "width": 2}, "grid": {"seed": [0, 1, 2]}}
    )
    turns = by_turns(study, tmp_path / "turns", "cpu", Arm("2 streams", streams=2))
    after = initlab.run(study, tmp_path / "after", device="cpu", jobs=1, show="nothing")
    assert turns.trials.state.tolist() == ["done"] * 3
    columns = ["trial", "step", "train_loss", "train_error", "val_loss", "val_error"]
    pd.testing.assert_frame_equal(turns.scalars[columns], after.scalars[columns], rtol=1e-4 if packed else 0)


def test_a_trial_that_fails_fails_its_arm_with_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study.model_validate({"name": "t", **QUICK.trials, "grid": {"net.depth": [6]}})
    monkeypatch.setattr(Trial, "update", lambda trial: 1 / 0)
    with pytest.raises(RuntimeError, match="1 of 1 trials did not end, the first: ZeroDivisionError"):
        span(study, "cpu", Arm("one after another"))


def test_sections_are_chosen_by_the_beginnings_of_their_names(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    options = ["--device", "cpu", "--quick", "--out", str(out)]
    result = CliRunner().invoke(main, ["bench", "gpu", *options, "--section", "bf16", "--section", "B bfloat16 e"])
    assert result.exit_code == 0, result.output
    shares = ["B bfloat16 eager", "B bfloat16 eager, of the matrix product"]
    assert [entry["what"] for entry in json.loads(out.read_text())["rows"]] == ["bf16 matrix product", *shares]
    result = CliRunner().invoke(main, ["bench", "gpu", *options, "--section", "C"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(
        "bench gpu: no section begins so (got C); allowed: beginnings of bf16 matrix product"
    )


def test_a_pack_counts_the_steps_of_all_its_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_packs, "seconds", lambda update, device, times: [update() for _ in range(times)] and 0.5)
    assert gpu_packs.alone(TINY, CPU) == TINY.steps / 0.5
    assert gpu_packs.pack_rate(TINY, 3, CPU, captured=True).steps_per_s == 3 * TINY.steps / 0.5


def test_a_perceptron_has_the_layers_that_its_name_says() -> None:
    net = large_trial(replace(TINY, perceptron=5), CPU).net
    assert [tuple(p.shape) for p in net.parameters() if p.dim() == 2] == [(5, 768), (5, 5), (10, 5)]


def test_operations_are_those_of_the_papers() -> None:
    # The net small-30 takes 1.45e10 FLOP an image forward and backward, so Fig 3 is 5.5e17 in all.
    assert flop_per_image(FULL.nets["small-30"]) * FIG3_IMAGES == pytest.approx(5.5e17, rel=0.02)


def test_host_syncs_are_counted_and_a_cpu_has_none() -> None:
    assert host_syncs(large_trial(TINY, CPU).update, CPU) == 0


def test_ways_to_watch_are_rows_by_name_and_cadence(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = replace(watch.ARMS[-1], name="a tracker", package="no_such_package")
    monkeypatch.setattr(watch, "ARMS", [*(arm for arm in watch.ARMS if not arm.package), absent])
    rows = watching_rows(replace(QUICK, nets={"B": replace(TINY, steps=1)}), CPU, [])
    values = {entry["what"]: entry["value"] for entry in rows}
    assert {"initlab's probe, every 200 steps", "initlab's running moments, every 20 steps"} <= values.keys()
    assert {"hooks with .var().item(), every 1 steps", "hooks with histograms, every 100 steps"} <= values.keys()
    assert rows[-1] == {
        "what": "a tracker",
        "value": None,
        "unit": "",
        "note": "left out: no_such_package is not installed",
    }


def test_bfloat16_keeps_float32_weights_updates_and_probes() -> None:
    trial = large_trial(replace(TINY, compiled=True), CPU)  # compiled is for GPUs: quietly not here
    kinds: list[torch.dtype] = []
    for module in (trial.net[0], trial.net[-1]):
        module.register_forward_hook(lambda _, inputs, y: kinds.append(y.dtype))
    trial.update()
    assert kinds == [torch.float32] * 2, "on a CPU it would take a hundred times as long"
    trial.passes.on_gpu = True  # autocast is the same; the net stays here
    trial.update()
    assert kinds[2:] == [torch.bfloat16] * 2
    assert trial.passes.forward is trial.net
    assert {p.dtype for p in trial.net.parameters()} == {torch.float32}
    assert {s["momentum_buffer"].dtype for s in trial.updates.optimizer.state.values()} == {torch.float32}
