"""What watching costs: the arms watch what they say, shares are as by hand, and other people's tools may be absent."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from click.testing import CliRunner

from initlab.bench import probe, watch
from initlab.bench.gpu_net import Large, large_trial
from initlab.bench.watch import Arm, Share, bare_steps, compare, hooked_steps, medians, probe_steps, running_steps
from initlab.cli import main
from initlab.train.trial import Trial

CPU = torch.device("cpu")
TINY = Large({"depth": 6, "width": 2}, side=16, batch=4, classes=10, steps=2, precision="float32")


def make() -> Trial:
    return large_trial(TINY, CPU)


@contextmanager
def broken(trial: Trial) -> Iterator[watch.Step]:
    raise RuntimeError("another torch\nand a long story")
    yield trial.update


def test_shares_are_the_medians_over_repeats_by_cadence_and_what_fails_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arms = (
        Arm("bare step", bare_steps),
        Arm("ours", bare_steps, (10, 1)),
        Arm("broken", broken, (1,), "torch"),
        Arm("absent", broken, (1,), "no_such_package"),
    )
    times = iter([[2.0, 3.0], [1.0, 3.0], [4.0, 5.0]])  # a busy machine: 1.5, 3 and 1.25 times
    monkeypatch.setattr(watch, "ARMS", arms)
    monkeypatch.setattr(watch, "medians", lambda steps, rounds, device: next(times))
    shares, left_out = compare(make, 3, 1, CPU)
    assert shares == [Share("ours", 10, 0.05, 0.025, 0.2), Share("ours", 1, 0.5, 0.25, 2.0)]
    assert left_out == [
        ("broken", "fails here (RuntimeError: another torch and a long story)"),
        ("absent", "no_such_package is not installed"),
    ]


def test_our_own_arms_may_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "ARMS", (Arm("bare step", broken),))
    with pytest.raises(RuntimeError, match="another torch"):
        compare(make, 1, 1, CPU)


def test_arms_take_blocks_in_turn_each_after_a_step_that_is_not_timed() -> None:
    taken: list[str] = []
    medians([lambda: taken.append("a"), lambda: taken.append("b")], [2, 1], CPU)
    assert "".join(taken) == "aaaaaa" + "bbbbbb" + "aaaaaa"


def test_watchers_see_every_layer_forward_and_backward_and_are_gone_afterwards() -> None:
    trial = make()
    watched: list[torch.Tensor] = []
    with hooked_steps(trial, watched.append) as step:
        step()
    assert len(watched) == 2 * 6  # 6 weight layers
    trial.update()
    assert len(watched) == 12


def test_our_ways_watch_every_step_and_train_as_the_bare_one_does() -> None:
    weights = []
    for steps in (bare_steps, probe_steps, running_steps):
        trial = make()
        with steps(trial) as step:
            for _ in range(3):
                step()
        weights.append(torch.cat([p.detach().flatten() for p in trial.net.parameters()]))
        assert trial.step == 3 and (trial.moments is not None) == (steps is running_steps)
    assert trial.moments is not None and trial.moments.samples == 3
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])


def test_bench_probe_prints_a_line_per_way_and_cadence(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = {"net.depth": 6, "net.width": 2, "data.train_examples": 64, "data.val_examples": 20}
    monkeypatch.setattr(probe, "CASES", {6: {**tiny, "train.epochs": 2.0}})
    monkeypatch.setattr(probe, "ROUNDS", 1)
    monkeypatch.setattr(watch, "ARMS", [arm for arm in watch.ARMS if not arm.package])
    result = CliRunner().invoke(main, ["bench", "probe", "--repeats", "1"])
    assert result.exit_code == 0, result.output
    first, *lines, last = result.output.splitlines()
    assert first.startswith("6 layers: shares of a bare step") and last.startswith("6 layers, 1 whole trials")
    names = [line.split("  ")[1] for line in lines]
    assert names == [
        "initlab's probe, every 200 steps",
        "initlab's running moments, every 20 steps",
        "initlab's running moments, every 10 steps",
        "initlab's running moments, every step",
        "hooks with .var().item(), every step",
        "hooks with histograms, every 100 steps",
        "hooks with histograms, every step",
    ]
