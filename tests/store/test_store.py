"""The store: what a crash leaves behind is read right, what is damaged is named and nothing else lost."""

import json
import math
import os
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from initlab import load
from initlab.bench.store import make
from initlab.plan.plan import plan
from initlab.store import files
from initlab.store.checkpoint import read_checkpoint, write_checkpoint
from initlab.store.columns import names
from initlab.store.files import StoreError, atomic, decode, encode, read_json, read_lines, write_json, write_study
from initlab.store.trial_folder import TrialFolder
from initlab.store.writer import AttemptWriter, Superseded
from initlab.study.study import Study, dump_study


def make_out(tmp_path: Path, seeds: int = 1) -> tuple[Path, list[Path]]:
    """An output folder as a launch prepares it; returns it with its trials' folders."""
    study = Study.model_validate({"name": "made", "grid": {"seed": list(range(seeds))}})
    folders = []
    for trial in plan(study):
        folder = tmp_path / files.TRIALS / trial.id
        folder.mkdir(parents=True)
        content = {"id": trial.id, "spec": trial.spec.model_dump(mode="json"), "source": {}, "first_attempt": 0}
        write_json(folder / files.TRIAL, content)
        write_json(folder / files.STATUS, {"state": "pending"})
        folders.append(folder)
    write_study(tmp_path / files.STUDY, dump_study(study))
    return tmp_path, folders


def attempt(
    folder: Path, steps: range, checkpoint: int | None = None, first_attempt: int = 0, slopes: bool = False
) -> AttemptWriter:
    """A writer that logged these steps, each with a probe of two layers, and kept a checkpoint at one of them.

    With `slopes` each even step has those of two PReLU layers.
    """
    if first_attempt:
        write_json(folder / files.TRIAL, {**read_json(folder / files.TRIAL), "first_attempt": first_attempt})
    writer = AttemptWriter(TrialFolder.at(folder), {"device": "cpu"})
    for step in steps:
        point = {"step": step, "epoch": step / 10}
        loss = math.nan if step == 0 else 1.0 / step
        writer.record("scalars", [{**point, "train_loss": loss, "train_error": 0.5, "val_error": 0.5}])
        layer = {
            "op": "conv",
            "calls": 1,
            "forward_var": 1e-57 * (step + 1),
            "decay_ratio": math.inf,
            "zero_fraction": math.nan,
        }
        writer.record("signals", [{**point, "layer": i, "name": f"conv{i}", **layer} for i in range(2)])
        if slopes and step % 2 == 0:
            learned = {"channels": 3, "mean": 0.1 + step, "std": 0.0, "min": math.nan, "max": 1e-9}
            writer.record("slopes", [{**point, "layer": i, "name": f"act{i}", **learned} for i in range(2)])
        if step == checkpoint:
            writer.checkpoint({"step": step, "net": {"w": torch.ones(2)}})
    return writer


def without_sums(folder: Path) -> None:
    """Leave status and result as an older initlab wrote them."""
    for path in filter(Path.exists, (folder / files.STATUS, folder / files.RESULT)):
        content = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("crc", "files")}
        path.write_text(json.dumps(content))


RESULT = {"train_examples": 320, "num_classes": 10, "chance": 0.9, "val_error": 0.5, "epoch": 2.0, "wall_s": 1.0}


def test_json_keeps_every_float_and_non_finite_ones_as_strings() -> None:
    row = {"a": math.nan, "b": -math.inf, "c": 0.1 + 0.2, "d": 1e-57, "e": [math.inf], "f": None}
    text = encode(row)
    json.loads(text, parse_constant=lambda token: pytest.fail(f"{token} is not JSON"))
    decoded = decode(text)
    assert math.isnan(decoded["a"])
    assert (decoded["b"], decoded["c"], decoded["d"], decoded["f"]) == (-math.inf, 0.1 + 0.2, 1e-57, None)


def test_an_atomic_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail() -> None:
        with atomic(path) as file:
            file.write(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_torn_last_line_is_dropped_and_any_other_bad_line_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "scalars.jsonl"
    path.write_bytes(b'{"step": 0}\n{"step": 1}\n{"st')
    assert read_lines(path, path.read_bytes()) == [{"step": 0}, {"step": 1}]
    path.write_bytes(b'{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(StoreError, match=r"scalars.jsonl: line 2 is not JSON"):
        read_lines(path, path.read_bytes())


def test_a_finished_trial_reads_back_exactly(tmp_path: Path) -> None:
    out, (folder,) = make_out(tmp_path)
    attempt(folder, range(0, 21, 5), checkpoint=20).close("done", RESULT, RESULT)
    results = load(out)
    assert list(results.scalars.columns) == names("scalars")
    assert list(results.signals.columns) == names("signals")
    assert results.scalars.step.tolist() == [0, 5, 10, 15, 20]
    assert results.signals.forward_var.tolist() == [1e-57 * (s + 1) for s in range(0, 21, 5) for _ in range(2)]
    assert results.signals.decay_ratio.eq(math.inf).all()
    assert results.signals.zero_fraction.isna().all()
    assert results.trials.state.tolist() == ["done"]
    assert results.verdicts.verdict.tolist() == ["slow"]
    assert results.problems == []
    assert not (folder / "attempt-000" / files.STREAM).exists()
    assert pq.read_schema(folder / "attempt-000" / files.SIGNALS).metadata[b"initlab.schema"] == b"1"


@pytest.mark.parametrize("finished", [False, True])
def test_a_killed_attempts_rows_count_up_to_the_step_resumed_from(tmp_path: Path, finished: bool) -> None:
    out, (folder,) = make_out(tmp_path)
    attempt(folder, range(0, 16), checkpoint=10)  # killed at 15: nothing closed
    second = attempt(folder, range(11, 14), checkpoint=12)  # killed at 13
    third = attempt(folder, range(13, 20))
    assert (second.resumed["step"], third.resumed["step"]) == (10, 12)
    if finished:
        third.close("done", RESULT, RESULT)
    results = load(out)
    assert results.scalars.step.tolist() == list(range(20))
    assert results.signals.step.tolist() == [step for step in range(20) for _ in range(2)]
    assert results.scalars.attempt.tolist() == [0] * 11 + [1] * 2 + [2] * 7
    assert results.trials.attempts.tolist() == [3]
    assert results.trials.state.tolist() == ["done" if finished else "interrupted"]


def test_slopes_of_a_killed_attempt_count_up_to_the_step_resumed_from(tmp_path: Path) -> None:
    out, (folder,) = make_out(tmp_path)
    attempt(folder, range(0, 16), checkpoint=10, slopes=True)  # killed at 15
    attempt(folder, range(11, 18), slopes=True)
    slopes = load(out).slopes
    assert list(slopes.columns) == names("slopes")
    assert slopes.step.tolist() == [step for step in range(0, 18, 2) for _ in range(2)]
    assert slopes.attempt.tolist() == [0] * 12 + [1] * 6
    assert slopes["mean"].tolist() == [0.1 + step for step in range(0, 18, 2) for _ in range(2)]
    assert slopes["min"].isna().all() and slopes["max"].eq(1e-9).all()
    assert (slopes.trial == folder.name).all() and slopes.name.tolist() == ["act0", "act1"] * 9


def test_a_torn_line_of_slopes_is_dropped_and_a_damaged_one_is_named_with_nothing_else_lost(tmp_path: Path) -> None:
    out, (folder,) = make_out(tmp_path)
    attempt(folder, range(0, 3), slopes=True)
    path = folder / "attempt-000" / "slopes.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert load(out).slopes.step.tolist() == [0, 0, 2]
    path.write_bytes(b"\x00" + whole)
    results = load(out)
    assert results.slopes.empty and list(results.slopes.columns) == names("slopes")
    assert len(results.problems) == 1 and "slopes.jsonl: line 1 is not JSON" in results.problems[0]
    assert results.scalars.step.tolist() == [0, 1, 2]


def test_a_trial_without_slopes_has_no_file_of_them(tmp_path: Path) -> None:
    out, (folder,) = make_out(tmp_path)
    attempt(folder, range(0, 3), checkpoint=2).close("done", RESULT, RESULT)
    assert not (folder / "attempt-000" / "slopes.jsonl").exists()
    assert load(out).slopes.empty and load(out).problems == []


def test_an_attempt_that_left_no_checkpoint_does_not_count(tmp_path: Path) -> None:
    out, (folder,) = make_out(tmp_path)
    attempt(folder, range(0, 8))
    attempt(folder, range(0, 4))
    assert load(out).scalars.step.tolist() == [0, 1, 2, 3]
    assert load(out).scalars.attempt.unique().tolist() == [1]


def test_a_forced_attempt_resumes_nothing_from_before_it(tmp_path: Path) -> None:
    out, (folder,) = make_out(tmp_path)
    attempt(folder, range(0, 10), checkpoint=9).close("done", RESULT, RESULT)
    for name in (files.RESULT, files.STATUS):
        (folder / name).unlink()
    assert attempt(folder, range(0, 3), first_attempt=1).resumed is None
    assert attempt(folder, range(0, 3), checkpoint=2, first_attempt=1).resumed is None
    assert attempt(folder, range(3, 5), first_attempt=1).resumed["step"] == 2
    assert load(out).scalars.step.tolist() == [0, 1, 2, 3, 4]


def test_a_thawed_writer_finds_a_later_attempt_and_writes_no_status_or_result(tmp_path: Path) -> None:
    _, (folder,) = make_out(tmp_path)
    zombie = attempt(folder, range(0, 6), checkpoint=5)
    attempt(folder, range(6, 9))
    with pytest.raises(Superseded):
        zombie.checkpoint({"step": 6})
    with pytest.raises(Superseded):
        zombie.close("done", RESULT, RESULT)
    assert not (folder / files.RESULT).exists()
    status = read_json(folder / files.STATUS)
    assert (status["state"], status["attempt"]) == ("running", "attempt-001"), "as the later attempt left it"


@pytest.fixture
def disk_events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is synced or renamed from now on, in order, by inode, which a file keeps when it is renamed."""
    events: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor: int) -> None:
        fsync(descriptor)
        events.append(("sync", os.fstat(descriptor).st_ino))

    def recorded_replace(source: Path, target: Path) -> None:
        replace(source, target)
        events.append(("rename", target.stat().st_ino))

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    return events


def test_a_file_is_on_the_disk_before_it_is_renamed_and_its_folder_after(
    tmp_path: Path, disk_events: list[tuple[str, int]]
) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    file, folder = path.stat().st_ino, tmp_path.stat().st_ino
    assert disk_events == [("sync", file), ("rename", file), ("sync", folder)]


def test_all_rows_are_on_the_disk_before_the_checkpoint_is_renamed_into_place(
    tmp_path: Path, disk_events: list[tuple[str, int]]
) -> None:
    _, (folder,) = make_out(tmp_path)
    writer = attempt(folder, range(0, 4), slopes=True)
    writer.record("running", [{"step": 3, "epoch": 0.3, "layer": 0, "name": "conv0"}])
    disk_events.clear()
    writer.checkpoint({"step": 3, "net": {"w": torch.ones(2)}})
    inodes = {path.name: path.stat().st_ino for path in writer.folder.iterdir()}
    before = disk_events[: disk_events.index(("rename", inodes["checkpoint.pt"]))]
    for name in ("scalars.jsonl", "slopes.jsonl", "running.jsonl", "signals.arrows"):
        assert ("sync", inodes[name]) in before, name


def test_the_result_is_renamed_into_place_last_of_all(tmp_path: Path, disk_events: list[tuple[str, int]]) -> None:
    _, (folder,) = make_out(tmp_path)
    attempt(folder, range(0, 4), checkpoint=3).close("done", RESULT, RESULT)
    renamed = [inode for event, inode in disk_events if event == "rename"]
    paths = [folder / "attempt-000/signals.parquet", folder / "status.json", folder / "result.json"]
    assert renamed[-3:] == [path.stat().st_ino for path in paths]


def test_a_diverged_trials_rows_are_on_the_disk_before_its_result(
    tmp_path: Path, disk_events: list[tuple[str, int]]
) -> None:
    _, (folder,) = make_out(tmp_path)
    writer = attempt(folder, range(0, 3), slopes=True)
    inodes = {path.name: path.stat().st_ino for path in writer.folder.iterdir()}
    disk_events.clear()
    writer.close("diverged", RESULT, RESULT)
    before = disk_events[: disk_events.index(("rename", (folder / files.RESULT).stat().st_ino))]
    for inode in (inodes["scalars.jsonl"], inodes["slopes.jsonl"], writer.folder.stat().st_ino):
        assert ("sync", inode) in before


def test_two_writers_never_share_an_attempt(tmp_path: Path) -> None:
    _, (folder,) = make_out(tmp_path)
    names = [AttemptWriter(TrialFolder.at(folder), {}).folder.name for _ in range(3)]
    assert names == ["attempt-000", "attempt-001", "attempt-002"]


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.93])
def test_a_live_stream_cut_anywhere_gives_its_whole_probes(tmp_path: Path, cut: float) -> None:
    out, (folder,) = make_out(tmp_path)
    attempt(folder, range(0, 10))
    stream = folder / "attempt-000" / files.STREAM
    content = stream.read_bytes()
    stream.write_bytes(content[: int(len(content) * cut)])
    results = load(out)
    steps = results.signals.step.tolist()
    assert steps == sorted(steps)
    assert 0 <= len(steps) < 20
    assert len(steps) % 2 == 0
    assert results.problems == []
    if cut > 0.9:
        assert len(steps) >= 16


def test_a_truncated_parquet_file_is_named_and_loses_its_own_signals_alone(tmp_path: Path) -> None:
    out, (first, second) = make_out(tmp_path, seeds=2)
    for folder in (first, second):
        attempt(folder, range(0, 4), checkpoint=3).close("done", RESULT, RESULT)
    part = first / "attempt-000" / files.SIGNALS
    part.write_bytes(part.read_bytes()[:-30])
    results = load(out)
    assert results.signals.trial.unique().tolist() == [second.name]
    assert len(results.scalars) == 8
    assert results.trials.state.tolist() == ["interrupted", "done"]
    lost, left_out = results.problems
    assert lost == f"{part}: damaged, though the trial has its result; the next run does it again"
    assert left_out.startswith(f"{part}: damaged (got") and len(left_out.splitlines()) == 1


def test_a_damaged_checkpoint_is_noted_and_an_earlier_one_taken(tmp_path: Path) -> None:
    _, (folder,) = make_out(tmp_path)
    attempt(folder, range(0, 6), checkpoint=5)
    attempt(folder, range(6, 9), checkpoint=8)
    path = folder / "attempt-001" / files.CHECKPOINT
    path.write_bytes(path.read_bytes()[:100])
    third = AttemptWriter(TrialFolder.at(folder), {})
    assert third.resumed["step"] == 5
    (note,) = read_json(third.folder / files.ATTEMPT)["notes"]
    assert "attempt-001/checkpoint.pt: damaged checkpoint" in note


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"checkpoint_version": 99, "step": 3}, path)
    with pytest.raises(StoreError, match=r"checkpoint of another version \(got 99\); this initlab reads 1"):
        read_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(StoreError, match=r"another version \(got None\)"):
        read_checkpoint(path)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"checkpoint_version": 1, "step": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(StoreError, match="damaged checkpoint"):
        read_checkpoint(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "ran").exists()


def test_checkpoints_keep_tensors_exactly(tmp_path: Path) -> None:
    tensor = torch.randn(5, dtype=torch.float64)
    write_checkpoint(tmp_path / "c.pt", {"step": 7, "net": {"w": tensor}, "last": {"val_error": math.nan}})
    state = read_checkpoint(tmp_path / "c.pt")
    assert torch.equal(state["net"]["w"], tensor)
    assert math.isnan(state["last"]["val_error"])


@pytest.mark.parametrize("name", [files.TRIAL, files.RESULT])
def test_a_half_written_or_newer_json_file_is_named_and_the_other_trials_read(tmp_path: Path, name: str) -> None:
    out, (first, second) = make_out(tmp_path, seeds=2)
    for folder in (first, second):
        attempt(folder, range(0, 4), checkpoint=3).close("done", RESULT, RESULT)
    content = (first / name).read_text()
    (first / name).write_text(content[: len(content) // 2])
    results = load(out)
    assert results.trials.trial.tolist() == [second.name]
    assert results.problems[0].startswith(f"{first / name}: not readable as JSON")
    (first / name).write_text(content.replace('"schema": 1', '"schema": 2'))
    assert "unknown schema (got 2); allowed: up to 1; update initlab" in load(out).problems[0]


def test_a_parquet_file_of_a_newer_schema_is_refused_by_name(tmp_path: Path) -> None:
    out, (folder,) = make_out(tmp_path)
    attempt(folder, range(0, 4), checkpoint=3).close("done", RESULT, RESULT)
    path = folder / "attempt-000" / files.SIGNALS
    pq.write_table(pq.read_table(path).replace_schema_metadata({"initlab.schema": "9"}), path)
    without_sums(folder)
    results = load(out)
    assert results.signals.empty
    assert "unknown schema (got 9)" in results.problems[0]


def test_missing_and_strange_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such output folder"):
        load(tmp_path / "absent")
    with pytest.raises(StoreError, match=r"not an output folder \(no study.yaml in it\)"):
        load(tmp_path)
    (tmp_path / files.STUDY).write_text("name: [")
    with pytest.raises(StoreError, match="not a study that this initlab reads") as caught:
        load(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_an_empty_study_folder_gives_empty_frames_with_their_columns(tmp_path: Path) -> None:
    out, _ = make_out(tmp_path)
    results = load(out)
    assert results.trials.state.tolist() == ["pending"]
    for frame, columns in ((results.scalars, names("scalars")), (results.signals, names("signals"))):
        assert frame.empty
        assert list(frame.columns) == columns
    assert results.verdicts.verdict.isna().all()


def test_signals_written_row_by_row_have_the_frames_types(tmp_path: Path) -> None:
    out, (folder,) = make_out(tmp_path)
    attempt(folder, range(0, 2), checkpoint=1).close("done", RESULT, RESULT)
    signals = load(out).signals
    assert signals.forward_var.dtype == "float64"
    assert pd.api.types.is_integer_dtype(signals.layer)
    assert pa.types.is_float64(pq.read_schema(folder / "attempt-000" / files.SIGNALS).field("backward_var").type)


def test_a_flipped_bit_anywhere_in_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    write_checkpoint(path, {"step": 7, "net": {"w": torch.randn(64)}})
    content = path.read_bytes()
    noticed = 0
    places = range(40, len(content) - 40, 97)
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        try:
            state = read_checkpoint(path)
        except StoreError:
            noticed += 1
        else:  # a byte of padding or of a header that nothing reads
            path.write_bytes(content)
            assert torch.equal(state["net"]["w"], read_checkpoint(path)["net"]["w"])
    assert noticed > len(places) / 4


def test_attempts_are_ordered_by_number_beyond_a_thousand(tmp_path: Path) -> None:
    for name in ("attempt-999", "attempt-1000", "attempt-002", "attempt-1", "attempt-003.bak"):
        (tmp_path / name).mkdir()
    folder = TrialFolder.at(tmp_path)
    assert [path.name for path in folder.attempts()] == ["attempt-002", "attempt-999", "attempt-1000"]
    assert folder.next_attempt() == 1001


def test_text_that_reads_as_nan_stays_text_in_a_spec(tmp_path: Path) -> None:
    write_json(tmp_path / "t.json", {"spec": {"fill": "NaN"}, "loss": math.nan})
    assert read_json(tmp_path / "t.json")["spec"] == {"fill": "NaN"}
    assert math.isnan(read_json(tmp_path / "t.json", figures=True)["loss"])


def test_a_chain_of_resumptions_is_followed_past_attempt_999(tmp_path: Path) -> None:
    out, (folder,) = make_out(tmp_path)
    (folder / "attempt-998").mkdir()
    attempt(folder, range(0, 6), checkpoint=4)
    attempt(folder, range(5, 8))
    (folder / "attempt-1001").mkdir()  # claimed, and killed before it described itself
    assert load(out).scalars.step.tolist() == list(range(8))
    assert load(out).scalars.attempt.tolist() == [999] * 5 + [1000] * 3


def test_rows_are_read_though_the_working_folder_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "out", 1)
    monkeypatch.chdir(tmp_path)
    results = load("out")
    monkeypatch.chdir("/")
    assert len(results.scalars) and len(results.signals) == 101 * 30 and not results.problems


@pytest.mark.parametrize(
    ("path", "named"), [("out/.report.html.798", "out/report.html"), ("out/a.b.5", "out/a.b.5"), (".lease", ".lease")]
)
def test_what_cannot_be_written_is_named_as_the_user_knows_it(path: str, named: str) -> None:
    words = rf"^{re.escape(named)}: cannot be written \(Read-only file system\);"
    with pytest.raises(StoreError, match=words), files.writable(Path("out")):
        raise OSError(30, "Read-only file system", path)
