"""On a GPU: packed, captured, compiled and grouped steps are those of a trial alone, and none waits for the device."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from initlab.signal.probe import measure
from initlab.train.cuda import WARM_UP, Captured, Compiled
from initlab.train.group import Group, join_group, leave_group
from initlab.train.packed import Pack
from initlab.train.trial import Trial
from tests.gpu.conftest import begun, capture_on, images, losses, no_wait, spec

pytestmark = pytest.mark.gpu
# Of float32's 20 updates, as sums are taken in another order.
REL = 1e-4
SPECS = [spec(0), spec(1, lr=0.003, momentum=0.5), spec(2, schedule="constant", weight_decay=1e-2)]


def to_the_end(trial: Trial) -> Trial:
    """The trial after its last update."""
    trial.run(lambda: False, 1e9)
    return trial


@pytest.mark.parametrize("captured", [False, True], ids=["eager", "captured"])
def test_a_pack_gives_the_losses_of_the_trials_alone(device: torch.device, captured: bool) -> None:
    data = images(device)
    trials = [begun(one, data) for one in SPECS]
    pack = Pack(trials, capture_on(device) if captured else None)
    assert pack.unpackable_because() is None
    pack.run(lambda: False, 1e9)
    assert pack.eager is None
    for trial, one in zip(trials, SPECS, strict=True):
        alone = to_the_end(begun(one, data))
        assert losses(trial) == pytest.approx(losses(alone), rel=REL)
        assert len(losses(trial)) == 20
        columns = ("forward_var", "backward_var", "weight_var")
        for row, other in zip(trial.recorder.rows["signals"], alone.recorder.rows["signals"], strict=True):
            assert [row[c] for c in columns] == pytest.approx([other[c] for c in columns], rel=1e-2)


def test_a_replay_that_reads_what_has_moved_is_found_and_undone(device: torch.device) -> None:
    weight = torch.zeros(3, device=device)
    batches = iter(torch.arange(100.0, device=device).repeat_interleave(3).view(100, 3))

    def step() -> None:
        """Read a batch at an address of its own, as no captured step may."""
        weight.add_(next(batches))

    captured = Captured(step, [weight], capture_on(device))
    for _ in range(10):
        captured()
    # The capture itself took batch 4 in; the ten steps are those of the others.
    assert captured.reason == "CUDA graph: a replayed step differed from the step itself"
    assert weight.tolist() == [sum(range(11)) - 4.0] * 3


# In a process of its own, as torch 2.11 takes no graph after a capture that failed.
WAITING = """
import torch
from initlab.train.cuda import Captured, cuda_graph
weight = torch.zeros(3, device="cuda")
captured = Captured(lambda: weight.add_(1 if weight.sum().item() >= 0 else 0), [weight], cuda_graph)
for _ in range(10):
    captured()
assert weight.tolist() == [10.0] * 3, weight
assert captured.reason.startswith("CUDA graph: "), captured.reason
assert torch.cuda.current_stream() == torch.cuda.default_stream()
"""


def test_a_step_that_waits_for_the_device_is_not_captured(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("a CPU's stand-in for a capture takes every operation")
    ran = subprocess.run([sys.executable, "-c", WAITING], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]


def test_a_compiled_trial_gives_the_losses_of_a_plain_one(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = images(device)
    compiled = begun(spec(0), data, compiled=True)
    if device.type != "cuda":
        compile_ = torch.compile
        monkeypatch.setattr(torch, "compile", lambda net, mode: compile_(net, backend="eager"))
        compiled.passes.forward = Compiled(compiled.net)
    assert isinstance(compiled.passes.forward, Compiled)
    assert losses(to_the_end(compiled)) == pytest.approx(losses(to_the_end(begun(spec(0), data))), rel=REL)
    assert compiled.passes.eager is None


@pytest.fixture
def group(device: torch.device, tmp_path: Path) -> Iterator[Group]:
    """A group of this process alone."""
    try:
        yield join_group(0, 1, tmp_path / "rendezvous", device)
    finally:
        with suppress(RuntimeError):
            leave_group()


def test_a_group_of_one_process_gives_the_losses_of_a_trial_alone(device: torch.device, group: Group) -> None:
    data, pair = images(device), Group(0, 2)
    trial = begun(spec(0), data)
    # A group of one averages nothing; what a group of two wraps runs in this one all the same.
    trial.passes.forward = pair.wrap(trial.net)
    assert isinstance(trial.passes.forward, torch.nn.parallel.DistributedDataParallel)
    assert losses(to_the_end(trial)) == pytest.approx(losses(to_the_end(begun(spec(0), data))), rel=REL)
    sums = torch.ones(2, dtype=torch.float64, device=device)
    assert pair.total(sums).device == sums.device and pair.total(sums).tolist() == [1.0, 1.0]
    assert pair.agree(True) is True and pair.share("x") == "x"


def taken(update: Callable[[], Any], device: torch.device, warm_up: int = 3) -> None:
    """Some updates, and then as many as an epoch has without a wait for the device."""
    for _ in range(warm_up):
        update()
    with no_wait(device):
        for _ in range(5):
            update()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_trials_updates_never_wait_for_the_device(device: torch.device, precision: str) -> None:
    taken(begun(spec(0, precision=precision), images(device)).update, device)


@pytest.mark.parametrize("captured", [False, True], ids=["eager", "captured"])
def test_a_packs_updates_never_wait_for_the_device(device: torch.device, captured: bool) -> None:
    data = images(device)
    pack = Pack([begun(one, data) for one in SPECS], capture_on(device) if captured else None)
    taken(pack.update, device, WARM_UP + 2)
    assert pack.eager is None


def test_the_check_does_see_a_wait(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("a CPU is never waited for")
    with pytest.raises(RuntimeError, match="synchroniz"), no_wait(device):
        torch.ones(1, device=device).item()


def test_under_bfloat16_weights_and_probes_stay_float32(device: torch.device) -> None:
    data = images(device)
    half, full = (to_the_end(begun(spec(0, precision=p), data)) for p in ("bfloat16", "float32"))
    assert {p.dtype for p in half.net.parameters()} == {torch.float32}
    starts = [[row for row in t.recorder.rows["signals"] if row["step"] == 0] for t in (half, full)]
    assert repr(starts[0]) == repr(starts[1])
    assert losses(half) == pytest.approx(losses(full), rel=0.05)
    assert (losses(half) == losses(full)) is (device.type == "cpu")
    # The probe of the last step is one in float32, autocast or not.
    again = measure(half.net, *data.probe_batch(16), weight_decay=half.spec.train.weight_decay)
    last = [row for row in half.recorder.rows["signals"] if row["step"] == 20]
    assert [row["forward_var"] for row in last] == pytest.approx([row["forward_var"] for row in again], rel=1e-6)
