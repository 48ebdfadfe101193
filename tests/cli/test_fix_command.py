"""`initlab fix`: the code that it prints, pasted, makes what was tried; its table is what plain torch sees change."""

import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from initlab.cli import main
from initlab.inspection.changes import changes_between

MODELS = """
import torch
from torch import nn

def layers(depth=40, width=64):
    torch.manual_seed(0)
    inner = [m for _ in range(depth - 1) for m in (nn.Linear(width, width, bias=False), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *inner, nn.Linear(width, 10))

def faulty():
    model = layers()
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=(1 / 64) ** 0.5)
    return model

def sound():
    model = layers()
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=(2 / 64) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "fixmodels.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "fixmodels", raising=False)
    return tmp_path


def fix(*words: str) -> Result:
    return CliRunner().invoke(main, ["fix", *words, "--allow-code", "--input", "1x8x8", "--batch-size", "32"])


def second_moments(model: nn.Module) -> list[float]:
    """E[y^2] of every linear layer on random inputs, by plain torch."""
    x, moments = torch.randn(512, 1, 8, 8, generator=torch.Generator().manual_seed(3)), []
    for module in model:
        x = module(x)
        if isinstance(module, nn.Linear):
            moments.append(x.square().mean().item())
    return moments


@pytest.mark.parametrize("options", [(), ("--torch",)])
def test_the_output_is_python_that_mends_the_model(here: Path, options: tuple[str, ...]) -> None:
    done = fix("fixmodels:faulty", *options)
    assert done.exit_code == 0, done.output
    import fixmodels

    model = fixmodels.faulty()
    before = second_moments(model)
    exec(done.output, {"model": model, "batch": torch.randn(32, 1, 8, 8)})
    after = second_moments(model)
    # Half of the second moment is lost per layer before, next to nothing after.
    assert before[-2] / before[0] < 1e-2
    assert after[-2] / after[0] > 0.1
    assert ("import initlab" in done.output) != bool(options)


def test_the_table_has_the_standard_deviations_before_and_after(here: Path) -> None:
    done = fix("fixmodels:faulty", "--json")
    content = json.loads(done.output)
    assert content["verdict"] == "vanishing"
    changes = {change["name"]: change for change in content["changes"]}
    weight = changes["3.weight"]
    assert weight["std_before"] == pytest.approx(64**-0.5, rel=0.05)
    assert weight["std_after"] == pytest.approx((2 / 64) ** 0.5, rel=0.05)
    assert len(changes) + content["unchanged"] == 41
    line = next(line for line in fix("fixmodels:faulty").output.splitlines() if line.startswith("# 3.weight"))
    assert line.split()[2:] == ["64x64", f"{weight['std_before']:.4g}", f"{weight['std_after']:.4g}"]


def test_a_sound_model_gets_no_code(here: Path) -> None:
    done = fix("fixmodels:sound")
    assert done.exit_code == 0
    assert "Nothing to fix." in done.output
    assert all(line.startswith("#") for line in done.output.splitlines())


def test_help_teaches_and_mistakes_are_one_line() -> None:
    text = CliRunner().invoke(main, ["fix", "--help"]).output
    for words in ("initlab fix plain", "--torch", "`model` is your model", "Exit codes: 0"):
        assert words in text
    done = CliRunner().invoke(main, ["fix", "resnet19"])
    assert done.exit_code == 2
    assert done.output.count("\n") == 1


def test_changes_are_told_as_factors_constants_and_draws() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(50, 40), nn.LayerNorm(40), nn.Linear(40, 40))
    changed = nn.Sequential(nn.Linear(50, 40), nn.LayerNorm(40), nn.Linear(40, 40))
    changed.load_state_dict(model.state_dict())
    with torch.no_grad():
        changed[0].weight *= 3
        changed[1].weight.fill_(0.5)
        changed[2].weight.normal_(0, 0.2)
    factor, constant, draw = changes_between(model, changed)
    assert (factor.name, constant.name, draw.name) == ("0.weight", "1.weight", "2.weight")
    assert factor.factor == pytest.approx(3)
    assert factor.plain == 'model.get_parameter("0.weight").data.mul_(3)'
    assert constant.plain == 'model.get_parameter("1.weight").data.mul_(0.5)'
    assert (
        draw.plain == f'nn.init.normal_(model.get_parameter("2.weight"), std={changed[2].weight.std(correction=0):.6g})'
    )
    nn.init.normal_(model[1].weight)
    assert changes_between(model, changed)[1].plain == 'nn.init.constant_(model.get_parameter("1.weight"), 0.5)'
