"""Studies of the paper's nets: resolved, counted, told apart and run like any other."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from initlab import load, run
from initlab.nets.catalog import PAPER_NETS
from initlab.plan.cost import cost
from initlab.plan.plan import plan
from initlab.report.plan_table import plan_lines
from initlab.study.study import Study, load_study


def study(**content: object) -> Study:
    return Study.model_validate({"name": "x", **content})


def test_a_trial_has_the_depth_of_its_net_and_nothing_of_plain() -> None:
    grid = {"net.name": list(PAPER_NETS), "net.depth": [30, 99], "net.width": [8], "net.linear_width": [3]}
    trials = plan(study(data={"name": "cifar10", "image_size": 128}, grid=grid))
    planned = {t.spec.net.name: (t.spec.net.depth, t.spec.net.width, t.spec.net.linear_width) for t in trials}
    assert planned == {name: (net.depth, 16, 64) for name, net in PAPER_NETS.items()}
    assert len(trials) == len(PAPER_NETS), "one trial each, whatever depth was asked for"
    assert all(t.dropped == {"net.depth", "net.width", "net.linear_width"} for t in trials)
    (one,) = plan(study(data={"name": "cifar10", "image_size": 128}, net={"name": "B", "depth": 22}))
    assert one.dropped == frozenset(), "22 is B's own"
    assert one.spec.net.label == "B"


@pytest.mark.parametrize(
    ("net", "hashed", "trial_id"),
    [
        ({"name": "small-14"}, '{"depth":14,"name":"small-14"}', "td56046ba032f"),
        ({"name": "small-30"}, '{"name":"small-30"}', "t82fb9e2023ee"),
        ({"skip": "identity", "norm": "batch"}, '{"norm":"batch","skip":"identity"}', "tbdeb84be0998"),
        ({"name": "B", "activation": "prelu"}, '{"activation":"prelu","depth":22,"name":"B"}', "tc08aeddf42b3"),
    ],
)
def test_ids_of_these_nets_stay(net: dict[str, object], hashed: str, trial_id: str) -> None:
    text = f'{{"data":{{"image_size":128,"name":"cifar10"}},"hash_version":1,"net":{hashed}}}'
    assert trial_id == "t" + hashlib.sha256(text.encode()).hexdigest()[:12]
    assert plan(study(data={"name": "cifar10", "image_size": 128}, net=net))[0].id == trial_id


def test_slopes_have_a_rate_of_their_own_only_where_they_are_learned() -> None:
    grid = {"net.activation": ["relu", "leaky_relu", "prelu", "prelu_shared"], "train.slope_lr_factor": [1.0, 0.1]}
    trials = plan(study(grid=grid))
    assert [t.spec.train.slope_lr_factor for t in trials] == [1, 1, 1, 0.1, 1, 0.1]
    assert [t.dropped for t in trials[:2]] == [{"train.slope_lr_factor"}] * 2


def test_plan_tells_counts_with_the_classes_of_the_data(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    content = {
        "name": "x",
        "data": {"name": "cifar100", "image_size": 224},
        "train": {"epochs": 1},
        "grid": {"net.name": ["small-14", "plain"], "net.activation": ["relu", "prelu"]},
    }
    path.write_text(yaml.safe_dump(content))
    lines = list(plan_lines(path))
    small = [line.split() for line in lines if " small-14 " in line]
    parameters = 74_993_896 - 900 * 4097
    assert [line[1:6] for line in small] == [
        ["small-14", "he", "0", "relu", f"{parameters:,}"],
        ["small-14", "he", "0", "prelu", f"{parameters + 10_304:,}"],
    ]
    assert all(line[6] == f"{980_914_880 - 900 * 4096:,}" for line in small)
    assert any(" plain-30 " in line for line in lines)
    first, second = (cost(trial.spec) for trial in plan(load_study(path)) if trial.spec.net.name == "small-14")
    rows = 2 * 13 * 175  # two validations, slopes of 13 layers
    assert second.storage_bytes - first.storage_bytes == rows + 8 * 10_304


def test_plain_residual_and_normalised_nets_run_in_one_study(tiny: Callable[..., Path], tmp_path: Path) -> None:
    net = {"depth": 12, "activation": "prelu_shared"}
    grid = {"net.skip": ["none", "identity"], "net.norm": ["none", "batch"]}
    out = tmp_path / "out"
    results = run(tiny(net=net, grid=grid, probe={"every": 0}), out, jobs=1, show="nothing")
    assert results.trials.state.tolist() == ["done"] * 4
    assert len(results.trials[["net.norm", "net.skip"]].drop_duplicates()) == 4
    assert results.scalars[results.scalars.step == 0].val_loss.nunique() == 4, "four nets, from the same weights"
    slopes = load(out).slopes
    assert slopes.groupby("trial").size().tolist() == [3 * 11] * 4, "validations at epochs 0, 1 and 2, 11 PReLU layers"
    assert slopes[slopes.step == 0]["mean"].eq(0.25).all()
    assert sorted(slopes.name.unique())[:3] == ["act1_1", "act1_2", "act1_3"]
