"""`initlab bench gpu`: without a GPU one line; its code on tiny sizes on a CPU, its counts by hand."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from initlab.bench import watch
from initlab.bench.gpu import FIG3_IMAGES, FULL, TINY
from initlab.bench.gpu_net import Large, flop_per_image, host_syncs, large_trial, watching
from initlab.cli import main

CPU = torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_what_it_needs(tmp_path: Path) -> None:
    found = CliRunner().invoke(main, ["bench", "gpu", "--out", str(tmp_path / "x.json")])
    assert (found.exit_code, found.stdout) == (2, "")
    assert found.stderr == "bench gpu: needs a CUDA GPU (got none); --device cpu --quick tries the same on a CPU\n"
    found = CliRunner().invoke(main, ["bench", "gpu", "--device", "cpu", "--out", str(tmp_path / "x.json")])
    assert (found.exit_code, found.stderr) == (2, "bench gpu: too much for a CPU (got --device cpu); add --quick\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_quick_run_has_every_row_and_writes_them(tmp_path: Path) -> None:
    out = tmp_path / "bench" / "gpu.json"
    found = CliRunner().invoke(main, ["bench", "gpu", "--device", "cpu", "--quick", "--out", str(out)])
    assert found.exit_code == 0, found.output
    content = json.loads(out.read_text())
    rows = {row["what"]: row for row in content["rows"]}
    assert {"bf16 matrix product", "B float32 eager", "B bfloat16 eager", "B bfloat16 compiled"} <= rows.keys()
    assert {"24 small trials, one after another", "24 small trials, packed, 12 at once"} <= rows.keys()
    assert {"Fig 3 by small-30 bfloat16 eager", "initlab's probe, every 200 steps"} <= rows.keys()
    rates = [row for row in content["rows"] if row["unit"] in ("images/s", "trials/h", "FLOP/s", "min")]
    assert len(rates) == 12
    assert min(row["value"] for row in rates) > 0
    speed = rows["small-30 bfloat16 eager"]["value"]
    assert rows["Fig 3 by small-30 bfloat16 eager"]["value"] == pytest.approx(FIG3_IMAGES / speed / 60)
    assert (content["device"], content["quick"], content["torch_version"]) == ("cpu", True, torch.__version__)
    lines = found.output.splitlines()
    assert lines[-1].startswith("written to ")
    for row, line in zip(content["rows"], lines[-1 - len(rows) : -1], strict=True):  # the table comes last
        assert line.startswith(row["what"])


def test_operations_are_those_of_the_papers() -> None:
    # small-30: 1.45e10 FLOP an image forward and backward, so Fig 3 is 5.5e17 in all
    assert flop_per_image(FULL.nets["small-30"]) * FIG3_IMAGES == pytest.approx(5.5e17, rel=0.02)


def test_host_syncs_are_counted_and_a_cpu_has_none() -> None:
    assert host_syncs(TINY, CPU) == 0


def test_ways_to_watch_are_rows_by_name_and_cadence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "ARMS", [arm for arm in watch.ARMS if not arm.package])
    found = watching(Large({"depth": 6, "width": 2}, side=16, batch=4, classes=10, steps=1), CPU)
    assert {"initlab's probe, every 200 steps", "initlab's running moments, every 20 steps"} <= found.keys()
    assert {"hooks with .var().item(), every 1 steps", "hooks with histograms, every 100 steps"} <= found.keys()


def test_bfloat16_keeps_float32_weights_updates_and_probes() -> None:
    trial = large_trial(TINY, "bfloat16", True, CPU)  # compiled is for GPUs: quietly not here
    kinds: list[torch.dtype] = []
    for module in (trial.net[0], trial.net[-1]):
        module.register_forward_hook(lambda _, inputs, y: kinds.append(y.dtype))
    trial.update()
    assert kinds == [torch.bfloat16] * 2
    assert trial.forward is trial.net
    assert {p.dtype for p in trial.net.parameters()} == {torch.float32}
    assert {s["momentum_buffer"].dtype for s in trial.optimizer.state.values()} == {torch.float32}
