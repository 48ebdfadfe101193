"""`initlab bench inspect`: the parts of an inspection and the whole, told in passes of one run."""

import gc
import re
from functools import partial

import pytest
import torch
from click.testing import CliRunner

from initlab.bench.inspect import bench_memory, inspected, most_bytes, training_step
from initlab.cli import main
from initlab.init.apply import init_
from initlab.inspection.inspect import inspect
from initlab.inspection.subject import Subject, resolve_model
from initlab.nets.build import build_net
from initlab.signal.theory.redraw import redraw


def test_cost_in_passes() -> None:
    result = CliRunner().invoke(
        main, ["bench", "inspect", "squeezenet1_1", "--batch-size", "2", "--repeats", "2", "--draws", "2"]
    )
    assert result.exit_code == 0, result.output
    passes = {
        name.strip(): float(value) for name, value in re.findall(r"^(.{12}) .* ([\d.]+) passes$", result.output, re.M)
    }
    assert list(passes) == ["plain pass", "measure", "predict", "no redraws", "inspect", "2 draws"]
    assert passes["plain pass"] == 1.0
    # Beside the two there are the survey, the paths, the starting loss and the suspects; but no copy of a healthy net
    # is trained, which would be 40 passes and more.
    assert 0.5 < passes["inspect"] / (passes["measure"] + passes["predict"]) < 5
    assert passes["2 draws"] > passes["measure"]


def test_the_growth_over_depth_is_a_row_per_depth_with_its_cost_per_layer() -> None:
    result = CliRunner().invoke(main, ["bench", "inspect", "--depth", "4", "--depth", "8", "--repeats", "1"])
    assert result.exit_code == 0, result.output
    _, _, *rows = result.output.splitlines()
    for depth, row in zip((4, 8), rows, strict=True):
        layers, plain, predict, per_layer, *inspect = map(float, row.split())
        assert (layers, len(inspect)) == (depth, 2) and plain > 0
        # Seconds are printed to a hundredth.
        assert per_layer == pytest.approx(1000 * predict / depth, abs=1000 * 0.006 / depth)


@pytest.mark.slow
def test_memory_is_that_of_processes_of_their_own() -> None:
    """A step of AdamW holds weights, gradients and two moments: of 4.4 million numbers at least 70 MB."""
    resolve = partial(resolve_model, "mlp", batch_size=2, options={"depth": 6, "width": 1024})
    head, step, inspection, *counted = bench_memory(resolve)
    before = float(head.split(" MB")[0].split()[-1])
    megabytes = {line[:13].strip(): float(line.split(" MB")[0].split()[-1]) for line in (step, inspection)}
    assert list(megabytes) == ["training step", "inspected"]
    assert megabytes["training step"] - before > 65 and step.endswith(" 1.00 steps")
    # Weights, gradients and two moments are 4 x 4 bytes for each of 4.46 million numbers; an inspection needs fewer.
    assert counted[0].endswith(" 1.00 steps") and float(counted[1].split()[-2]) < 1.3
    assert float(counted[0].split(" MB")[0].split()[-1]) == pytest.approx(71, abs=4)


def test_bytes_are_counted_at_their_peak() -> None:
    def work() -> None:
        """8 MB, then 4 MB more, of which 4 go before 2 come."""
        first, second = torch.ones(2_000_000), torch.ones(1_000_000)
        del second
        first.mul_(torch.ones(500_000).sum())

    assert most_bytes(work) == pytest.approx(12_000_000, abs=1000)


@pytest.mark.parametrize("depth, width, batch", [(8, 256, 8), (8, 256, 4096)])
def test_an_inspection_takes_little_more_memory_than_a_training_step(depth: int, width: int, batch: int) -> None:
    """Where weights take most of it, and where activations do; redraws take no more."""
    net = build_net("mlp", depth=depth, width=width, num_classes=10, input_shape=(width,))
    subject = Subject("mlp", init_(net, "he", seed=0), torch.randn(batch, width), torch.arange(batch) % 10)
    weights = 4 * sum(p.numel() for p in net.parameters())
    redrawn = partial(redraw, net, subject.images, subject.labels, None, 2)
    # Neither does the collector run at a good moment, nor is there anything for it.
    gc.collect()
    gc.disable()
    try:
        step, whole, band = (
            most_bytes(work) for work in (partial(training_step, subject), partial(inspected, subject), redrawn)
        )
    finally:
        gc.enable()
    assert (weights + whole) / (weights + step) < 1.3
    # Of a net that is nearly all activations a draw has three copies of the batch, and a step of AdamW one.
    assert (weights + band) / (weights + step) < (1.3 if batch < width else 1.45)


def test_an_inspection_of_a_healthy_net_runs_it_a_counted_number_of_times() -> None:
    """Measured once, recorded once, its start and its joints; no redraw of a net of which every rule is proven."""
    net = build_net("mlp", depth=6, width=64, num_classes=10, input_shape=(64,))
    init_(net, "he", seed=0)
    calls = []
    net.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    result = inspect(net, torch.randn(32, 64), torch.arange(32) % 10)
    assert set(result.table.basis) == {"theory"} and result.healthy
    assert calls == [32] * 4
