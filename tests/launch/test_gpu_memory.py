"""`--gpus-per-trial auto`: how many trials share a GPU, by the memory that the first of each net took."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from initlab.engine.submit import Resources, Work
from initlab.engine.task import Answer, State, Task, TrialEnd
from initlab.launch import tasks as module
from initlab.launch.settings import resolve
from initlab.launch.tasks import places, queue_of, run_queue
from initlab.plan.plan import plan
from initlab.study.study import Study


def study() -> Study:
    """Four seeds of a net that takes 0.3 of a device, and of one that takes 0.12."""
    grid = {"net.width": [4, 8], "seed": [0, 1, 2, 3]}
    return Study.model_validate({"name": "s", "net": {"depth": 6}, "grid": grid})


@pytest.mark.parametrize(("memory", "at_once"), [(None, 1), (0.95, 1), (0.45, 2), (0.3, 3), (0.12, 7), (0.01, 90)])
def test_as_many_fit_as_their_memory_allows_with_a_tenth_to_spare(memory: float | None, at_once: int) -> None:
    assert places(memory) == at_once


@pytest.mark.parametrize(
    ("engine", "shares"),
    [
        # The two first ones have a GPU each; then the cores of the machine limit how many run inline.
        ("inline", [(2, 1, 1.0), (3, 3, 1.0 / 3), (3, 4, 1.0 / 7)]),
        ("ray", [(2, 1, 1.0), (3, 4, 1.0 / 3), (3, 4, 1.0 / 7)]),
    ],
)
def test_the_first_of_each_net_has_a_gpu_and_tells_how_many_others_share_one(
    engine: Any, shares: list[tuple[int, int, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int | None, float]] = []

    def submit(name: str, tasks: Sequence[Task], work: Work, resources: Resources) -> Iterator[Answer]:
        """Every trial ends as it would on a GPU of which its net takes a known share."""
        calls.append((len(tasks), resources.jobs, resources.gpus))
        for task in tasks:
            share = {4: 0.3, 8: 0.12}[task.specs[0].net.width]
            yield Answer(ends=(TrialEnd(trial=task.trials[0], state=State.DONE),), memory_share=share)

    monkeypatch.setattr(module, "submit", submit)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    settings = resolve(study(), {"engine": engine, "device": "cuda", "gpus_per_trial": "auto"}, gpus=1)
    trials = plan(study())
    lines: list[str] = []
    queue, _ = queue_of(trials, settings.run)
    run_queue(tmp_path, queue, {trial.id: {} for trial in trials}, settings, lines.append)
    assert sorted(calls) == sorted(shares)
    said = "3 trials share GPUs, {} on each at once, by the memory that the first of their net took"
    assert sorted(lines) == [said.format(3), said.format(7)]
    # Where the caller's own number is smaller, it holds.
    calls.clear()
    two = replace(settings, run=settings.run.model_copy(update={"jobs": 2}))
    run_queue(tmp_path, queue, {trial.id: {} for trial in trials}, two, lines.append)
    assert [jobs for _, jobs, _ in calls] == [1, 2, 2]
