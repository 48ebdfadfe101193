"""The testing procedure: errors counted by hand, ensembles of known nets, and checkpoints that cannot be tested."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import initlab
from initlab.attempt.assemble import bare_net, load_data
from initlab.cli import main
from initlab.data.dataset import Images
from initlab.data.sources import load_raw
from initlab.engine.task import DataAccess
from initlab.errors import UserError
from initlab.report.evaluation_table import evaluation_lines
from initlab.store.checkpoint import write_checkpoint
from initlab.store.files import COMPACTED, write_json
from initlab.study.sections import Data, Net
from initlab.study.spec import TrialSpec
from initlab.testing.error_rates import class_errors, error_rows
from initlab.testing.procedure import parse_scales

SPEC = TrialSpec(data=Data(name="digits", image_size=16), net=Net(depth=7, width=2, linear_width=4))
# The labels of the 360 images, counted in another way than by the code under test.
COUNTS = [int((load_raw("digits", image_size=8).val_labels == k).sum()) for k in range(10)]
assert sum(COUNTS) == 360


def images_of(spec: TrialSpec) -> Images:
    return load_data(spec, torch.device("cpu"), DataAccess(), {}, print)


def trial_with(folder: Path, spec: TrialSpec, state: dict[str, Tensor], attempt: int = 0, **changes: object) -> Path:
    """A trial's folder with one checkpoint; `changes` to what the checkpoint holds."""
    at = folder / f"attempt-{attempt:03d}"
    at.mkdir(parents=True)
    write_json(folder / "trial.json", {"id": "t1", "spec": spec.model_dump(mode="json"), "source": {}})
    write_checkpoint(at / "checkpoint.pt", {"step": 5, "net": state, **changes})
    return folder


def known(folder: Path, probabilities: dict[int, float], spec: TrialSpec = SPEC) -> Path:
    """A trial whose net gives every image these probabilities, and shares the rest among the other classes."""
    rest = (1 - sum(probabilities.values())) / (10 - len(probabilities))
    state = {name: torch.zeros_like(value) for name, value in bare_net(spec, images_of(spec)).state_dict().items()}
    state["fc3.bias"] = torch.tensor([probabilities.get(k, rest) for k in range(10)]).log()
    return trial_with(folder, spec, state)


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """A trial with random weights."""
    torch.manual_seed(0)
    return trial_with(tmp_path / "drawn", SPEC, bare_net(SPEC, images_of(SPEC)).state_dict())


def test_errors_of_a_known_score_matrix() -> None:
    scores = torch.tensor(
        [
            [9, 8, 7, 6, 5, 4, 0],  # label 0: right
            [9, 8, 7, 6, 5, 4, 0],  # label 4: fifth
            [9, 8, 7, 6, 5, 4, 0],  # label 5: sixth
            [0, 1, 9, 3, 4, 5, 6],  # label 0: last
            [math.nan, 9, 0, 1, 2, 3, 4],  # label 1: highest, but not a number stands beside it
        ],
        dtype=torch.float64,
    )
    labels = torch.tensor([0, 4, 5, 0, 1])
    table = class_errors(scores, labels).set_index("class")
    assert table.images.tolist() == [2, 1, 0, 0, 1, 1, 0]
    assert table.name.tolist() == list("0123456")
    assert class_errors(scores, labels, names=list("abcdefg")).name.tolist() == list("abcdefg")
    assert table.val_error[[0, 1, 4, 5]].tolist() == [0.5, 1.0, 1.0, 1.0]
    assert table.val_error_top5[[0, 1, 4, 5]].tolist() == [0.5, 1.0, 0.0, 1.0]
    assert table.val_error[[2, 3, 6]].isna().all() and table.val_error_top5[[2, 3, 6]].isna().all()
    (row,) = error_rows({"checkpoint": "a"}, {32: scores}, labels)
    assert row["checkpoint"] == "a" and (row["scales"], row["images"]) == ("32", 5)
    assert (row["val_error"], row["val_error_top5"]) == (pytest.approx(4 / 5), pytest.approx(3 / 5))


def test_scales_are_averaged_after_each_has_its_row() -> None:
    # Image 0: 32 says class 1, 48 says class 0 more surely; image 1: both wrong.
    at_32 = torch.tensor([[0.4, 0.6], [0.9, 0.1]], dtype=torch.float64)
    at_48 = torch.tensor([[0.8, 0.2], [0.6, 0.4]], dtype=torch.float64)
    rows = error_rows({"checkpoint": "a"}, {32: at_32, 48: at_48}, torch.tensor([0, 1]))
    assert [row["scales"] for row in rows] == ["32", "48", "32+48"]
    assert [row["val_error"] for row in rows] == [1.0, 0.5, 0.5]


@pytest.mark.parametrize(("scores", "winner"), [("softmax", 1), ("logits", 3)])
def test_an_ensemble_of_two_known_nets(tmp_path: Path, scores: str, winner: int) -> None:
    # Means of the probabilities: class 1 has (0.05 + 0.6) / 2 = 0.325, class 3 sqrt(0.25 * 0.28) of both, above all
    # others in logits: ln 0.25 + ln 0.28 = ln 0.07 against ln 0.03 of class 1 and ln(0.6 * 0.02) of class 0.
    paths = [known(tmp_path / "a", {0: 0.6, 1: 0.05, 3: 0.25}), known(tmp_path / "b", {0: 0.02, 1: 0.6, 3: 0.28})]
    evaluated = initlab.evaluate(paths, scores=scores)  # type: ignore[arg-type]
    assert evaluated.table.checkpoint.tolist() == [*map(str, paths), "ensemble"]
    expected = [1 - COUNTS[0] / 360, 1 - COUNTS[1] / 360, 1 - COUNTS[winner] / 360]
    assert evaluated.table.val_error.tolist() == pytest.approx(expected, abs=1e-12)
    assert evaluated.val_error == evaluated.table.val_error.iloc[2]
    per_class = evaluated.per_class.set_index("class")
    assert per_class.images.tolist() == COUNTS
    assert per_class.val_error.tolist() == [0.0 if k == winner else 1.0 for k in range(10)]
    if scores == "softmax":
        assert evaluated.scores[:, [0, 1, 3]].unique(dim=0).tolist()[0] == pytest.approx([0.31, 0.325, 0.265], abs=1e-6)


def test_views_and_scales_are_those_of_the_net_by_hand(drawn: Path) -> None:
    data = images_of(SPEC)
    net = bare_net(SPEC, data)
    net.load_state_dict(torch.load(drawn / "attempt-000/checkpoint.pt", weights_only=True)["net"])
    net.eval()
    raw = data.val_inputs[:40].double()
    with torch.no_grad():
        plain = net(data.normalised(data.val_inputs)).double().softmax(1)
        center = initlab.evaluate(drawn).scores
        assert torch.allclose(center, plain, atol=1e-6)
        assert torch.allclose(initlab.evaluate(drawn, "dense", [16], flips=False).scores, plain, atol=1e-6)
        large = torch.nn.functional.interpolate(raw, size=(18, 18), mode="bilinear", antialias=True).round()
        crops = [large[:, :, t : t + 16, i : i + 16] for t, i in ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1))]
        views = [net(data.normalised(crop)).double().softmax(1) for crop in crops]
        mirrored = [net(data.normalised(crop.flip(3))).double().softmax(1) for crop in crops]
    five, ten = (initlab.evaluate(drawn, "10", [18], flips=flips).scores[:40] for flips in (False, True))
    assert torch.allclose(five, torch.stack(views).mean(0), atol=1e-6)
    assert torch.allclose(ten, torch.stack(views + mirrored).mean(0), atol=1e-6)
    both = initlab.evaluate(drawn, "10", [16, 18], flips=False).scores[:40]
    assert torch.allclose(both, (plain[:40] + five) / 2, atol=1e-6), "over scales"
    assert initlab.evaluate(drawn, "10").described["scales"] == [18], "8/7 of 16"
    batches = initlab.evaluate(drawn, "10", [18], batch_size=7, flips=False).scores[:40]
    assert torch.allclose(batches, five, atol=1e-6)


def test_a_trial_of_a_study_has_the_error_of_its_training(tiny: Callable[..., Path], tmp_path: Path) -> None:
    results = initlab.run(tiny(train={"epochs": 1}), out=tmp_path / "out", jobs=1, show="nothing")
    (trial,) = results.stored
    row = results.scalars.iloc[-1]
    paths = [trial.folder, trial.folder / "attempt-000", trial.folder / "attempt-000/checkpoint.pt"]
    for path in paths:
        evaluated = initlab.evaluate(path)
        assert (evaluated.val_error, evaluated.val_error_top5) == (
            pytest.approx(row.val_error, abs=1e-12),
            pytest.approx(row.val_error_top5, abs=1e-12),
        )
    shutil.copy(paths[2], tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match=r"no trial\.json beside it"):
        initlab.evaluate(tmp_path / "checkpoint.pt")
    shutil.copy(trial.folder / "trial.json", tmp_path)
    assert initlab.evaluate(tmp_path / "checkpoint.pt").val_error == evaluated.val_error
    (tmp_path / "small").mkdir()
    write_json(tmp_path / "small" / COMPACTED, {"trials": []})
    with pytest.raises(UserError, match="small: exported results have no checkpoints"):
        initlab.evaluate(tmp_path / "small")
    with pytest.raises(UserError, match="a whole study; give some of its trials"):
        initlab.evaluate(tmp_path / "out")


def test_the_newest_attempt_counts_and_a_forced_one_hides_those_before(tmp_path: Path) -> None:
    zero = known(tmp_path / "a", {0: 0.9})
    other = known(tmp_path / "b", {1: 0.9})
    (other / "attempt-000").rename(zero / "attempt-001")
    assert initlab.evaluate(zero).val_error == pytest.approx(1 - COUNTS[1] / 360)
    assert initlab.evaluate(zero / "attempt-000").val_error == pytest.approx(1 - COUNTS[0] / 360)
    described = json.loads((zero / "trial.json").read_text())
    write_json(zero / "trial.json", {**described, "first_attempt": 2})
    write_json(zero / "status.json", {"state": "running"})
    with pytest.raises(UserError, match=r"no checkpoint in it \(its state: running\)"):
        initlab.evaluate(zero)


def test_the_command_prints_a_table_and_writes_the_files(tmp_path: Path) -> None:
    path = known(tmp_path / "a", {0: 0.9})
    out = tmp_path / "test"
    ran = CliRunner().invoke(main, ["evaluate", str(path), "--views", "dense", "--scales", "16,20", "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    head, *rows, last = ran.output.splitlines()
    assert head.split() == ["checkpoint", "scales", "images", "val_error", "val_error_top5"]
    assert [row.split()[1] for row in rows] == ["16", "20", "16+20"] and last == f"written to {out}"
    assert {file.name for file in out.iterdir()} == {
        "evaluation.csv",
        "evaluation.json",
        "per_class.csv",
        "per_class.png",
        "per_class.svg",
    }
    described = json.loads((out / "evaluation.json").read_text())
    assert described["schema"] == 1 and described["views"] == "dense" and described["scales"] == [16, 20]
    assert described["checkpoints"][0]["flips"] is False, "digits are not mirrored in training"
    table = pd.read_csv(out / "evaluation.csv")
    assert table.val_error.tolist() == pytest.approx([1 - COUNTS[0] / 360] * 3)
    assert pd.read_csv(out / "per_class.csv")["class"].tolist()[0] == 0


def test_members_are_told_apart_by_the_fields_in_which_they_differ(tmp_path: Path) -> None:
    described = [SPEC, SPEC.model_copy(update={"seed": 1})]
    paths = [known(tmp_path / f"{spec.seed}", {spec.seed: 0.9}, spec) for spec in described]
    evaluated = initlab.evaluate(paths)
    assert evaluated.table.columns.tolist()[:3] == ["checkpoint", "seed", "scales"]
    assert evaluated.table.seed.tolist()[:2] == [0, 1] and evaluated.table.seed.isna().tolist() == [False, False, True]
    lines = evaluation_lines(evaluated.table)
    assert [line.split()[1] for line in lines] == ["seed", "0", "1", "–"]
    assert len(set(map(len, lines))) == 1, "columns are aligned"


def test_a_checkpoint_that_cannot_be_tested_is_one_line(drawn: Path, tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"net": Net(depth=7, width=3, linear_width=4)})
    state = torch.load(drawn / "attempt-000/checkpoint.pt", weights_only=True)["net"]
    part = {name: value for name, value in state.items() if name != "fc1.bias"}
    file = drawn / "attempt-000/checkpoint.pt"
    flipped = bytearray(file.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    damaged = trial_with(tmp_path / "damaged", SPEC, state) / "attempt-000/checkpoint.pt"
    damaged.write_bytes(flipped)
    cases = [
        (
            trial_with(tmp_path / "other", spec, state),
            "weights of another net than its trial.json describes, plain-7 (got ",
        ),
        (trial_with(tmp_path / "part", SPEC, part), "(got fc1.bias: none; wanted: 4)"),
        (trial_with(tmp_path / "newer", SPEC, state, checkpoint_version=2), "checkpoint of another version (got 2)"),
        (trial_with(tmp_path / "none", SPEC, state, net=None), "no net in it"),
        (damaged, "damaged checkpoint"),
        (tmp_path / "absent", "no such checkpoint; give OUT/trials/ID"),
        (tmp_path, "no checkpoint in it (not a trial)"),
    ]
    for path, words in cases:
        ran = CliRunner().invoke(main, ["evaluate", str(path)])
        assert ran.exit_code == 2, (path, ran.output)
        assert ran.output.count("\n") == 1 and words in ran.output, ran.output
        assert "starts from an earlier" not in ran.output, "advice for another situation"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scales", "12"], "--scales: smaller than the net's input (got 12); allowed: at least 16"),
        (["--scales", "16,x"], "--scales: not sides in pixels (got '16,x')"),
        (["--scales", "16,16"], "--scales: not a list of sides (got [16, 16])"),
        (["--scales", ""], "--scales: not sides in pixels (got '')"),
        (["--batch-size", "0"], "--batch-size: out of range (got 0)"),
        (["--out", __file__], "cannot be written"),
        (["--data-dir", "/nowhere"], None),  # digits need no folder
    ],
)
def test_wrong_options_are_one_line(drawn: Path, arguments: list[str], words: str | None) -> None:
    ran = CliRunner().invoke(main, ["evaluate", str(drawn), *arguments])
    assert ran.exit_code == (2 if words else 0), ran.output
    if words:
        assert words in ran.output and ran.output.count("\n") == 1


def test_an_ensemble_over_different_data_is_refused(drawn: Path, tmp_path: Path) -> None:
    other = known(tmp_path / "b", {0: 0.9}, SPEC.model_copy(update={"data": Data(name="digits", image_size=18)}))
    with pytest.raises(UserError, match=r"data\.image_size differs in the ensemble \(got 18, .* has 16\)"):
        initlab.evaluate([drawn, other])
    with pytest.raises(UserError, match="no checkpoint"):
        initlab.evaluate([])


def test_absent_data_and_code_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INITLAB_DATA", raising=False)
    cifar = trial_with(tmp_path / "cifar", TrialSpec(data=Data(name="cifar10")), {})
    with pytest.raises(UserError, match=r"cifar10 needs a folder .*set INITLAB_DATA=DIR$"):
        initlab.evaluate(cifar)
    mine = trial_with(tmp_path / "mine", TrialSpec(net=Net(name="mine:net")), {})
    with pytest.raises(UserError, match="add it if you trust it"):
        initlab.evaluate(mine)


def test_scales_are_read_from_text() -> None:
    assert parse_scales("256, 384,480") == [256, 384, 480]
