"""`initlab compare-inits`: what it prints, its figure, its JSON and its exit codes."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from initlab.cli import main

MYINITS = """
from torch import nn

def build():
    return nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))

def ones(model):
    for parameter in model.parameters():
        nn.init.ones_(parameter)

def broken(model):
    raise RuntimeError("not today")

def unit(normals, layer):
    return normals / layer.fan_in**0.5
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "myinits.py").write_text(MYINITS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


def initlab(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["compare-inits", *arguments], catch_exceptions=False)


def test_the_text_names_the_best_and_the_figure_is_written(tmp_path: Path) -> None:
    figure = tmp_path / "new" / "inits.png"
    net = ["plain", "--set", "depth=20", "--seeds", "1"]
    done = initlab(*net, "--schemes", "he, torch_default", "--out", str(figure))
    assert done.exit_code == 0
    assert done.stdout.startswith("best: `he` alone of 2 was judged healthy, with 1 of 1 seeds")
    assert "torch_default  vanishing 1/1" in done.stdout
    assert figure.read_bytes()[:4] == b"\x89PNG"
    # Nothing moves where the output is no terminal.
    assert done.stderr == ""
    none = initlab(*net, "--schemes", "torch_default")
    assert none.exit_code == 1
    assert none.stdout.startswith("no best: no scheme was judged healthy with every seed: `torch_default` vanishing")


def test_functions_of_the_users_are_schemes_and_one_that_fails_is_told(here: Path) -> None:
    mine = ["myinits:build", "--allow-code", "--input", "8", "--seeds", "2", "--json"]
    done = initlab(*mine, "--schemes", "myinits:unit,lecun,myinits:ones")
    content = json.loads(done.stdout)
    assert (content["schema"], content["model"]) == (1, "myinits:build")
    assert [row["scheme"] for row in content["schemes"]] == ["myinits:unit", "lecun", "myinits:ones"]
    unit, lecun, ones = content["schemes"]
    assert unit["forward_factor"] == pytest.approx(lecun["forward_factor"], rel=1e-5)
    assert ones["sets"] == "6 of 6 parameters changed"
    assert len(content["draws"]) == 6
    assert done.exit_code == 0
    failing = initlab(*mine, "--schemes", "he,myinits:broken")
    assert failing.exit_code == 1
    assert json.loads(failing.stdout)["schemes"][1]["error"] == "it raised RuntimeError: not today"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--schemes", "xaver"], "schemes: no such scheme (got 'xaver'; did you mean 'xavier'?)"),
        (["--schemes", "he,he"], "schemes: 2 of the same name (got 'he')"),
        (["--schemes", ""], "schemes: no such scheme (got '')"),
        (["--seeds", "0"], "seeds: out of range (got 0)"),
        (["--lr", "-1"], "forecast: lr: out of range (got -1.0)"),
        (["--schemes", "my:init"], "--schemes: my:init is your code, which would be run; add --allow-code"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(arguments: list[str], line: str) -> None:
    wrong = initlab("plain", "--set", "depth=6", *arguments)
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith(line)
    assert wrong.stderr.count("\n") == 1


def test_a_figure_needs_a_pictures_name() -> None:
    wrong = initlab("plain", "--out", "a.jpeg")
    assert wrong.exit_code == 2
    assert "--out: not a picture's name (got a.jpeg); allowed: .png, .svg, .pdf" in wrong.stderr
