"""The page of `initlab status` and the rows of `initlab tail`, against folders written by hand."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from initlab.engine.lease import lease
from initlab.errors import one_line
from initlab.plan.plan import plan
from initlab.report.status_page import status_page
from initlab.report.tail import tail_lines
from initlab.store.files import StoreError, write_json
from initlab.store.trial_folder import TrialFolder
from initlab.study.study import dump_study, load_study

Tiny = Callable[..., Path]


def folder_of(tiny: Tiny, out: Path, statuses: list[dict[str, Any]], **changes: Any) -> list[str]:
    """An output folder whose first trials stand so; the ids of all."""
    study = load_study(tiny(**changes))
    trials = plan(study)
    out.mkdir()
    (out / "study.yaml").write_text(dump_study(study))
    for trial, status in zip(trials, statuses, strict=False):
        folder = TrialFolder(out, trial.id)
        folder.describe(trial.spec, {})
        write_json(folder.status_file, status)
        if status["state"] == "done":
            write_json(folder.result_file, status)
    return [trial.id for trial in trials]


def test_the_page_counts_states_groups_causes_and_says_what_to_type(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "a"
    failed = [{"state": "failed", "error": error} for error in ("E: at 0x7f12, step 3", "E: at 0x9a, step 41", "F: b")]
    running = {"state": "running", "epoch": 1.5, "epochs": 4.0, "val_error": 0.25}
    done = {"state": "done"}
    ids = folder_of(tiny, out, [*failed, running, done, done, done], grid={"seed": list(range(10))})
    now = time.time()
    os.utime(TrialFolder(out, ids[3]).status_file, (now - 240, now - 240))
    # The last of three finished now, one each 30 minutes.
    for index, age in ((4, 3600), (5, 1800), (6, 0)):
        os.utime(TrialFolder(out, ids[index]).result_file, (now - age, now - age))
    again = f"initlab run {out}/study.yaml --out {out} --only"
    with lease(out):
        lines = list(status_page(out))
    assert lines[0] == f"{out}: 10 trials of tiny: 3 pending, 1 running, 3 done, 3 failed"
    assert lines[1:7] == [
        f"  2 failed, the first {ids[0]}: E: at 0x7f12, step 3",
        f"    traceback: {out}/trials/{ids[0]}/status.json",
        f"    again: {again} {ids[0]}",
        f"  1 failed, the first {ids[2]}: F: b",
        f"    traceback: {out}/trials/{ids[2]}/status.json",
        f"    again: {again} {ids[2]}",
    ]
    assert lines[7] == f"  {ids[3]} plain-7 he seed 3: epoch 1.5 of 4, val_error 0.250, heard of 4.0 min ago"
    assert lines[8].startswith("2 trials an hour; the other 4 take 2.0 h, to 20") and len(lines) == 9
    # Without a launch nothing runs.
    ended = list(status_page(out, every_trial=True))
    assert "1 interrupted" in ended[0] and "running" not in ended[0]
    assert ended[7] == f"no launch is at work here; next: initlab run {out}/study.yaml --out {out}"
    assert [line.split()[0] for line in ended[8:]] == ids


def test_a_damaged_status_is_named_and_nothing_else_is_lost(tiny: Tiny, tmp_path: Path) -> None:
    ids = folder_of(tiny, tmp_path / "a", [{"state": "done"}, {"state": "x"}], grid={"seed": [0, 1, 2]})
    TrialFolder(tmp_path / "a", ids[2]).path.mkdir()
    TrialFolder(tmp_path / "a", ids[2]).status_file.write_bytes(b"\xff{")
    lines = list(status_page(tmp_path / "a"))
    assert lines[0].endswith("1 done, 2 interrupted")
    assert len(lines) == 4 and all(ids[index] in "".join(lines[2:]) or "'x'" in "".join(lines[2:]) for index in (1, 2))


def test_what_user_code_says_stays_in_one_line() -> None:
    assert one_line("a\x1b[2Jb\nc\td", 50) == "a\\x1b[2Jb c d"
    assert one_line("x" * 10**7, 20) == "x" * 19 + "…"
    assert one_line("größer – 漢", 20) == "größer – 漢"


def test_ten_thousand_trials_take_two_seconds(tiny: Tiny, tmp_path: Path) -> None:
    error = {"state": "failed", "error": "RuntimeError: no"}
    statuses = [error if index % 2 else {"state": "done"} for index in range(2_000)]
    folder_of(tiny, tmp_path / "a", statuses, grid={"seed": list(range(10_000))})
    start = time.process_time()
    lines = list(status_page(tmp_path / "a"))
    # 2 s for 10,000 on a free machine; this one has other work, and 2,000 of them have files.
    assert time.process_time() - start < 4
    assert lines[0].endswith("10000 trials of tiny: 8000 pending, 1000 done, 1000 failed") and len(lines) == 5


def test_tail_shows_the_last_rows_of_a_trial_by_its_beginning(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "a"
    ids = folder_of(tiny, out, [{"state": "done"}, {"state": "interrupted"}], grid={"seed": [0, 1]})
    attempt = TrialFolder(out, ids[1]).path / "attempt-000"
    attempt.mkdir()
    rows = [{"step": n, "epoch": n / 8, "train_loss": 2.5, "val_error": None if n % 2 else 0.5} for n in range(5)]
    (attempt / "scalars.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"torn')
    lines = list(tail_lines(out, ids[1][:6], last=2))
    assert lines[0] == f"{ids[1]}: interrupted"
    assert [line.split() for line in lines[2:]] == [
        ["3", "0.38", "2.5000", "–", "–", "–"],
        ["4", "0.50", "2.5000", "–", "0.500", "–"],
    ]
    os.utime(TrialFolder(out, ids[0]).status_file, (0, 0))
    assert next(tail_lines(out)) == f"{ids[1]}: interrupted"
    for wrong in ("tx", "t"):
        with pytest.raises(StoreError, match=r"give an id that `initlab status --trials` lists"):
            list(tail_lines(out, wrong))
