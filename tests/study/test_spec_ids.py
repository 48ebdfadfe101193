"""Trial ids: pinned for ever, since every stored result lies under one.

A change here orphans old results. Adding a field to the spec is fine: with its default it is not part of an id.
"""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from initlab.plan.plan import plan
from initlab.study.paths import TRIAL_PATHS, getattr_path
from initlab.study.spec import HASH_VERSION, TrialSpec
from initlab.study.study import Study, load_study
from initlab.study.unused_fields import drop_unused

# HASH_VERSION 1; a changed default needs a new version, and a table of its own beside this one
DEFAULTS_1 = {
    "data.name": "digits",
    "data.image_size": None,
    "data.scale": 1.0,
    "data.train_examples": None,
    "data.val_examples": None,
    "data.flip": None,
    "data.shift": 0,
    "data.classes": 10,
    "data.channels": 3,
    "data.options": {},
    "net.name": "plain",
    "net.depth": 30,
    "net.width": 16,
    "net.widths": None,
    "net.stages": 3,
    "net.downsample": "stride",
    "net.linear_width": 64,
    "net.activation": "relu",
    "net.negative_slope": None,
    "net.options": {},
    "init.scheme": "he",
    "init.mode": "fan_in",
    "init.distribution": "normal",
    "init.std": 0.01,
    "init.linear_std": None,
    "init.last_std": None,
    "init.last_factor": 1.0,
    "train.epochs": 14.0,
    "train.batch_size": 32,
    "train.lr": 0.003,
    "train.momentum": 0.9,
    "train.weight_decay": 0.0005,
    "train.dropout": 0.0,
    "train.schedule": "constant",
    "train.milestones": (),
    "train.factor": 0.1,
    "train.patience": 5,
    "train.validate_every": 1.0,
    "train.log_every": 50,
    "train.precision": "auto",
    "probe.every": 200,
    "probe.examples": 32,
    "seed": 0,
}

# (fields, the text that is hashed, the id)
PINNED: list[tuple[dict[str, Any], str, str]] = [
    ({}, '{"hash_version":1}', "ta7748c723fae"),
    ({"seed": 1}, '{"hash_version":1,"seed":1}', "t4f1bcb74ef12"),
    ({"train": {"lr": 1e-3}}, '{"hash_version":1,"train":{"lr":0.001}}', "t97cebd557be4"),
    ({"train": {"epochs": 15}}, '{"hash_version":1,"train":{"epochs":15.0}}', "tc509092e98bf"),
    (
        {"data": {"name": "synthetic", "classes": 4, "scale": 16}},
        '{"data":{"classes":4,"name":"synthetic","scale":16.0},"hash_version":1}',
        "tf06df9e2c7b7",
    ),
    (
        {"data": {"name": "cifar10", "flip": False}, "net": {"widths": [16, 32], "activation": "prelu"}},
        '{"data":{"flip":false,"name":"cifar10"},"hash_version":1,"net":{"activation":"prelu","widths":[16,32]}}',
        "t7e17f4a54d8b",
    ),
    (
        {"train": {"schedule": "step", "milestones": [1, 2.5], "weight_decay": 1e-7}},
        '{"hash_version":1,"train":{"milestones":[1.0,2.5],"schedule":"step","weight_decay":1e-07}}',
        "td4ad1e172645",
    ),
    (
        {"net": {"name": "nets:make", "options": {"k": [1, 2.5, None, "é"]}}, "train": {"precision": "float64"}},
        '{"hash_version":1,"net":{"name":"nets:make","options":{"k":[1,2.5,null,"\\u00e9"]}},"train":{"precision":"float64"}}',
        "td9d5c887a522",
    ),
    (
        {"init": {"scheme": "gaussian", "std": 0.05}, "probe": {"every": 0}},
        '{"hash_version":1,"init":{"scheme":"gaussian","std":0.05},"probe":{"every":0}}',
        "t5ce1d22da876",
    ),
]

# the demo as it first was; sweeps/demo.yaml itself may be tuned
DEMO = """
data: {name: digits, image_size: 16}
net: {name: plain, width: 16}
train: {batch_size: 32, lr: 0.003, momentum: 0.9, weight_decay: 5.0e-4}
verdict: {threshold: 0.2}
grid:
  init.scheme: [gaussian, xavier, he]
  seed: [0, 1, 2]
cases:
  - {net.depth: 30, train.epochs: 14, init.mode: fan_in}
  - {net.depth: 22, train.epochs: 42, init.mode: fan_out, data.scale: 16.0, init.last_factor: 0.0625}
"""
DEMO_IDS = [
    "t027a87c43378",
    "t42051083dbe5",
    "tbb37243ec0d3",
    "t64594274268a",
    "tf3d8f924aa6a",
    "t5345b5848933",
    "t4ff9c1e293e5",
    "t0e03ede57678",
    "t888f08d4580d",
    "tab9435be854d",
    "t3aba63c17401",
    "t11e4e5c595e4",
    "t82e4b1b104a9",
    "tef18364c563a",
    "t4574c1123575",
    "t1d971512979b",
    "t30978cd4fc16",
    "t582f4187fa17",
]


def test_defaults_of_hash_version_1_stay():
    """If this fails because a default changed: raise HASH_VERSION. New fields need nothing."""
    assert HASH_VERSION == 1
    assert {path: getattr_path(TrialSpec(), path) for path in DEFAULTS_1} == DEFAULTS_1
    assert set(DEFAULTS_1) <= set(TRIAL_PATHS)


@pytest.mark.parametrize(("fields", "hashed", "trial_id"), PINNED)
def test_an_id_is_12_digits_of_sha256_over_what_differs_from_the_defaults(fields, hashed: str, trial_id: str):
    assert TrialSpec.model_validate(fields).trial_id == trial_id
    assert trial_id == "t" + hashlib.sha256(hashed.encode()).hexdigest()[:12]


def test_the_ids_of_a_whole_study_stay(tmp_path: Path):
    assert ids(DEMO, tmp_path) == DEMO_IDS


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("train: {lr: 1e-3}", "train: {lr: 0.001}"),
        ("train: {lr: 1e-3}", "train: {lr: 1.0E-3}"),
        ("train: {epochs: 15}", "train: {epochs: 15.0}"),
        ("train: {epochs: 14}", ""),
        ("data: {scale: 1}", "data: {name: digits}"),
        ("net: {negative_slope: 0, activation: prelu}", "net: {activation: prelu, negative_slope: 0.0}"),
        ("net: {name: 'a:b', options: {x: 1, y: 2}}", "net: {options: {y: 2, x: 1}, name: 'a:b'}"),
    ],
)
def test_the_way_a_number_is_written_and_the_order_of_keys_do_not_change_an_id(one: str, other: str, tmp_path: Path):
    assert ids(one, tmp_path) == ids(other, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "question: why?",
        "verdict: {threshold: 0.3}",
        "run: {engine: ray, device: cpu, jobs: 3, threads: 2, gpus_per_trial: 0.5, checkpoint_every_s: 1}",
        "data: {folder: /data, download: true, cache: true}",
        "run: {workers: 4}",
    ],
)
def test_what_does_not_change_the_numbers_is_not_in_the_id(text: str, tmp_path: Path):
    assert ids(text, tmp_path) == ["ta7748c723fae"]


def test_the_name_of_a_study_is_not_in_the_id():
    assert plan(Study(name="a"))[0].id == plan(Study(name="b"))[0].id


@pytest.mark.parametrize("path", sorted(set(TRIAL_PATHS) - {"data.options", "net.options", "net.name", "data.name"}))
def test_every_field_that_a_trial_uses_is_in_its_id(path: str):
    """Each field is set, in a trial that uses it, to a value that is not its default."""
    users = {
        "init.std": {"init": {"scheme": "gaussian"}},
        "net.negative_slope": {"net": {"activation": "leaky_relu"}},
        "train.milestones": {"train": {"schedule": "step", "milestones": [1.0]}},
        "train.factor": {"train": {"schedule": "plateau"}},
        "train.patience": {"train": {"schedule": "plateau"}},
        "train.most_cuts": {"train": {"schedule": "plateau"}},
        **{f"data.{key}": {"data": {"name": "imagefolder"}} for key in ("crop", "jitter", "val_side", "color_std")},
        "train.auxiliary_weight": {"train": {"auxiliary": [3]}},
        "train.shallow_epochs": {"train": {"shallow_depth": 11}},
        "data.classes": {"data": {"name": "synthetic"}},
        "data.channels": {"data": {"name": "synthetic"}},
        "train.slope_lr_factor": {"net": {"activation": "prelu_shared"}},
        "data.sequence": {"data": {"name": "topics"}},
        **{path: {"net": {"name": "transformer"}} for path in ("net.heads", "net.branch_factor", "init.embedding_std")},
        "train.betas": {"train": {"optimizer": "adamw"}},
        "train.eps": {"train": {"optimizer": "muon"}},
        "train.optimizer_options": {"train": {"optimizer": "a:b"}},
    }
    values = {
        "data.flip": True,
        "data.image_size": 16,
        "data.sequence": 32,
        "init.embedding_std": 0.02,
        "init.branches": "scaled",
        "data.train_examples": 99,
        "data.val_examples": 99,
        "net.widths": (8, 8),
        "net.downsample": "max_pool",
        "net.activation": "prelu",
        "net.negative_slope": 0.2,
        "init.scheme": "xavier",
        "init.mode": "fan_out",
        "init.distribution": "uniform",
        "init.linear_std": 0.1,
        "init.last_std": 0.1,
        "train.loss": "cross_entropy",
        "train.dropout": 0.5,
        "train.momentum": 0.5,
        "train.factor": 0.5,
        "net.norm": "batch",
        "net.skip": "identity",
        "train.schedule": "cosine",
        "train.milestones": (2.0,),
        "train.precision": "float64",
        "train.most_cuts": 2,
        "train.shallow_depth": 11,
        "train.auxiliary": (3,),
        "data.crop": 28,
        "data.jitter": (32, 64),
        "data.val_side": 32,
        "train.optimizer": "lion",
        "train.betas": (0.9, 0.9),
        "train.decay_exempt": "norms_and_biases",
        "train.clip_norm": 1.0,
        "train.optimizer_options": {"x": 1},
    }
    base = TrialSpec.model_validate(users.get(path, {}))
    section, _, key = path.rpartition(".")
    value = values[path] if path in values else getattr_path(TrialSpec(), path) + 1
    fields = base.model_dump()
    (fields[section] if section else fields)[key] = value
    changed, dropped = drop_unused(TrialSpec.model_validate(fields))
    assert path not in dropped
    assert changed.trial_id != drop_unused(base)[0].trial_id


@pytest.mark.parametrize(
    ("text", "unused"),
    [
        ("init: {scheme: gaussian, mode: fan_out}", {"init.mode"}),
        ("init: {scheme: he, std: 0.5}", {"init.std"}),
        ("init: {scheme: xavier, std: 0.5, mode: fan_out}", {"init.std"}),
        ("net: {negative_slope: 0.3}", {"net.negative_slope"}),
        ("net: {widths: [8, 8], width: 4, stages: 2}", {"net.width", "net.stages"}),
        ("net: {options: {a: 1}}", {"net.options"}),
        ("train: {milestones: [1], factor: 0.5, patience: 2}", {"train.milestones", "train.factor", "train.patience"}),
        ("train: {schedule: cosine, factor: 0.5}", {"train.factor"}),
        ("train: {schedule: step, milestones: [1], patience: 2}", {"train.patience"}),
        ("train: {schedule: plateau, milestones: [1], patience: 2}", {"train.milestones"}),
        (
            "train: {most_cuts: 2, shallow_epochs: 2, auxiliary_weight: 1}",
            {"train.most_cuts", "train.shallow_epochs", "train.auxiliary_weight"},
        ),
        (
            "data: {crop: 8, jitter: [9, 10], val_side: 9, color_std: 0.1}",
            {"data.crop", "data.jitter", "data.val_side", "data.color_std"},
        ),
        (
            "data: {name: imagefolder, shift: 2, channels: 1, options: {a: 1}}",
            {"data.shift", "data.channels", "data.options"},
        ),
        ("data: {name: tiny-imagenet, classes: 3}", {"data.classes"}),
        ("probe: {every: 0, examples: 8}", {"probe.examples"}),
        (
            "data: {name: topics, image_size: 8, scale: 2, flip: true, shift: 1}\n"
            "net: {name: lstm, heads: 2, norm: pre}",
            {"data.image_size", "data.scale", "data.flip", "data.shift", "net.heads", "net.norm"},
        ),
        ("data: {sequence: 8}\ninit: {embedding_std: 0.1}", {"data.sequence", "init.embedding_std"}),
        (
            "train: {betas: [0.9, 0.99], eps: 0.1, optimizer_options: {a: 1}}",
            {"train.betas", "train.eps", "train.optimizer_options"},
        ),
        ("train: {optimizer: adam, momentum: 0.5, betas: [0.9, 0.99], eps: 0.1}", {"train.momentum"}),
        ("train: {optimizer: lion, momentum: 0.5, betas: [0.9, 0.99], eps: 0.1}", {"train.momentum", "train.eps"}),
        ("train: {optimizer: muon, momentum: 0.5, betas: [0.9, 0.99], eps: 0.1}", set()),
        (
            "train: {optimizer: 'a:b', momentum: 0.5, eps: 0.1, weight_decay: 0, decay_exempt: norms_and_biases, "
            "clip_norm: 1}",
            {"train.momentum", "train.eps", "train.weight_decay", "train.decay_exempt"},
        ),
        ("data: {classes: 3, channels: 1, options: {a: 1}}", {"data.classes", "data.channels", "data.options"}),
        ("data: {name: 'a:b', image_size: 16, options: {a: 1}}", {"data.image_size"}),
        (
            "net: {name: 'a:b', depth: 9, width: 4, widths: [4], stages: 1, downsample: max_pool, linear_width: 8, "
            "activation: prelu, negative_slope: 0.1}\ntrain: {dropout: 0.5}",
            {
                "net.depth",
                "net.width",
                "net.widths",
                "net.stages",
                "net.downsample",
                "net.linear_width",
                "net.activation",
                "net.negative_slope",
                "train.dropout",
            },
        ),
    ],
)
def test_a_field_without_use_is_dropped_named_and_not_in_the_id(text: str, unused: set[str], tmp_path: Path):
    (trial,) = plan(load(text, tmp_path))
    assert trial.dropped == unused
    assert {path: getattr_path(trial.spec, path) for path in unused} == {
        path: getattr_path(TrialSpec(), path) for path in unused
    }
    assert trial.id == trial.spec.trial_id


def load(text: str, folder: Path) -> Study:
    path = folder / "x.yaml"
    path.write_text(f"name: x\n{text}")
    return load_study(path)


def ids(text: str, folder: Path) -> list[str]:
    return [trial.id for trial in plan(load(text, folder))]
