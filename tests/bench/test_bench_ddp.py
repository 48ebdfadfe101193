"""`initlab bench ddp`: the table's ratios follow from its rates; mistakes are one line."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from initlab.bench.ddp import bench_ddp, rate
from initlab.cli import main
from initlab.plan.plan import plan
from initlab.study.mistakes import StudyError
from initlab.study.study import Study


def test_the_table_has_both_scalings_and_their_ratios(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text("name: small\nnet: {depth: 6, width: 2}\ntrain: {batch_size: 16, log_every: 1}\n")
    first, header, one, two = bench_ddp(path, [1, 2], 3, "cpu", None, ())
    assert first == "digits, plain-6, cpu, 3 steps of each arm; batch 16, weak: 16 each"
    assert header.split() == ["processes", "strong", "speed-up", "efficiency", "weak", "efficiency"]
    assert one.split()[2:4] == ["1.00", "1.00"]
    count, strong, speed_up, efficiency, weak, weak_efficiency = two.replace(",", "").replace("/s", "").split()
    rate = float(one.replace(",", "").split()[1].removesuffix("/s"))
    assert count == "2" and min(float(strong), float(weak)) > 0
    assert abs(float(speed_up) - float(strong) / rate) < 0.02
    assert abs(float(efficiency) - float(speed_up) / 2) < 0.02
    assert abs(float(weak_efficiency) - float(weak) / rate / 2) < 0.02


def test_mistakes_are_one_line() -> None:
    result = CliRunner().invoke(main, ["bench", "ddp", "--set", "train.lr=1"])
    assert (result.exit_code, result.stderr) == (2, "--set: goes with a study (got 'train.lr=1' and none); name one\n")
    study = Study.model_validate({"name": "small"})
    with pytest.raises(StudyError, match=r"^train.batch_size: more than the training set for 2 processes \(got 2000"):
        rate(study, plan(study)[0].spec, 2000, 2, 1, "cpu", None)
