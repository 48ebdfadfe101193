"""The inline engine: every task is answered once, whatever becomes of its process."""

from pathlib import Path

import pytest

from initlab.engine.task import Answer, State, Task, TrialEnd
from tests.engine.tasks import submitted, task


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_task_is_answered_once(jobs: int) -> None:
    states = ["done", "failed", "done", "diverged", "interrupted"]
    answers = submitted(
        "inline", [task(f"t{i}", state) for i, state in enumerate(states)], "answers_its_out", jobs=jobs
    )
    ends = {end.trial: end.state for answer in answers for end in answer.ends}
    assert ends == {f"t{i}": State(state) for i, state in enumerate(states)}
    assert len(answers) == 5 and not any(answer.died for answer in answers)


def test_a_task_whose_process_dies_is_tried_three_times_and_the_others_are_answered(tmp_path: Path) -> None:
    tasks = [task("t0", str(tmp_path)), task("t1", str(tmp_path))]
    answers = submitted("inline", tasks, "counts_and_dies", jobs=2)
    assert [(tmp_path / f"t{i}").read_text() for i in (0, 1)] == ["xxx", "xxx"]
    assert [(answer.died, answer.ends[0].state) for answer in answers] == [(True, "failed")] * 2
    assert answers[0].ends[0].error == "its process died 3 times, last with signal 9"


def test_no_tasks_give_no_answers() -> None:
    assert submitted("inline", [], "answers_its_out", jobs=2) == []


def test_tasks_and_answers_are_the_same_after_a_pipe() -> None:
    first = task("t0", "out")
    assert Task.model_validate_json(first.model_dump_json()) == first
    ends = (TrialEnd(trial="t0", state="done"), TrialEnd(trial="t1", state="failed", error="é | 'x'"))
    answer = Answer(ends=ends, died=True, alone_because="none")
    assert Answer.model_validate_json(answer.model_dump_json()) == answer


def test_the_states_that_ended_finished_or_were_asked_to_stop() -> None:
    table = {
        state.value: (state.ended, state.finished, state.stop_requested)
        for state in State
        if state is not State.SUPERSEDED
    }
    assert table == {
        "pending": (False, False, True),
        "running": (False, False, False),
        "done": (True, True, False),
        "diverged": (True, True, False),
        "failed": (True, False, False),
        "stopped": (True, False, False),
        "interrupted": (True, False, True),
    }
