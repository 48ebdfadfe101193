"""Whatever befalls a file of a store, `load` gives the same rows or names the trial, and reads all the others."""

import math
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from initlab import load
from initlab.store import files
from initlab.store.files import StoreError, read_json, write_json
from initlab.store.results import Results
from initlab.store.rows import ROWS
from initlab.store.trial_folder import TrialFolder
from initlab.store.writer import AttemptWriter
from tests.store.test_store import RESULT, attempt, make_out

MOMENTS = {"op": "conv", "samples": 2, "forward_var": 0.5}


def publish(writer: AttemptWriter) -> None:
    """Status of a running attempt, whenever the last one was written."""
    writer.last_status = -math.inf
    writer.progress({"step": 1})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trials that were resumed and done, diverged, interrupted, killed, resumed and killed; and one not begun."""
    out, (done, diverged, interrupted, killed, twice, _) = make_out(tmp_path_factory.mktemp("damage") / "out", seeds=6)
    publish(attempt(done, range(0, 6), checkpoint=4, slopes=True))
    second = attempt(done, range(5, 9), checkpoint=8, slopes=True)
    second.record("running", [{"step": 8, "epoch": 0.8, "layer": 0, "name": "conv0", **MOMENTS}])
    second.close("done", RESULT, RESULT)
    lost = {**RESULT, "train_loss": math.nan}
    attempt(diverged, range(0, 3)).close("diverged", lost, lost)
    attempt(interrupted, range(0, 4), checkpoint=3, slopes=True).close("interrupted", {"step": 3})
    publish(attempt(killed, range(0, 5), slopes=True))
    publish(attempt(twice, range(0, 6), checkpoint=3))
    publish(attempt(twice, range(4, 7)))
    return out


Seen = dict[str, tuple[object, ...]]


def seen(results: Results) -> Seen:
    """All rows of each trial, exactly, and its verdict where it has its result."""
    frames = {name: dict(iter(getattr(results, name).groupby("trial"))) for name in ROWS}
    verdicts = results.verdicts.set_index("trial").reason
    return {
        trial.id: tuple(frames[name][trial.id].to_csv(index=False) if trial.id in frames[name] else "" for name in ROWS)
        + ((verdicts[trial.id],) if trial.result else ())
        for trial in results.stored
    }


def check_same_or_named(out: Path, before: Seen, what: str) -> int:
    """How many trials are named; fails where one is neither named nor the same as before."""
    try:
        results = load(out)
    except StoreError as error:
        assert out.name in str(error) and len(str(error).splitlines()) == 1, what
        return 1
    after, problems = seen(results), results.problems
    if any(files.STUDY in problem for problem in problems):
        return 1
    assert all(len(problem.splitlines()) == 1 for problem in problems), what
    for trial, rows in before.items():
        named = any(trial in problem for problem in problems)
        # A result that is gone without a trace is as one that was not written yet; its rows are there.
        assert named or after[trial][: len(ROWS)] == rows[: len(ROWS)], f"{what}: {trial} has other rows; {problems}"
        assert named or len(after[trial]) == len(ROWS) or after[trial] == rows, f"{what}: {trial} has another verdict"
    return sum(any(trial in problem for problem in problems) for trial in before)


Damage = Callable[[Path, Path, random.Random], None]


def flip(path: Path, other: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, other: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size + 1))


def cut_middle(path: Path, other: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    start, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    path.write_bytes(content[:start] + content[end:])


def overwrite(path: Path, other: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    start = rng.randrange(len(content) + 1)
    path.write_bytes(content[:start] + rng.randbytes(min(512, len(content) - start)) + content[start + 512 :])


def append(path: Path, other: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randrange(200)))


def empty(path: Path, other: Path, rng: random.Random) -> None:
    path.write_bytes(b"")


def delete(path: Path, other: Path, rng: random.Random) -> None:
    path.unlink()


def become_folder(path: Path, other: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def become_dangling_link(path: Path, other: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def become_link(path: Path, other: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to(other)


def copy(path: Path, other: Path, rng: random.Random) -> None:
    shutil.copyfile(other, path)


def swap(path: Path, other: Path, rng: random.Random) -> None:
    first, second = path.read_bytes(), other.read_bytes()
    path.write_bytes(second)
    other.write_bytes(first)


KINDS: list[Damage] = [flip, flip, flip, truncate, cut_middle, overwrite, append, empty, delete, become_folder]
KINDS += [become_dangling_link, become_link, copy, swap]


def damaged(out: Path, rng: random.Random) -> Iterator[str]:
    """A file of the store damaged in some way, while the generator waits; all is put back afterwards."""
    paths = sorted(path for path in out.rglob("*") if path.is_file() and path.name != files.CHECKPOINT)
    path, kind = rng.choice(paths), rng.choice(KINDS)
    other = rng.choice([p for p in paths if p.name == path.name and p != path] or [p for p in paths if p != path])
    before = {place: place.read_bytes() for place in {path, other}}
    kind(path, other, rng)
    yield f"{kind.__name__} {path.relative_to(out)} ({other.relative_to(out)})"
    for place, content in before.items():
        if place.is_dir() and not place.is_symlink():
            place.rmdir()
        else:
            place.unlink(missing_ok=True)
        place.write_bytes(content)


def hammer(out: Path, seeds: range) -> None:
    before = seen(load(out))
    named = 0
    for seed in seeds:
        for what in damaged(out, random.Random(seed)):
            named += bool(check_same_or_named(out, before, f"seed {seed}: {what}"))
    assert check_same_or_named(out, before, "all put back") == 0
    assert named > len(seeds) / 3, "damage that nothing notices does not test much"


def test_damage_to_any_file_is_harmless_or_named(store: Path) -> None:
    hammer(store, range(100))


def test_damage_to_an_export_is_harmless_or_named(store: Path, tmp_path: Path) -> None:
    load(store).export("parquet", tmp_path / "small")
    # The whole of a frame lies in one file: what is named is the file.
    before = load(tmp_path / "small")
    frames = {name: getattr(before, name) for name in ROWS}
    for seed in range(60):
        for what in damaged(tmp_path / "small", random.Random(seed)):
            try:
                results = load(tmp_path / "small")
            except StoreError as error:
                assert len(str(error).splitlines()) == 1, what
                continue
            for name in ROWS:
                rows = getattr(results, name)
                if not any(f"{name}.parquet" in problem for problem in results.problems):
                    pd.testing.assert_frame_equal(rows, frames[name], check_exact=True, obj=what)


@pytest.mark.slow
def test_thousands_of_damages_are_harmless_or_named(store: Path) -> None:
    hammer(store, range(1000, 6000))


@pytest.mark.parametrize("place", ["attempt-000", "attempt-001"])
def test_a_deleted_attempt_is_named_and_its_trial_is_not_done(store: Path, tmp_path: Path, place: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(store, out)
    done = load(store).trials.trial[0]
    shutil.rmtree(out / files.TRIALS / done / place)
    results = load(out)
    assert any(f"{done}/{place}" in problem for problem in results.problems)
    assert done not in results.trials.trial[results.trials.state == "done"].tolist()
    assert not TrialFolder(out, done).finished
    assert len(results.stored) >= 5


def test_a_finished_trial_with_empty_rows_is_not_done_and_does_not_resume_over_them(tmp_path: Path) -> None:
    out, (folder,) = make_out(tmp_path)
    attempt(folder, range(0, 4), checkpoint=3).close("done", RESULT, RESULT)
    assert TrialFolder.at(folder).finished
    (folder / "attempt-000" / files.SCALARS).write_bytes(b"")
    assert not TrialFolder.at(folder).finished
    again = attempt(folder, range(0, 4))
    assert again.resumed is None and "scalars.jsonl: damaged (got 0 bytes" in again.notes[0]
    again.close("done", RESULT, RESULT)
    assert load(out).scalars.step.tolist() == [0, 1, 2, 3] and TrialFolder.at(folder).finished


def test_a_checkpoint_of_another_trial_is_not_resumed(tmp_path: Path) -> None:
    _, (mine, theirs) = make_out(tmp_path, seeds=2)
    for folder in (mine, theirs):
        attempt(folder, range(0, 4), checkpoint=3)
    shutil.copy(theirs / "attempt-000" / files.CHECKPOINT, mine / "attempt-000" / files.CHECKPOINT)
    writer = attempt(mine, range(0, 2))
    assert writer.resumed is None
    assert f"checkpoint.pt: of another trial (got {theirs.name!r})" in writer.notes[0]


ODD = [
    (files.RESULT, {"chance": None}, "chance: "),
    (files.RESULT, {"train_loss": "low"}, "train_loss: "),
    (files.RESULT, {"num_classes": "10"}, "num_classes: "),
    (files.RESULT, {"files": ["x"]}, "files: "),
    (files.RESULT, {"files": {"../../x": [1, 2]}}, "files: "),
    (files.STATUS, {"state": "happy"}, "state: "),
    (files.STATUS, {"state": 5}, "state: "),
    (files.STATUS, {"attempt": "../../../etc"}, "attempt: "),
    (files.TRIAL, {"spec": {"seed": 77}}, "not the spec that its id stands for"),
    (files.TRIAL, {"first_attempt": "x"}, "first_attempt"),
    ("attempt-000/attempt.json", {"resumed_from": "x"}, "resumed_from: "),
    ("attempt-000/attempt.json", {"resumed_from": "attempt-000"}, "absent, though"),
    ("attempt-000/attempt.json", {"environment": None}, "environment: "),
    ("attempt-000/attempt.json", {"notes": 3}, "notes: "),
]


@pytest.mark.parametrize(("name", "change", "words"), ODD)
def test_one_odd_value_names_its_trial_in_one_line_and_the_others_are_read(
    tmp_path: Path, name: str, change: dict, words: str
) -> None:
    out, folders = make_out(tmp_path, seeds=2)
    for folder in folders:
        attempt(folder, range(0, 4), checkpoint=3).close("done", RESULT, RESULT)
    path = folders[0] / name
    # With a right checksum, as if an initlab had written it so.
    write_json(path, {**read_json(path), **change})
    results = load(out)
    for frame in ("trials", "verdicts", *ROWS, "forecasts"):
        getattr(results, frame)
    assert folders[1].name in set(results.trials.trial) and len(results.scalars) >= 4
    assert any(folders[0].name in problem and words in problem for problem in results.problems), results.problems
    assert all(len(problem.splitlines()) == 1 for problem in results.problems)


@pytest.mark.parametrize(
    "line",
    ['{"step": 0, "epoch": "low"}', '{"step": null}', '{"step": 1.5}', '{"step": 99999999999999999999}', "[1]", "{"],
)
def test_an_odd_row_names_its_trial(tmp_path: Path, line: str) -> None:
    out, folders = make_out(tmp_path, seeds=2)
    for folder in folders:
        attempt(folder, range(0, 3))
    with open(folders[0] / "attempt-000" / files.SCALARS, "a") as file:
        file.write(line + "\n")
    results = load(out)
    assert results.scalars.trial.unique().tolist() == [folders[1].name]
    (problem,) = results.problems
    assert f"{folders[0].name}/attempt-000/scalars.jsonl: " in problem and len(problem.splitlines()) == 1


def test_a_damaged_live_stream_that_nothing_vouches_for_is_named(tmp_path: Path) -> None:
    out, (folder,) = make_out(tmp_path)
    attempt(folder, range(0, 20))
    path = folder / "attempt-000" / files.STREAM
    content = path.read_bytes()
    middle = content.index(b"\xff\xff\xff\xff", len(content) // 3)
    path.write_bytes(content[:middle] + b"\x00" * 64 + content[middle + 64 :])
    results = load(out)
    assert results.signals.empty or len(results.problems) == 1
    assert "signals.arrows: damaged stream" in results.problems[0]


def test_an_id_in_an_export_that_would_leave_the_folder_is_refused(store: Path, tmp_path: Path) -> None:
    load(store).export("parquet", tmp_path / "small")
    path = tmp_path / "small" / files.COMPACTED
    content = read_json(path)
    content["trials"][0]["id"] = "../../elsewhere"
    write_json(path, content)
    with pytest.raises(StoreError, match="not the spec that its id stands for"):
        load(tmp_path / "small")
