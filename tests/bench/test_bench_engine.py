"""`initlab bench engine` and `launch`: the arms that they compare, and what they refuse."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from initlab.bench.engine import for_the_loop, plain_loop
from initlab.cli import main
from initlab.plan.plan import plan
from initlab.study.mistakes import StudyError
from initlab.study.study import Study

TINY = {"name": "tiny", "data": {"image_size": 16}, "net": {"depth": 6, "width": 2}, "train": {"epochs": 1}}


def test_the_plain_loop_takes_a_planned_trial_and_a_dead_one_is_an_error() -> None:
    fields = for_the_loop(plan(Study.model_validate(TINY))[0])
    assert (fields["depth"], fields["scheme"], fields["epochs"]) == (6, "he", 1)
    assert plain_loop([json.dumps(fields)], jobs=1) > 0
    with pytest.raises(RuntimeError, match="the plain loop died"):
        plain_loop(["{}"], jobs=1)


def test_a_trial_that_the_plain_loop_does_not_know_is_refused() -> None:
    leaky = Study.model_validate({**TINY, "net": {"activation": "leaky_relu"}})
    with pytest.raises(StudyError, match="the plain loop knows plain relu nets on digits"):
        for_the_loop(plan(leaky)[0])


@pytest.mark.parametrize("data", [{}, {"image_size": 8}])
def test_images_of_another_size_are_one_line_before_anything_runs(tmp_path: Path, data: dict[str, int]) -> None:
    path = tmp_path / "small.json"
    path.write_text(json.dumps({**TINY, "data": data}))
    result = CliRunner().invoke(main, ["bench", "engine", str(path)])
    assert (result.exit_code, result.stdout) == (2, "")
    size = data.get("image_size")
    assert result.stderr.startswith(f"bench engine: images of another size (got {size}); set data.image_size 16")
    assert result.stderr.count("\n") == 1


@pytest.mark.slow
def test_every_arm_trains_all_trials_and_a_launch_is_timed_to_its_end() -> None:
    result = CliRunner().invoke(main, ["bench", "engine", "--trials", "3", "--jobs", "1"])
    assert (result.exit_code, result.stderr) == (0, "")
    head, *arms, start = result.stdout.splitlines()
    assert head == "3 trials of trivial, 1 processes of one thread, median of 1 rounds"
    assert [line[:10].strip() for line in arms] == ["plain loop", "inline", "plain Tune", "ray"]
    assert "1.00 times the loop" in arms[0] and start.startswith("Ray's own start")
    result = CliRunner().invoke(main, ["bench", "launch", "--trials", "30", "--few", "2", "--jobs", "1"])
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 6)
