"""`initlab inspect` and `initlab lint`: what they print, exit codes, JSON, and wrong inputs in one line."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from initlab.cli import main
from initlab.inspection.diagnosis import VERDICTS
from initlab.inspection.subject import parse_options, resolve_model
from initlab.report.inspection_report import OUTCOMES, VERDICT_WORDS, fails

MYMODEL = """
import torch
from torch import nn

def build(hidden=32, num_classes=10):
    return nn.Sequential(nn.Conv2d(3, hidden, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(hidden, num_classes))

def number():
    return 3

def broken():
    raise RuntimeError("no data here")

class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(x)

ready = build()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "lintmodels.py").write_text(MYMODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


def initlab(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


CODE = ["--allow-code", "--input", "3x8x8"]


def test_a_net_that_loses_its_signal_fails_where_a_stall_is_asked_for() -> None:
    net = ["inspect", "plain", "--init", "xavier", "--set", "depth=30"]
    done = initlab(*net, "--fail-on", "stalled,exploding")
    assert done.exit_code == 1
    assert "--fail-on stalled,exploding: the verdict is vanishing" in done.stderr
    assert "conv1_1" in done.stdout
    assert "fault gain" in done.stdout
    assert "\x1b" not in done.stdout
    assert initlab(*net, "--fail-on", "exploding").exit_code == 0
    assert initlab("inspect", "plain", "--init", "he", "--set", "net.depth=30", "--fail-on", "any").exit_code == 0


def test_the_readme_shows_what_inspect_says() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    command, text = re.findall(r"^\$ initlab (inspect .*)\n((?:.+\n)+)\n", readme, re.M)[0]
    shown = initlab(*command.split())
    assert shown.stdout.startswith(text)
    assert "vanishing" in text and shown.exit_code == 0, "without --fail-on nothing fails"


def test_the_words_of_fail_on_cover_every_verdict() -> None:
    for verdict in VERDICTS:
        assert fails(verdict, [verdict])
        assert fails(verdict, ["any"]) == (verdict != "healthy")
        assert fails(verdict, ["stalled"]) == (verdict in ("vanishing", "dead"))
        assert not fails(verdict, [])
    assert set(VERDICT_WORDS) >= {*OUTCOMES, "any", "vanishing", "exploding"}
    assert set().union(*OUTCOMES.values()) <= set(VERDICTS)


def test_json_is_one_object_with_every_layer_and_nan_as_null() -> None:
    done = initlab("inspect", "plain", "--init", "he", "--set", "depth=8", "--json", "--fix", "--against", "xavier")
    content = json.loads(done.stdout)
    assert (content["schema"], content["model"], content["verdict"], content["healthy"]) == (
        1,
        "plain",
        "healthy",
        True,
    )
    assert [layer["name"] for layer in content["layers"]][-1] == "fc3"
    first = content["layers"][0]
    assert first["shape"] == [16, 1, 3, 3]
    assert first["fan_in"] == 9
    assert first["decay_ratio"] is None  # no --weight-decay
    assert isinstance(first["forward_var"], float)
    assert content["lint"] == []
    assert content["against"]["exact"] is True
    assert [layer["forward_ratio"] for layer in content["against"]["layers"]] == pytest.approx(
        [2.0**i for i in range(1, 9)]
    )
    # Nothing is to be fixed of a healthy net.
    assert "fix" not in content


def test_fix_shows_the_table_before_and_after_and_leaves_what_was_given() -> None:
    done = initlab("inspect", "plain", "--init", "xavier", "--set", "depth=30", "--fix")
    before, after = done.stdout.split('after initlab.init_(model, "he"):')
    assert "vanishing" in before
    assert "vanishing" not in after
    assert before.count("conv1_1") >= 1
    assert after.count("conv1_1") == 1


def test_prelu_is_advised_its_own_slope() -> None:
    done = initlab("inspect", "plain", "--set", "activation=prelu", "--set", "depth=12", "--fix", "--json")
    fix = json.loads(done.stdout)["fix"]
    assert fix["call"] == 'initlab.init_(model, "he", negative_slope=0.25)'
    assert len(fix["layers"]) == 12


def test_against_prints_ratios_in_100_columns() -> None:
    done = initlab("inspect", "plain", "--set", "depth=10", "--init", "xavier", "--against", "he")
    lines = done.stdout[done.stdout.index("layer    weight std") :].splitlines()
    assert lines[1].split() == ["conv1_1", "0.707107", "0.5", "0.00195312"]
    assert lines[10].split() == ["fc3", "0.707107", "0.000976562", "1"]
    assert lines[11].startswith("exact by homogeneity")
    assert max(map(len, lines[:11])) <= 100
    other = initlab("inspect", "plain", "--set", "depth=10", "--against", "he")
    assert "not exact: `conv1_1` has biases" in other.stdout


def test_the_users_code_is_built_with_what_it_has_parameters_for(here: Path) -> None:
    done = initlab("inspect", "lintmodels:build", *CODE, "--set", "hidden=8", "--json")
    assert [layer["shape"] for layer in json.loads(done.stdout)["layers"]] == [[8, 3, 3, 3], [10, 8]]
    assert initlab("inspect", "lintmodels:ready", *CODE).exit_code == 0
    digits = initlab("inspect", "plain", "--data", "digits", "--set", "depth=8", "--json")
    assert json.loads(digits.stdout)["layers"][-1]["shape"] == [10, 64]


def test_lint_prints_findings_and_fails_on_rules() -> None:
    done = initlab("lint", "plain", "--fail-on", "torch_default")
    assert done.exit_code == 1
    assert done.stdout.startswith(
        "fault torch_default: 29 layers, `conv1_2` to `fc3`: "
    )  # conv1_1 has 144 weights: too few
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert initlab("lint", "plain", "--init", "he", "--fail-on", "any").stdout == "nothing found\n"
    content = json.loads(initlab("lint", "plain", "--json", "--fail-on", "dead").stdout)
    assert [f["rule"] for f in content["lint"]] == ["torch_default", "hidden_by_biases"]
    assert set(content["lint"][0]) == {"rule", "severity", "layers", "text", "fix"}


def test_html_and_figure_are_written(tmp_path: Path) -> None:
    page, picture = tmp_path / "new" / "a.html", tmp_path / "a.png"
    done = initlab("inspect", "plain", "--set", "depth=8", "--html", str(page), "--figure", str(picture))
    assert done.exit_code == 0
    assert "conv1_1" in page.read_text()
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("model", "fan_in"), [("plain", 9), ("resnet18", 147)])
def test_an_input_may_be_given_by_its_side(model: str, fan_in: int) -> None:
    done = initlab("inspect", model, "--init", "he", "--input", "32", "--json")
    # One grey channel of 3 x 3 for plain, three colours of 7 x 7 for resnet18.
    assert json.loads(done.stdout)["layers"][0]["fan_in"] == fan_in


def test_a_seed_gives_the_same_model_and_batch_and_leaves_the_global_numbers() -> None:
    before = torch.get_rng_state()
    first, again = resolve_model("plain", seed=3), resolve_model("plain", seed=3)
    other = resolve_model("plain", seed=4)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.module[0].weight, again.module[0].weight)
    assert not torch.equal(first.module[0].weight, other.module[0].weight)
    assert first.labels is not None and first.labels.shape == (8,)
    assert torch.equal(before, torch.get_rng_state())


def test_options_are_values_as_in_yaml() -> None:
    assert parse_options(["net.depth=22", "widths=[4, 8]", "negative_slope=1e-1"]) == {
        "depth": 22,
        "widths": [4, 8],
        "negative_slope": 0.1,
    }


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["resnet81"], "resnet81: no such model; did you mean resnet18 or resnet152 or resnet101?; allowed: "),
        (["plain", "--against", "hee"], "hee: no such model; did you mean he"),
        (["lintmodels:build"], "lintmodels:build: is your code, which would be run; add --allow-code to import it"),
        (
            ["lintmodels:nothing", *CODE],
            "MODEL: lintmodels has no callable 'nothing' (got 'lintmodels:nothing'); allowed: pkg.module:callable",
        ),
        (["lintmodels:number", *CODE], "lintmodels:number: gives no nn.Module (got int); return the model itself"),
        (
            ["lintmodels:broken", *CODE],
            "lintmodels:broken: cannot be built (got RuntimeError: no data here); see --set",
        ),
        (
            ["lintmodels:build", *CODE, "--set", "hiden=3"],
            "lintmodels:build: cannot be built (got TypeError: build() got an unexpected keyword argument 'hiden'); "
            "see --set",
        ),
        (
            ["lintmodels:Head", *CODE],
            "lintmodels:Head: an input of 3x8x8 does not fit (got `fc`, "
            "Linear(in_features=4, out_features=2, bias=True), takes no 3x8x8: ",
        ),
        (
            ["plain", "--input", "3,8,8"],
            "--input: not an image's shape (got '3,8,8'); allowed: CHANNELSxHEIGHTxWIDTH or SIDE",
        ),
        (["plain", "--set", "depth"], "--set: not an assignment (got 'depth'); allowed: ARGUMENT=VALUE, e.g. depth=22"),
        (["plain", "--set", "depth=3"], "plain: cannot be built (got ValueError: plain: depth: too small for 3 stages"),
        (["plain", "--batch-size", "0"], "--batch-size: out of range (got 0); allowed: from 1 on"),
        (["plain", "--init", "hee"], "--init: no such scheme (got 'hee'; did you mean 'he'?); allowed: gaussian, "),
        (
            ["plain", "--init", "my:scheme"],
            "--init: my:scheme is your code, which would be run; add --allow-code to import it",
        ),
        (
            ["plain", "--fail-on", "stuck"],
            "--fail-on: no such word (got 'stuck'); allowed: any, stalled, diverged, nonfinite, underflow, ",
        ),
        (["plain", "--data", "mnist"], "--data: no such data set (got 'mnist'); allowed: digits, "),
        (["plain", "--data", "cifar10"], "--data: the files of cifar10 are not there (got folder none); "),
        (
            ["plain", "--data", "digits", "--input", "3x8x8"],
            "--input: not the shape of digits (got 3x8x8); leave it out beside --data",
        ),
    ],
)
def test_wrong_inputs_are_one_line_and_exit_code_2(
    here: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], line: str
) -> None:
    monkeypatch.delenv("INITLAB_DATA", raising=False)
    wrong = initlab("inspect", *arguments)
    assert wrong.exit_code == 2
    assert wrong.stdout == ""
    assert wrong.stderr.startswith(line)
    assert wrong.stderr.count("\n") == 1


def test_other_layers_and_unknown_pictures_are_refused(tmp_path: Path) -> None:
    other = initlab("inspect", "plain", "--set", "depth=8", "--against", "resnet18", "--input", "3x32x32")
    assert other.exit_code == 2
    picture = initlab("inspect", "plain", "--figure", "a.jpeg")
    assert "--figure: not a picture's name (got a.jpeg); allowed: .png, .svg, .pdf" in picture.stderr
    assert picture.exit_code == 2
