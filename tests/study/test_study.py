"""Reading study files: what a right one means, how --set changes it, and that no file makes more than a StudyError."""

import json
import random
from pathlib import Path

import pytest
import yaml

from initlab.plan.cost import cost
from initlab.plan.plan import plan
from initlab.study.mistakes import StudyError
from initlab.study.paths import TRIAL_PATHS, getattr_path
from initlab.study.sections import Net
from initlab.study.spec import TrialSpec
from initlab.study.study import SETTABLE, Study, dump_study, load_study, study_schema

DEMO = Path(__file__).parents[2] / "sweeps" / "demo.yaml"


@pytest.fixture
def study(tmp_path: Path):
    """Loads the study that a text describes under `name: x`."""

    def load(text: str, *overrides: str) -> Study:
        path = tmp_path / "x.yaml"
        path.write_text(f"name: x\n{text}")
        return load_study(path, overrides)

    return load


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("2.5e3", 2500.0),
        ("1.e-2", 0.01),
        (".5e1", 5.0),
        ("+1e2", 100.0),
        ("1_0e1", 100.0),
    ],
)
def test_numbers_are_read_as_people_write_them(study, text: str, value: float):
    assert study(f"train: {{lr: {text}}}").train.lr == value
    assert study("", f"train.lr={text}").train.lr == value


def test_a_negative_exponent_form_is_a_number_where_one_may_be_negative(study):
    assert study("net: {negative_slope: -2e-3}").net.negative_slope == -0.002


def test_a_merge_key_takes_over_what_is_not_given(study):
    net = study("net: {<<: {depth: 22, width: 8}, width: 4}").net
    assert (net.depth, net.width) == (22, 4)


def test_points_are_cases_times_grid_with_the_last_path_fastest(study):
    points = list(study("grid: {init.scheme: [he, xavier], seed: [0, 1]}\ncases: [{net.depth: 22}, {}]").points())
    assert points[:3] == [
        {"net.depth": 22, "init.scheme": "he", "seed": 0},
        {"net.depth": 22, "init.scheme": "he", "seed": 1},
        {"net.depth": 22, "init.scheme": "xavier", "seed": 0},
    ]
    assert len(points) == 8
    assert points[-1] == {"init.scheme": "xavier", "seed": 1}


def test_an_override_sets_a_field_and_keeps_its_neighbours(study):
    loaded = study("train: {lr: 0.1, epochs: 2}", "train.lr=1e-2", "verdict.threshold=0.3", "name=y", "data.folder=d")
    assert (loaded.train.lr, loaded.train.epochs) == (0.01, 2.0)
    assert (loaded.verdict.threshold, loaded.name, loaded.data.folder) == (0.3, "y", "d")


def test_a_callers_options_go_over_the_run_section_and_are_checked_as_it_is(study):
    loaded = study("run: {jobs: 3, pack: 2}")
    run = loaded.run_with(jobs=4, pack=None, device="cpu", gpus_per_trial=1)
    assert (run.jobs, run.pack, run.device, run.gpus_per_trial) == (4, 2, "cpu", 1.0)
    with pytest.raises(StudyError) as caught:
        loaded.run_with(jobs=0, gpus_per_trial=0.0, engine="slurm")
    assert caught.value.lines == [
        "--engine: unknown value (got 'slurm'); allowed: inline, ray",
        "--jobs: out of range (got 0); allowed: at least 1",
        "--gpus-per-trial: out of range (got 0.0); allowed: a number above 0, or auto",
    ]


def test_a_section_with_options_is_the_key_of_a_cache():
    nets = [Net(name="a:b", options={"hidden": hidden}) for hidden in (4, 4, 5)]
    assert len(set(nets)) == 2
    assert len({TrialSpec(net=net) for net in nets}) == 2


def test_an_override_fixes_a_path_that_the_grid_varies(study):
    loaded = study("grid: {seed: [0, 1], init.scheme: [he, xavier]}", "seed=7")
    assert loaded.grid == {"init.scheme": ["he", "xavier"]}
    assert [trial.spec.seed for trial in plan(loaded)] == [7, 7]


def test_an_override_of_all_that_varies_leaves_one_trial(study):
    assert len(plan(study("grid: {seed: [0, 1]}", "seed=7"))) == 1
    assert len(plan(study("cases: [{net.depth: 22}, {net.depth: 30}]", "net.depth=14"))) == 1


def test_an_override_fixes_a_path_that_cases_vary_and_keeps_the_rest_of_each_case(study):
    loaded = study(
        "cases: [{net.depth: 22, seed: 1}, {net.depth: 30, seed: 1}, {net.depth: 30, seed: 2}]", "net.depth=14"
    )
    assert loaded.cases == [{"seed": 1}, {"seed": 2}]
    assert loaded.net.depth == 14


def test_an_override_of_the_grid_replaces_or_adds_values(study):
    loaded = study("grid: {seed: [0, 1]}", "grid.seed=[5, 6, 7]", "grid.init.scheme=[he, xavier]")
    assert loaded.grid == {"seed": [5, 6, 7], "init.scheme": ["he", "xavier"]}


def test_the_last_of_two_overrides_wins(study):
    assert study("", "seed=1", "seed=2").seed == 2
    assert study("grid: {seed: [0, 1]}", "seed=3", "grid.seed=[4]").grid == {"seed": [4]}


def test_an_override_may_not_vary_what_a_case_sets(study):
    with pytest.raises(StudyError, match=r"cases\[0\].seed: set by the grid too"):
        study("cases: [{seed: 3}]", "grid.seed=[1, 2]")


@pytest.mark.parametrize("overrides", [(), ("seed=3", "net.depth=22")])
def test_a_study_written_out_reads_back_as_itself(overrides: tuple[str, ...], tmp_path: Path):
    loaded = load_study(DEMO, overrides)
    written = tmp_path / "study.yaml"
    written.write_text(dump_study(loaded))
    assert load_study(written) == loaded


def test_a_study_that_varies_nothing_reads_back_too(study, tmp_path: Path):
    loaded = study("train: {lr: 1.0e-7, milestones: [1, 2.5]}\nnet: {widths: [8, 8]}")
    written = tmp_path / "study.yaml"
    written.write_text(dump_study(loaded))
    assert load_study(written) == loaded


def test_a_study_made_in_python_is_checked_like_a_file():
    with pytest.raises(StudyError, match=r"^grid.net.dpeth: no such field"):
        plan(Study(name="x", grid={"net.dpeth": [22]}))
    with pytest.raises(StudyError, match=r"^cases\[0\].seed: out of range"):
        plan(Study(name="x", cases=[{"seed": -1}]))


def test_the_schema_has_every_field_with_a_description_and_no_other():
    schema = study_schema()
    paths = set()
    for name, part in schema["properties"].items():
        section = schema["$defs"].get(part.get("$ref", "").rpartition("/")[2])
        assert part.get("description") or section["description"]
        if section is None:
            paths.add(name)
            continue
        assert section["additionalProperties"] is False
        paths |= {f"{name}.{key}" for key in section["properties"]}
        assert [key for key, field in section["properties"].items() if "description" not in field] == []
    assert paths == {*SETTABLE, "zip", "random"}
    assert schema["required"] == ["name"]
    assert schema["properties"]["grid"]["propertyNames"]["enum"] == TRIAL_PATHS


def test_an_editors_check_by_the_schema_accepts_the_demo_and_refuses_a_misspelling():
    jsonschema = pytest.importorskip("jsonschema")
    demo = yaml.safe_load(DEMO.read_text())
    jsonschema.validate(demo, study_schema())
    for wrong in ({"nett": {}}, {"grid": {"init.mdoe": ["fan_in"]}}, {"init": {"scheme": "hee"}}, {"seed": -1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**demo, **wrong}, study_schema())


ATOMS = [
    "null",
    "true",
    "no",
    "3",
    "-1",
    "0",
    "0.5",
    "1e-3",
    ".nan",
    ".inf",
    "1" + "0" * 400,
    "0x" + "f" * 5000,
    "he",
    "relu",
    "''",
    "'a:b'",
    "2020-01-01",
    "2024-13-45",
    "10:30:00",
    "=",
    "<<",
    "!!bool 3",
    "!!int x",
    "!!binary x",
    "!!set {a}",
    "!!timestamp q",
    "!!str [a]",
    '"\\ud800"',
    "*a",
    "&a 3",
    "&a [*a]",
    "[]",
    "{}",
    "[[]]",
    "plain",
    "digits",
    "synthetic",
    "1_0",
    "0b",
    "._",
    "?",
    "!foo",
    "@",
    "\t",
    "- a",
    "[",
    "}",
    "'",
    "\u2028",
    '"\\n"',
]
KEYS = [*SETTABLE, *(path.rpartition(".")[2] for path in SETTABLE), "<<", "=", "3", "null", "[a]", "{a: b}", '"a\\nb"']


def wild_value(r: random.Random, depth: int) -> str:
    kind = r.choice(["atom", "atom", "list", "mapping"]) if depth else "atom"
    if kind == "list":
        return "[" + ", ".join(wild_value(r, depth - 1) for _ in range(r.randrange(4))) + "]"
    if kind == "mapping":
        items = (f"{r.choice(KEYS)}: {wild_value(r, depth - 1)}" for _ in range(r.randrange(4)))
        return "{" + ", ".join(items) + "}"
    return r.choice(ATOMS)


def wild_line(r: random.Random) -> str:
    """A line of a study: a field's default or anything at all, at the field's place or anywhere."""
    path = r.choice(TRIAL_PATHS)
    section, _, key = path.rpartition(".")
    value = r.choice([wild_value(r, r.randrange(3)), json.dumps(getattr_path(TrialSpec(), path))])
    forms = [f"grid: {{{path}: [{value}]}}", f"cases: [{{{path}: {value}}}]", f"{r.choice(KEYS)}: {value}"]
    return r.choice([*forms, f"{section}: {{{key}: {value}}}" if section else f"{key}: {value}"])


def test_no_file_and_no_override_makes_anything_but_a_study_or_lines_of_mistakes(tmp_path: Path):
    path = tmp_path / "x.yaml"
    right = wrong = 0
    for seed in range(1200):
        r = random.Random(seed)
        path.write_text("\n".join(["name: x", *(wild_line(r) for _ in range(r.randrange(1, 3)))]))
        overrides = [f"{r.choice([*SETTABLE, 'grid.seed'])}={wild_value(r, 1)}" for _ in range(r.random() < 0.2)]
        try:
            for trial in plan(load_study(path, overrides), str(path)):
                cost(trial.spec)
            right += 1
        except StudyError as error:
            wrong += 1
            for line in error.lines:
                assert line.isprintable()
                assert line.startswith((f"{path}: ", "--set "))
                assert "Input should" not in line and "Value error" not in line  # pydantic's own words
    assert right > 50 and wrong > 500  # the draws reach both


def test_claims_survive_the_file_and_change_no_id(study, tmp_path: Path):
    claims = "claims: [{claim: faster, arm: {init.scheme: he}, than: {init.scheme: xavier}, times: 1.5}]"
    grid = "grid: {init.scheme: [he, xavier]}"
    claiming = study(f"{grid}\n{claims}")
    assert [trial.id for trial in plan(claiming)] == [trial.id for trial in plan(study(grid))]
    written = tmp_path / "written.yaml"
    written.write_text(dump_study(claiming))
    assert load_study(written) == claiming and claiming.claims[0].other() == {"init.scheme": "xavier"}
    # A store without claims is read by an initlab that knows none.
    assert "claims" not in dump_study(study(grid))
