"""Wrong study files and what is said of them: one line for each mistake, at the path that the user wrote."""

from pathlib import Path

import pytest

from initlab.plan.plan import plan
from initlab.study.mistakes import StudyError
from initlab.study.study import load_study

TOP = "name, question, data, net, init, train, probe, verdict, run, seed, grid, cases, claims"
NET = (
    "name, depth, width, widths, stages, downsample, linear_width, activation, negative_slope, norm, skip, heads, "
    "branch_factor, options"
)
NETS = "plain, mlp, transformer, lstm, small-14, small-30, vgg-16, vgg-19, A, B, C, B+3, B+6, B+9, pkg.module:callable"
INIT = "scheme, mode, distribution, std, linear_std, last_std, last_factor, embedding_std, branches"
SETS = (
    "digits, cifar10, cifar100, fashion-mnist, synthetic, topics, imagefolder, imagenet, tiny-imagenet, "
    "pkg.module:callable"
)
SCHEMES = (
    "gaussian, xavier, he, lecun, truncated_normal, orthogonal, delta_orthogonal, torch_default, lsuv, solved, siren, "
    "pkg.module:callable"
)
MAPPING = "a mapping (`key: value` lines)"
INIT_PATHS = ", ".join(f"init.{key}" for key in INIT.split(", "))
ONCE = "allowed: to set it once, for the whole study"
NAME = "allowed: letters, digits, '.', '_' and '-', starting with a letter or digit"

# what stands under `name: x` -> the lines without the file
FIELDS = {
    # keys
    "nett: {depth: 22}": [f"nett: unknown key (got 'nett'); allowed: {TOP}; did you mean net?"],
    "lr: 0.1": [f"lr: unknown key (got 'lr'); allowed: {TOP}; did you mean train.lr?"],
    "banana: 0.1": [f"banana: unknown key (got 'banana'); allowed: {TOP}"],
    "net.depth: 22": [
        f"net.depth: unknown key (got 'net.depth'); allowed: {TOP}; dotted paths are for grid, cases and --set, "
        "write `net: {depth: ...}`"
    ],
    "init: {mdoe: fan_in}": [f"init.mdoe: unknown key (got 'mdoe'); allowed: {INIT}; did you mean init.mode?"],
    "net: {lr: 0.1}": [f"net.lr: unknown key (got 'lr'); allowed: {NET}; did you mean train.lr?"],
    "net: {3: 22}": ["line 2, column 7: a key that is not text (got '3'); put it in quotes if it is"],
    "? [a, b]\n: 3": ["line 2, column 3: a key that is not text (got a list or a mapping); put it in quotes if it is"],
    # A whole number that no float holds.
    f"run: {{gpus_per_trial: 1{'0' * 400}}}": [
        "run.gpus_per_trial: out of range (got a whole number of about 401 digits); allowed: a number above 0, or auto"
    ],
    # claims
    "claims: [{claim: reaches, arm: {seed: 0}, than_: 1}]": [
        "claims[0].than_: unknown key (got 'than_'); allowed: claim, arm, than, times, by, error, figure; "
        "did you mean claims[0].than?"
    ],
    "claims: [{claim: fastest, arm: {seed: 0}}]": [
        "claims[0].claim: unknown value (got 'fastest'); allowed: faster, reaches, never_reaches, within, same_order; "
        "did you mean 'faster'?"
    ],
    "claims: [{claim: faster, arm: {init.scheme: he}}]": [
        "claims[0]: faster needs than (got arm); allowed: arm, than, times"
    ],
    "claims: [{claim: reaches, arm: {init.scheme: he}, by: 0.1}]": [
        "claims[0]: reaches has no use for by; allowed: arm"
    ],
    "claims: [{claim: within, arm: {init.scheme: he}, by: 0.1}]": [
        "claims[0]: within compares with one of two (got both or neither); allowed: arm, by, error, than"
    ],
    "claims: [{claim: faster, arm: {init.scheme: he}, than: {init.scheme: he}}]": [
        "claims[0]: than says what arm says (got one arm, not two); allowed: arm, than, times"
    ],
    "claims: [{claim: reaches, arm: {init.mdoe: fan_in, run.jobs: 2}}, he]": [
        "claims[1]: wrong type (got 'he'); allowed: a mapping (`key: value` lines)"
    ],
    "claims: [{claim: reaches, arm: {init.mdoe: fan_in, net.depth: deep}}]": [
        f"claims[0].arm.init.mdoe: no such field (got 'init.mdoe'); allowed: {INIT_PATHS}; did you mean init.mode?",
        "claims[0].arm.net.depth: wrong type (got 'deep'); allowed: a whole number",
    ],
    # values
    "init: {scheme: hee}": [f"init.scheme: unknown scheme (got 'hee'); allowed: {SCHEMES}; did you mean 'he'?"],
    "init: {scheme: orthogonl}": [
        f"init.scheme: unknown scheme (got 'orthogonl'); allowed: {SCHEMES}; did you mean 'orthogonal'?"
    ],
    "init: {scheme: [he]}": ["init.scheme: wrong type (got ['he']); allowed: text"],
    "init: {scheme: 'a:b:c'}": [f"init.scheme: not a usable code name (got 'a:b:c'); allowed: {SCHEMES}"],
    "data: {name: digit}": [f"data.name: unknown data set (got 'digit'); allowed: {SETS}; did you mean 'digits'?"],
    "net: {name: plane}": [f"net.name: unknown net (got 'plane'); allowed: {NETS}; did you mean 'plain'?"],
    "net: {name: 'a:b:c'}": [f"net.name: not a usable code name (got 'a:b:c'); allowed: {NETS}"],
    "net: {skip: identiy}": [
        "net.skip: unknown value (got 'identiy'); allowed: none, identity; did you mean 'identity'?"
    ],
    "net: {skip: identity, depth: 9}": [
        "net.skip: no pair to skip (got identity for 6 convolutions); allowed: none, or more layers in a stage"
    ],
    "net: {norm: layer}": ["net.norm: unknown value (got 'layer'); allowed: none, batch, pre, post"],
    "net: {name: small-14}": ["data.image_size: too small for small-14 (got 8x8 pixels); allowed: at least 77x77"],
    "data: {name: cifar10}\ngrid: {net.name: [plain, B], data.image_size: [96, 111]}": [
        "grid.data.image_size: too small for B (got 96x96 pixels); allowed: at least 111x111"
    ],
    "train: {slope_lr_factor: -1}": ["train.slope_lr_factor: out of range (got -1); allowed: at least 0"],
    "net: {name: 'x:'}": [f"net.name: not a usable code name (got 'x:'); allowed: {NETS}"],
    "data: {name: ':x'}": [f"data.name: not a usable code name (got ':x'); allowed: {SETS}"],
    "net: {name: 'a:b', options: {start: 2020-01-01}}": [
        "net.options: not plain data (got 2020-01-01); "
        "allowed: text, finite numbers, true, false, null, lists and mappings"
    ],
    # types
    "train: {lr: fast}": ["train.lr: wrong type (got 'fast'); allowed: a number"],
    "train: {lr: '1e-3'}": ["train.lr: wrong type (got '1e-3'); allowed: a number"],
    "train: {lr: [0.1]}": ["train.lr: wrong type (got [0.1]); allowed: a number"],
    "train: {lr: true}": ["train.lr: wrong type (got true); allowed: a number"],
    "train: {lr: }": ["train.lr: wrong type (got nothing); allowed: a number"],
    "question: 3": ["question: wrong type (got 3); allowed: text"],
    "seed: true": ["seed: wrong type (got true); allowed: a whole number"],
    "seed: 2020-01-01": ["seed: wrong type (got 2020-01-01); allowed: a whole number"],
    "net: {depth: 30.0}": ["net.depth: wrong type (got 30.0); allowed: a whole number"],
    "data: {flip: 1}": ["data.flip: wrong type (got 1); allowed: true or false"],
    "net: ": [f"net: wrong type (got nothing); allowed: {MAPPING}"],
    "net: []": [f"net: wrong type (got []); allowed: {MAPPING}"],
    "train: {milestones: 3}": ["train.milestones: wrong type (got 3); allowed: a list"],
    "net: {widths: [16, a, 0]}": [
        "net.widths[1]: wrong type (got 'a'); allowed: a whole number",
        "net.widths[2]: out of range (got 0); allowed: at least 1",
    ],
    # ranges
    "train: {lr: 0}": ["train.lr: out of range (got 0); allowed: above 0"],
    "train: {lr: -1e-3}": ["train.lr: out of range (got -0.001); allowed: above 0"],
    "train: {lr: .inf}": ["train.lr: out of range (got inf); allowed: a finite number"],
    "train: {weight_decay: .nan}": ["train.weight_decay: out of range (got nan); allowed: a finite number"],
    "train: {momentum: 1}": ["train.momentum: out of range (got 1); allowed: below 1"],
    "train: {dropout: 1.0}": ["train.dropout: out of range (got 1.0); allowed: below 1"],
    "train: {epochs: 1e7}": ["train.epochs: out of range (got 10000000.0); allowed: at most 1000000"],
    f"train: {{lr: 1{'0' * 400}}}": [
        "train.lr: out of range (got a whole number of about 401 digits); allowed: a finite number"
    ],
    "seed: -1": ["seed: out of range (got -1); allowed: at least 0"],
    "seed: 9223372036854775808": ["seed: out of range (got 9223372036854775808); allowed: below 9223372036854775808"],
    "verdict: {threshold: 1}": ["verdict.threshold: out of range (got 1); allowed: below 1"],
    "run: {jobs: 0}": ["run.jobs: out of range (got 0); allowed: at least 1"],
    "net: {widths: []}": ["net.widths: empty (got []); allowed: at least one value"],
    # fields that do not fit together
    "train: {batch_size: 1438}": ["train.batch_size: larger than the training set (got 1438); allowed: at most 1437"],
    "data: {train_examples: 40}\ntrain: {batch_size: 64}": [
        "train.batch_size: larger than the training set (got 64); allowed: at most 40"
    ],
    "data: {val_examples: 361}": ["data.val_examples: more than digits has (got 361); allowed: at most 360"],
    "probe: {examples: 2000}": ["probe.examples: more than the training set has (got 2000); allowed: at most 1437"],
    "data: {shift: 8}": ["data.shift: moves images out of sight (got 8); allowed: below their 8 pixels"],
    "net: {depth: 5}": [
        "net.depth: too small for 3 stages (got 5); allowed: at least 6, 3 convolutions and 3 linear layers"
    ],
    "net: {stages: 5}": [
        "net.stages: too many for images of 8 pixels (got 5); allowed: at most 4, since the map halves between them"
    ],
    "net: {widths: [4, 4, 4, 4]}\ndata: {image_size: 4}": [
        "net.widths: too many for images of 4 pixels (got 4); allowed: at most 3, since the map halves between them"
    ],
    "train: {optimizer: AdamW}": [
        "train.optimizer: unknown optimiser (got 'AdamW'); allowed: sgd, adamw, adam, lion, muon, pkg.module:callable; "
        "did you mean 'adamw'?"
    ],
    "train: {optimizer: adam, betas: [0.9, 1.0], eps: 0, clip_norm: 0}": [
        "train.betas[1]: out of range (got 1.0); allowed: below 1",
        "train.eps: out of range (got 0); allowed: above 0",
        "train.clip_norm: out of range (got 0); allowed: above 0",
    ],
    "train: {optimizer: adam, betas: [0.9, 0.99, 0.9]}": [
        "train.betas: too many values (got [0.9, 0.99, 0.9]); allowed: 2 of them"
    ],
    "train: {epochs: 3, warmup_epochs: 4, accumulate: 5}": [
        "train.warmup_epochs: longer than the training (got 4); allowed: at most its 3 epochs",
        "train.accumulate: does not part the batch into equal slices (got 5 for 32); "
        "allowed: a divisor of train.batch_size",
    ],
    "train: {accumulate: 2}\nnet: {norm: batch}": [
        "train.accumulate: BatchNorm's statistics are the whole batch's (got 2); allowed: 1, or net.norm none"
    ],
    "train: {epochs: 0.01}": ["train.epochs: less than one step (got 0.01); allowed: at least 0.0227"],
    "train: {epochs: 1e6, batch_size: 1}": [
        "train.epochs: more than 100,000,000 steps (got 1e+06); allowed: at most 69589"
    ],
    "train: {schedule: step}": [
        "train.milestones: empty (got nothing); allowed: the epochs at which lr falls under the step schedule"
    ],
    # given twice
    "seed: 1\nseed: 2": ["seed: given twice (got it on lines 2 and 3); keep one"],
    "train:\n  lr: 0.1\n  epochs: 2\n  lr: 0.1": ["train.lr: given twice (got it on lines 3 and 5); keep one"],
    "grid:\n  seed: [1]\n  seed: [2]": ["grid.seed: given twice (got it on lines 3 and 4); keep one"],
    "cases:\n  - {net.depth: 22, net.depth: 30}": [
        "cases[0].net.depth: given twice (got it on lines 3 and 3); keep one"
    ],
    # grid
    "grid: ": ["grid: empty (got nothing); give it something to vary, or remove it"],
    "grid: {}": ["grid: empty (got {}); give it something to vary, or remove it"],
    "grid: 3": [f"grid: wrong type (got 3); allowed: {MAPPING}"],
    "grid: {seed: []}": ["grid.seed: empty (got []); allowed: at least one value"],
    "grid: {seed: 3}": ["grid.seed: wrong type (got 3); allowed: a list"],
    "grid: {3: [1]}": ["line 2, column 8: a key that is not text (got '3'); put it in quotes if it is"],
    "grid: {init.mdoe: [fan_in]}": [
        f"grid.init.mdoe: no such field (got 'init.mdoe'); allowed: {INIT_PATHS}; did you mean init.mode?"
    ],
    "grid: {banana: [1]}": [
        "grid.banana: no such field (got 'banana'); allowed: a path in data, net, init, train, probe, seed"
    ],
    "grid: {net: [{depth: 22}]}": [
        "grid.net: a section, not a field (got 'net'); allowed: a path in it, e.g. net.name"
    ],
    "grid: {verdict.threshold: [0.1, 0.2]}": [
        f"grid.verdict.threshold: not part of a trial (got 'verdict.threshold'); {ONCE}"
    ],
    "grid: {run.jobs: [1, 2]}": [f"grid.run.jobs: not part of a trial (got 'run.jobs'); {ONCE}"],
    "grid: {data.folder: [a, b]}": [f"grid.data.folder: not part of a trial (got 'data.folder'); {ONCE}"],
    "grid: {init.scheme: [he, xaver], seed: [-1, 0.5]}": [
        f"grid.init.scheme: unknown scheme (got 'xaver'); allowed: {SCHEMES}; did you mean 'xavier'?",
        "grid.seed: out of range (got -1); allowed: at least 0",
        "grid.seed: wrong type (got 0.5); allowed: a whole number",
    ],
    "grid: {data.name: [digits, cifar]}": [
        f"grid.data.name: unknown data set (got 'cifar'); allowed: {SETS}; did you mean 'cifar10'?"
    ],
    "grid: {net.name: ['a:b:c', plain]}": [f"grid.net.name: not a usable code name (got 'a:b:c'); allowed: {NETS}"],
    "grid: {train.batch_size: [32, 5000]}": [
        "grid.train.batch_size: larger than the training set (got 5000); allowed: at most 1437"
    ],
    "grid: {seed: [0, 1, 0]}": ["grid.seed: duplicate trial (got 0 twice); keep one"],
    "grid: {train.epochs: [14, 14.0]}": ["grid.train.epochs: duplicate trial (got 14.0 twice); keep one"],
    "grid: {train.lr: [1e-3, 0.001]}": ["grid.train.lr: duplicate trial (got 0.001 twice); keep one"],
    # cases
    "cases: []": ["cases: empty (got []); give it something to vary, or remove it"],
    "cases: {net.depth: 22}": ["cases: wrong type (got {'net.depth': 22}); allowed: a list"],
    "cases: [3]": [f"cases[0]: wrong type (got 3); allowed: {MAPPING}"],
    "cases: [{}, {init.schem: he}]": [
        f"cases[1].init.schem: no such field (got 'init.schem'); allowed: {INIT_PATHS}; did you mean init.scheme?"
    ],
    "cases: [{net: {depth: 22}}]": [
        "cases[0].net: a section, not a field (got 'net'); allowed: a path in it, e.g. net.name"
    ],
    "cases: [{net.name: plian}]": [
        f"cases[0].net.name: unknown net (got 'plian'); allowed: {NETS}; did you mean 'plain'?"
    ],
    "cases: [{net.depth: 22}, {net.depth: 5}]": [
        "cases[1].net.depth: too small for 3 stages (got 5); allowed: at least 6, 3 convolutions and 3 linear layers"
    ],
    "grid: {seed: [1]}\ncases: [{seed: 3}]": ["cases[0].seed: set by the grid too (got 3); vary a path in one of them"],
    "cases: [{net.depth: 22}, {seed: 1}, {net.depth: 22}]": [
        "cases[2]: duplicate trial (got the same as cases[0]); keep one"
    ],
    "cases: [{}, {net.depth: 30}]": ["cases[1]: duplicate trial (got the same as cases[0]); keep one"],
    # YAML
    "net: {depth: 22": ["line 2, column 16: while parsing a flow mapping, expected ',' or '}', but got '<stream end>'"],
    "a: b: c": ["line 2, column 5: mapping values are not allowed here"],
    "seed: 2024-13-45": ["line 2, column 7: not a valid timestamp (got '2024-13-45'); put it in quotes if it is text"],
    "net: &net {options: *net}": ["line 2, column 6: an alias of what it stands in; write out what it means"],
    'question: "\\ud83d"': ["line 2, column 11: half of a surrogate pair; write the character itself"],
    "question: \0": ["line 2: a control character (got '\\x00'); a study is plain text"],
    f"seed: {'[' * 2000}": ["nested too deeply; a study has sections, fields and lists"],
    # several at once, of every kind that a file can have
    "nett: {}\nseed: 1\nseed: 1.5\ntrain: {lr: 0}\ngrid: {init.mode: [fan]}\ncases: [{seed: a}]": [
        "seed: given twice (got it on lines 3 and 4); keep one",
        "train.lr: out of range (got 0); allowed: above 0",
        "seed: wrong type (got 1.5); allowed: a whole number",
        f"nett: unknown key (got 'nett'); allowed: {TOP}; did you mean net?",
        "grid.init.mode: unknown value (got 'fan'); allowed: fan_in, fan_out; did you mean 'fan_in'?",
        "cases[0].seed: wrong type (got 'a'); allowed: a whole number",
    ],
}

# whole files
FILES = {
    "": ["empty; a study needs at least `name`, see sweeps/demo.yaml"],
    "# nothing but this": ["empty; a study needs at least `name`, see sweeps/demo.yaml"],
    "- a list": ["not a mapping (got ['a list']); a study is `key: value` lines"],
    "just words": ["not a mapping (got 'just words'); a study is `key: value` lines"],
    "question: why?": ["name: missing (got nothing); give it a value"],
    "name: a/b": [f"name: not a usable name (got 'a/b'); {NAME}"],
    "name: ''": [f"name: not a usable name (got ''); {NAME}"],
    "name: 2015": ["name: wrong type (got 2015); allowed: text"],
    "name: a\n---\nname: b": ["line 2, column 1: expected a single document in the stream, but found another document"],
}


def mistakes(path: Path, overrides: tuple[str, ...] = ()) -> list[str]:
    """The lines that `initlab plan` prints of a study file."""
    with pytest.raises(StudyError) as caught:
        plan(load_study(path, overrides), str(path))
    assert str(caught.value) == "\n".join(caught.value.lines)
    return caught.value.lines


@pytest.mark.parametrize(("text", "expected"), FIELDS.items())
def test_a_wrong_field_is_named_at_the_users_path_with_what_is_allowed(text: str, expected: list[str], tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text(f"name: x\n{text}")
    assert mistakes(path) == [f"{path}: {line}" for line in expected]


@pytest.mark.parametrize(("text", "expected"), FILES.items())
def test_a_wrong_file_says_what_a_study_needs(text: str, expected: list[str], tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    assert mistakes(path) == [f"{path}: {line}" for line in expected]


def test_a_file_that_is_none_is_named(tmp_path: Path):
    absent, binary, inside = tmp_path / "no.yaml", tmp_path / "x.png", tmp_path / "x.png" / "y.yaml"
    binary.write_bytes(b"\x89PNG\xff\xfe")
    assert mistakes(absent) == [f"{absent}: no such study file; give the path of a YAML file, e.g. sweeps/demo.yaml"]
    assert mistakes(tmp_path) == [f"{tmp_path}: a folder, not a study file; give the path of a YAML file in it"]
    assert mistakes(binary) == [f"{binary}: not text in UTF-8; a study is a YAML file"]
    assert mistakes(inside) == [f"{inside}: cannot be read (Not a directory); give the path of a YAML file"]


def test_a_few_lines_that_stand_for_billions_of_values_are_refused(tmp_path: Path):
    path = tmp_path / "x.yaml"
    lines = ["name: x", "net:", "  options:", "    a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"    a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    path.write_text("\n".join(lines))
    assert mistakes(path) == [
        f"{path}: line 1, column 1: too large (got more than 1,000,000 values, aliases spelled out); use `grid`"
    ]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.lr", "'train.lr': not an assignment; allowed: dotted.path=value, e.g. train.lr=0.01"),
        ("=3", "'=3': not an assignment; allowed: dotted.path=value, e.g. train.lr=0.01"),
        ("train.lr=fast", "train.lr: wrong type (got 'fast'); allowed: a number"),
        ("train.lr=", "train.lr: wrong type (got nothing); allowed: a number"),
        ("train.lr=a: b: c", "train.lr: line 1, column 5: mapping values are not allowed here"),
        ("seed=-1", "seed: out of range (got -1); allowed: at least 0"),
        ("init={scheme: he}", "init: a section, not a field (got 'init'); allowed: a path in it, e.g. init.scheme"),
        (
            "init.mdoe=fan_in",
            f"init.mdoe: no such field (got 'init.mdoe'); allowed: {INIT_PATHS}; did you mean init.mode?",
        ),
        (
            "name.x=3",
            "name.x: no such field (got 'name.x'); allowed: a path in data, net, init, train, probe, verdict, run, "
            "name, question, seed, grid, cases, claims; did you mean name?",
        ),
        ("grid.seed=3", "grid.seed: wrong type (got 3); allowed: a list"),
        ("grid.seed=[1, 1]", "grid.seed: duplicate trial (got 1 twice); keep one"),
        (
            "grid.sed=[1]",
            "grid.sed: no such field (got 'sed'); allowed: a path in data, net, init, train, probe, seed; "
            "did you mean seed?",
        ),
    ],
)
def test_a_wrong_override_is_named_as_one(override: str, line: str, tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text("name: x")
    assert mistakes(path, (override,)) == [f"--set {line}"]


def test_wrong_overrides_and_wrong_fields_come_together(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text("name: x\nnet: 3\ntrain: {lr: 0}")
    assert mistakes(path, ("seed=a", "train.epochs=0", "net.depth=22")) == [
        "--set seed: wrong type (got 'a'); allowed: a whole number",
        "--set train.epochs: out of range (got 0); allowed: above 0",
        f"{path}: net: wrong type (got 3); allowed: {MAPPING}",
        f"{path}: train.lr: out of range (got 0); allowed: above 0",
    ]
