"""Schemes in a study, built in and the user's own, and the code that docs/schemes.md shows."""

import hashlib
import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from initlab import init_
from initlab.init.lsuv import TOLERANCE
from initlab.init.schemes import SCHEMES
from initlab.launch.run import run
from initlab.plan.plan import plan
from initlab.store.files import StoreError, read_json
from initlab.study.mistakes import StudyError
from initlab.study.study import load_study, study_schema

DOC = Path(__file__).parent.parent / "docs" / "schemes.md"
SHORT = {"epochs": 0.5, "lr": 0.001}


@pytest.fixture
def myschemes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The python of docs/schemes.md as a module in the working folder."""
    path = tmp_path / "myschemes.py"
    path.write_text("\n".join(re.findall(r"```python\n(.*?)```", DOC.read_text(), re.S)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield path
    sys.modules.pop("myschemes", None)


def scheme_of(path: Path, name: str) -> Callable[..., Tensor]:
    space: dict = {}
    exec(path.read_text(), space)
    return space[name]


def test_every_scheme_trains_and_lsuv_starts_from_unit_variance(tiny: Callable[..., Path], tmp_path: Path) -> None:
    study = tiny(
        grid={"init.scheme": list(SCHEMES)}, train=SHORT, net={"activation": "prelu"}, init={"last_factor": 0.5}
    )
    results = run(study, tmp_path / "out", jobs=1, show="nothing")
    assert results.trials.state.tolist() == ["done"] * len(SCHEMES)
    assert results.scalars.train_loss.dropna().map(math.isfinite).all()
    trial = results.trials.set_index("init.scheme").trial["lsuv"]
    signals = results.signals
    start = signals[(signals.trial == trial) & (signals.step == 0)].set_index("name").forward_var
    assert start.drop("fc3").between(1 - TOLERANCE, 1 + TOLERANCE).all()
    assert start["fc3"] == pytest.approx(0.25, rel=TOLERANCE)


def test_a_scheme_of_the_users_is_run_with_its_source_recorded(
    tiny: Callable[..., Path], tmp_path: Path, myschemes: Path
) -> None:
    study = tiny(init={"scheme": "myschemes:glorot"}, train=SHORT, run={"isolate": "none"})
    with pytest.raises(StudyError, match=r"init.scheme: names code \(got 'myschemes:glorot'\).*--allow-code"):
        run(study, tmp_path / "out")
    results = run(study, tmp_path / "out", allow_code=True, show="nothing")
    assert results.trials[["state", "init.scheme"]].to_numpy().tolist() == [["done", "myschemes:glorot"]]
    (described,) = (tmp_path / "out" / "trials").glob("*/trial.json")
    assert read_json(described)["source"] == {"init.scheme": hashlib.sha256(myschemes.read_bytes()).hexdigest()}
    # Glorot's variance: conv1_1 has 9 inputs and 36 outputs to a response; the bound is that of 36 uniform weights.
    first = results.signals.query("step == 0 and name == 'conv1_1'").weight_var.item()
    assert first == pytest.approx(2 / 45, rel=0.5)
    myschemes.write_text(myschemes.read_text() + "# changed\n")
    with pytest.raises(StoreError, match=r"the code of init\.scheme changed since this trial ran; add --force"):
        run(study, tmp_path / "out", allow_code=True)


def test_a_scheme_that_is_not_there_fails_its_trial_in_words(
    tiny: Callable[..., Path], tmp_path: Path, myschemes: Path
) -> None:
    study = tiny(init={"scheme": "myschemes:gloro"}, run={"isolate": "none"})
    results = run(study, tmp_path / "out", allow_code=True, jobs=1, show="nothing")
    assert "init.scheme: myschemes has no callable 'gloro'" in results.stored[0].status["error"]


def test_the_docs_glorot_has_the_variance_of_equation_16(myschemes: Path) -> None:
    weight = init_(nn.Sequential(nn.Linear(300, 500)), scheme_of(myschemes, "glorot"))[0].weight
    assert weight.var().item() == pytest.approx(2 / 800, rel=5 * math.sqrt(0.8 / weight.numel()))
    assert weight.abs().max().item() == pytest.approx(math.sqrt(6 / 800), rel=1e-3)


def test_the_docs_fixup_makes_every_block_an_identity_and_scales_its_branch(myschemes: Path) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x + self.conv2(torch.relu(self.conv1(x))))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.blocks = nn.Conv2d(1, 8, 3), nn.Sequential(*(Block() for _ in range(8)))
            self.fc = nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))

    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    net, he = init_(Net(), scheme_of(myschemes, "fixup")), init_(Net(), "he")
    stem = torch.relu(net.stem(x))
    assert torch.equal(net.blocks(stem), stem)
    assert not net(x).any()
    assert torch.allclose(net.stem.weight, he.stem.weight)
    assert torch.allclose(net.blocks[3].conv1.weight, he.blocks[3].conv1.weight / math.sqrt(8))


@pytest.mark.parametrize(
    ("text", "unused"),
    [
        *(
            (
                f"init: {{scheme: {name}, mode: fan_out, distribution: uniform, std: 0.5}}",
                {"init.mode", "init.distribution", "init.std"},
            )
            for name in ("orthogonal", "delta_orthogonal", "torch_default", "lsuv")
        ),
        ("init: {scheme: lecun, mode: fan_out, distribution: uniform, std: 0.5}", {"init.mode", "init.std"}),
        (
            "init: {scheme: truncated_normal, mode: fan_out, distribution: uniform, std: 0.5}",
            {"init.distribution", "init.std"},
        ),
        ("init: {scheme: orthogonal, distribution: uniform, linear_std: 0.1}", set()),
        ("init: {scheme: 'a:b', mode: fan_out, distribution: uniform, std: 0.5}", set()),
        ("init: {scheme: lsuv}\nprobe: {every: 0, examples: 8}", set()),
    ],
)
def test_a_key_that_a_scheme_has_no_use_for_is_dropped(text: str, unused: set[str], tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"name: x\n{text}")
    (trial,) = plan(load_study(path))
    assert trial.dropped == unused


def test_the_batch_of_lsuv_is_not_larger_than_the_training_set(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "name: x\ninit: {scheme: lsuv}\nprobe: {every: 0, examples: 200}\n"
        "data: {train_examples: 100}\ntrain: {batch_size: 10}"
    )
    with pytest.raises(StudyError, match=r"probe.examples: more than the training set has \(got 200\)"):
        plan(load_study(path))


def test_an_editors_check_by_the_schema_takes_the_schemes_and_code() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    for scheme in (*SCHEMES, "mypkg.mymodule:myscheme"):
        jsonschema.validate({"name": "x", "init": {"scheme": scheme}}, study_schema())
    for wrong in ("orthogonl", "a:b:c"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"name": "x", "init": {"scheme": wrong}}, study_schema())


def test_the_docs_table_lists_the_schemes_that_there_are() -> None:
    assert set(re.findall(r"^\| `(\w+)`", DOC.read_text(), re.M)) == set(SCHEMES)
