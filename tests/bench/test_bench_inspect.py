"""`initlab bench inspect`: the parts of an inspection and the whole, told in passes of one run."""

import re

from click.testing import CliRunner

from initlab.cli import main


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
