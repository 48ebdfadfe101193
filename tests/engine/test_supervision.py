"""Workers that hang, crash, print and leave things behind: each task is answered, and nothing spreads."""

import os
import threading
import time
from pathlib import Path

import pytest

from initlab.engine import task_queue
from initlab.engine.log_file import KEPT, LogFile
from initlab.engine.task import Answer, State, cause_of
from tests.engine.tasks import submitted, task


def ends(answers: list[Answer]) -> dict[str, str]:
    return {end.trial: end.state.value for answer in answers for end in answer.ends}


def alive(pid: int) -> bool:
    """Whether a process is at work, not only waited for by nobody."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_that_outlives_its_trial_holds_nothing_up_and_is_ended(tmp_path: Path) -> None:
    started = time.monotonic()
    tasks = [task("t-answers", str(tmp_path)), task("t-dies", str(tmp_path))]
    answers = submitted("inline", tasks, "leaves_a_child", jobs=2, isolate=True)
    assert ends(answers) == {"t-answers": "done", "t-dies": "failed"}
    assert time.monotonic() - started < 60
    pids = [int((tmp_path / name).read_text()) for name in ("t-answers", "t-dies")]
    until = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, pids))


@pytest.mark.parametrize(
    ("trial", "words"), [("t", "made no step"), ("t-stopped", "made no step"), ("t-first", "first")]
)
def test_a_trial_that_takes_no_step_is_ended_with_its_stacks(trial: str, words: str) -> None:
    (answer,) = submitted("inline", [task(trial)], "hangs", jobs=2, timeout_s=0.2)
    (end,) = answer.ends
    assert end.state is State.FAILED and words in (end.error or "")
    assert "in hangs" in end.traceback, "of the main thread, whatever it was at"


def test_a_trial_may_take_longer_than_the_timeout_as_long_as_its_steps_do_not() -> None:
    assert ends(submitted("inline", [task("t")], "slow_steps", jobs=2, timeout_s=1.0)) == {"t": "done"}


@pytest.mark.parametrize(
    ("function", "words"),
    [("crashes", "its process died with signal 11"), ("leaves", "its process died with exit code 0")],
)
def test_a_process_that_takes_itself_down_is_not_tried_again(function: str, words: str, tmp_path: Path) -> None:
    answers = submitted("inline", [task("t", str(tmp_path))], function, jobs=1, isolate=True)
    assert (tmp_path / "t").read_text() == "x"
    assert answers[0].died and answers[0].ends[0].error == words


def test_exit_in_the_launching_process_is_an_exception(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"os\._exit\(0\)"):
        submitted("inline", [task("t", str(tmp_path))], "leaves", jobs=1)
    assert os._exit.__module__ == "posix"


def test_each_task_has_a_process_of_its_own_where_asked_for() -> None:
    for isolate in (True, False):
        answers = submitted("inline", [task(f"t{i}") for i in range(3)], "says_its_process", jobs=2, isolate=isolate)
        processes = {answer.ends[0].error for answer in answers}
        assert len(processes) == 3 if isolate else len(processes) <= 2


@pytest.mark.parametrize("jobs", [1, 2])
def test_after_three_failures_alike_no_more_are_begun(jobs: int, tmp_path: Path) -> None:
    tasks = [task(f"t{i}", str(tmp_path)) for i in range(20)]
    answers = submitted("inline", tasks, "fails_alike", jobs=jobs, max_failures=3)
    begun = len(list(tmp_path.glob("called-*")))
    assert 3 <= begun <= 3 + (jobs - 1)
    states = list(ends(answers).values())
    assert (states.count("failed"), states.count("pending")) == (begun, 20 - begun)
    (note,) = [answer.note for answer in answers if answer.note]
    assert "3 trials failed alike and none succeeded: no more are begun (17 to go)" in note or jobs == 2


def test_one_success_or_another_cause_lets_the_failures_go_on(tmp_path: Path) -> None:
    tasks = [task(name, str(tmp_path)) for name in ("t1", "t2", "t-good", *(f"t{i}" for i in range(3, 9)))]
    answers = submitted("inline", tasks, "fails_alike", jobs=1, max_failures=3)
    assert sorted(ends(answers).values()) == ["done", *["failed"] * 8]


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("ValueError: seed 3", "ValueError: seed 17", True),
        ("at 0x7f3a: t0123456789ab", "at 0x1: tba9876543210", True),
        ("ValueError: first\nmore", "ValueError: first\nother", True),
        ("ValueError: x", "TypeError: x", False),
    ],
)
def test_failures_are_alike_but_for_numbers_and_ids(one: str, other: str, alike: bool) -> None:
    assert (cause_of(one) == cause_of(other)) is alike


def test_what_trials_print_goes_to_a_bounded_log_each(tmp_path: Path) -> None:
    import resource

    tasks = [task(f"t{i}", str(tmp_path)) for i in range(3)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert set(ends(submitted("inline", tasks, "prints_much", jobs=2)).values()) == {"done"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000, "KiB, of 90 MB printed"
    for i in range(3):
        text = (tmp_path / f"t{i}.txt").read_bytes()
        assert len(text) <= 2 * KEPT + 100_000
        assert text.endswith(f"last of t{i}\n".encode())


def test_a_log_keeps_its_end(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log.txt")
    assert not log.path.exists()
    for i in range(40):
        log.write(f"{i:05d}".encode() * 10_000)
        assert log.path.stat().st_size <= 2 * KEPT
    assert log.path.read_bytes().endswith(b"00039" * 10_000)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_full_disk_is_waited_for(jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_queue, "ROOM_CHECK_S", 0.2)
    full = tmp_path / "full"
    full.touch()
    checks: list[bool] = []
    monkeypatch.setattr(task_queue, "writes", lambda folder: checks.append(not full.exists()) or checks[-1])
    threading.Timer(4.0, full.unlink).start()
    answers = submitted("inline", [task(f"t{i}", str(tmp_path)) for i in range(3)], "finds_no_room", jobs=jobs)
    assert set(ends(answers).values()) == {"done"} and len(ends(answers)) == 3
    assert False in checks and checks[-1]
    notes = [answer.note for answer in answers if answer.note]
    assert len(notes) == 1 and f"no room on the disk of {tmp_path}: paused" in notes[0]


def test_room_is_found_by_writing(tmp_path: Path) -> None:
    assert task_queue.writes(tmp_path) and not list(tmp_path.iterdir())
    assert not task_queue.writes(tmp_path / "absent")


def test_a_stop_leaves_the_rest_pending(tmp_path: Path) -> None:
    tasks = [task(f"t{i}", "interrupted") for i in range(5)]
    answers = submitted("inline", tasks, "answers_its_out", jobs=1)
    assert list(ends(answers).values()) == ["interrupted", *["pending"] * 4]
