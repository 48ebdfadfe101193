"""`initlab bench inspect`: the parts of an inspection and the whole, told in passes of one run."""

import re
from functools import partial

import pytest
from click.testing import CliRunner

from initlab.bench.inspect import bench_memory
from initlab.cli import main
from initlab.inspection.subject import resolve_model


def test_cost_in_passes() -> None:
    result = CliRunner().invoke(
        main, ["bench", "inspect", "squeezenet1_1", "--batch-size", "2", "--repeats", "2", "--draws", "2"]
    )
    assert result.exit_code == 0, result.output
    passes = {
        name.strip(): float(value) for name, value in re.findall(r"^(.{12}) .* ([\d.]+) passes$", result.output, re.M)
    }
    assert list(passes) == ["plain pass", "measure", "predict", "inspect", "2 draws"]
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
    head, step, inspection = bench_memory(resolve)
    before = float(head.split(" MB")[0].split()[-1])
    megabytes = {line[:13].strip(): float(line.split(" MB")[0].split()[-1]) for line in (step, inspection)}
    assert list(megabytes) == ["training step", "inspected"]
    assert megabytes["training step"] - before > 65 and step.endswith(" 1.00 steps")
