"""The plan: which points are one trial, how many steps a trial has, what it costs, and how fast that is told."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from initlab.data.facts import FACTS
from initlab.plan.cost import Cost, Pace, cost, counts
from initlab.plan.plan import costliest_first, plan, waves
from initlab.study.mistakes import StudyError
from initlab.study.spec import TrialSpec
from initlab.study.study import Study

DEMO = Path(__file__).parents[2] / "sweeps" / "demo.yaml"


def trial(**sections) -> TrialSpec:
    return TrialSpec.model_validate(sections)


# Points and trials


def test_points_that_differ_only_in_fields_without_use_are_one_trial():
    trials = plan(Study(name="x", grid={"init.scheme": ["gaussian", "he"], "init.mode": ["fan_in", "fan_out"]}))
    assert [(t.spec.init.scheme, t.spec.init.mode) for t in trials] == [
        ("gaussian", "fan_in"),
        ("he", "fan_in"),
        ("he", "fan_out"),
    ]
    # Named though the first of the two gaussian points had the default
    assert [t.dropped for t in trials] == [{"init.mode"}, set(), set()]


def test_a_literal_duplicate_is_a_mistake_even_where_the_field_has_no_use():
    with pytest.raises(StudyError, match=r"grid.init.mode: duplicate trial"):
        plan(Study(name="x", grid={"init.scheme": ["gaussian"], "init.mode": ["fan_out", "fan_out"]}))


def test_cases_that_differ_only_in_fields_without_use_are_one_trial():
    (only,) = plan(Study(name="x", cases=[{"init.std": 0.1}, {"init.std": 0.2}]))
    assert (only.id, only.dropped) == (TrialSpec().trial_id, {"init.std"})


def test_trials_keep_the_order_of_cases_and_grid():
    trials = plan(Study(name="x", grid={"seed": [5, 3]}, cases=[{"net.depth": 22}, {"net.depth": 14}]))
    assert [(t.spec.net.depth, t.spec.seed) for t in trials] == [(22, 5), (22, 3), (14, 5), (14, 3)]
    assert len({t.id for t in trials}) == 4


def test_a_mistake_that_many_points_share_is_one_line():
    with pytest.raises(StudyError) as caught:
        plan(Study(name="x", grid={"seed": list(range(50)), "train.batch_size": [32, 2000]}), "x.yaml")
    assert caught.value.lines == [
        "x.yaml: grid.train.batch_size: larger than the training set (got 2000); allowed: at most 1437"
    ]


def test_a_grid_beyond_planning_is_refused_before_it_is_walked():
    thousand = list(range(1000))
    grid = {"seed": thousand, "train.patience": [n + 1 for n in thousand], "train.log_every": [n + 1 for n in thousand]}
    with pytest.raises(StudyError, match=r"grid: too many trials \(got 1,000,000,000\); allowed: at most 1,000,000"):
        plan(Study(name="x", grid=grid))


def test_the_costliest_trials_come_first_and_those_of_unknown_cost_last():
    # Twice the depth at a quarter of the epochs is cheaper; code is of unknown cost; a twin keeps its place.
    cases = [{"net.name": "a:b"}, {"net.depth": 60, "train.epochs": 3}, {}, {"train.epochs": 28}, {"seed": 1}]
    trials = plan(Study(name="x", cases=cases))
    assert [trials.index(trial) for trial in costliest_first(trials)] == [3, 2, 4, 1, 0]


def test_trials_that_start_from_a_shallow_net_come_in_a_second_wave_each_costliest_first():
    study = Study(name="x", train={"shallow_depth": 8}, grid={"net.depth": [14, 22], "seed": [0]})
    assert [[t.spec.net.depth for t in wave] for wave in waves(plan(study))] == [[8], [22, 14]]
    alone = Study(name="x", grid={"net.depth": [14, 22]})
    assert [[t.spec.net.depth for t in wave] for wave in waves(plan(alone))] == [[22, 14]]


# Steps, counted by hand


@pytest.mark.parametrize(
    ("examples", "batch_size", "epochs", "expected"),
    [
        (1437, 32, 14, (44, 616)),  # 44 x 32 = 1408, 29 images are left out of each epoch
        (1437, 32, 42, (44, 1848)),
        (1437, 1437, 3, (1, 3)),
        (1437, 719, 3, (1, 3)),
        (100, 10, 0.25, (10, 2)),  # 2.5 rounds to even
        (100, 10, 0.35, (10, 4)),  # 3.5 too
        (100, 10, 1.26, (10, 13)),
        (31, 32, 5, (0, 0)),
    ],
)
def test_steps_drop_the_short_batch_and_round_fractions_of_epochs(examples, batch_size, epochs, expected):
    assert trial(train={"batch_size": batch_size, "epochs": epochs}).steps(examples) == expected


@pytest.mark.parametrize(
    ("every", "per_epoch", "steps", "expected"),
    [
        (1, 4, 12, [0, 4, 8, 12]),
        (1, 4, 10, [0, 4, 8, 10]),  # and at the end
        (2, 4, 12, [0, 8, 12]),
        (0.5, 5, 10, [0, 2, 5, 8, 10]),  # 2.5, 5, 7.5, 10: halves round to even
        (0.03, 44, 10, [0, 1, 3, 4, 5, 7, 8, 9, 10]),  # every 1.32: 1.32 2.64 3.96 5.28 6.6 7.92 9.24
        (0.03, 10, 4, [0, 1, 2, 3, 4]),  # every 0.3 steps is every step
        (1e-12, 44, 5, [0, 1, 2, 3, 4, 5]),
        (100, 4, 12, [0, 12]),
    ],
)
def test_validation_steps(every, per_epoch, steps, expected):
    assert trial(train={"validate_every": every}).validation_steps(per_epoch, steps) == expected


def test_rows_stand_at_validations_logs_and_the_end_of_each_epoch():
    spec = trial(train={"validate_every": 1.5, "log_every": 3})
    # Validations 0 6 10, logs 3 6 9, epochs 4 8
    assert spec.row_steps(4, 10) == [0, 3, 4, 6, 8, 9, 10]


@pytest.mark.parametrize(
    ("every", "steps", "expected"),
    [(200, 616, [0, 200, 400, 600, 616]), (200, 400, [0, 200, 400]), (1, 3, [0, 1, 2, 3]), (5, 3, [0, 3]), (0, 9, [])],
)
def test_probe_steps(every, steps, expected):
    assert trial(probe={"every": every}).probe_steps(steps) == expected


# Cost


def test_the_cost_of_a_demo_trial_counted_by_hand():
    """30 layers on 1x16x16: 9 convolutions in each of three stages of 16, 32, 64 channels, maps of 16, 8, 4."""
    demo = cost(trial(data={"image_size": 16}))
    convs = [9 * (1 * 16 + 8 * 16 * 16), 9 * (16 * 32 + 8 * 32 * 32), 9 * (32 * 64 + 8 * 64 * 64)]
    linears = 1024 * 64 + 64 * 64 + 64 * 10
    assert demo.parameters == sum(convs) + linears + 9 * (16 + 32 + 64) + 64 + 64 + 10 == 481_674
    assert demo.multiply_adds == convs[0] * 256 + convs[1] * 64 + convs[2] * 16 + linears == 14_852_736
    assert demo.steps == 616
    # Rows at 0, every 50 up to 600, every 44 up to 616 (none is both); probes at 0, 200, 400, 600, 616
    rows, probes = 1 + 12 + 14, 5
    assert demo.storage_bytes == 12_000 + rows * 260 + probes * 30 * 95 + 8 * 481_674
    assert demo.seconds is None


def test_synthetic_data_takes_its_channels_and_classes_from_the_study():
    known = counts(trial(data={"name": "synthetic", "channels": 1, "classes": 5, "image_size": 16}))
    assert known is not None
    assert known.parameters == 481_674 - 5 * 64 - 5  # the demo's net with five classes fewer


def test_of_code_only_what_can_be_known_is_told():
    assert cost(trial(net={"name": "a:b"})) == Cost(None, None, 616, None, None, None)
    assert cost(trial(data={"name": "a:b"})) == Cost(None, None, None, None, None, None)


def test_the_expected_time_is_the_mean_pace_of_finished_trials_of_the_same_net():
    spec = trial(data={"image_size": 16})
    other_seed = trial(data={"image_size": 16}, seed=1, init={"scheme": "xavier"}, train={"epochs": 28})
    # 0.1 and 0.3 s a step.
    pace = Pace.of([(spec, 61.6 / 616), (other_seed, 369.6 / 1232)])
    assert cost(trial(data={"image_size": 16}, train={"epochs": 7}), pace).seconds == pytest.approx(308 * 0.2)


def test_the_expected_time_of_another_net_goes_by_multiply_adds():
    spec, larger = trial(data={"image_size": 16}), trial(data={"image_size": 16}, net={"width": 32})
    half_batch = trial(data={"image_size": 16}, train={"batch_size": 16, "epochs": 7})
    # 0.1 s for a step of 32 images.
    pace = Pace.of([(spec, 61.6 / 616)])
    ratio = counts(larger).multiply_adds / counts(spec).multiply_adds
    assert cost(larger, pace).seconds == pytest.approx(61.6 * ratio)
    assert half_batch.steps(FACTS["digits"].train) == (89, 623)
    assert cost(half_batch, pace).seconds == pytest.approx(623 * 0.05)


def test_finished_trials_of_code_tell_nothing():
    assert cost(TrialSpec(), Pace.of([(trial(net={"name": "a:b"}), 0.1)])).seconds is None
    assert cost(trial(net={"name": "a:b"}), Pace.of([(TrialSpec(), 0.1)])).seconds is None


# Speed


def test_ten_thousand_trials_are_planned_and_costed_in_seconds(capsys):
    grid = {"seed": list(range(1000)), "init.scheme": ["he", "xavier"], "train.lr": [0.001, 0.002, 0.003, 0.004, 0.005]}
    started = time.process_time()
    trials = plan(Study(name="x", grid=grid))
    planned = time.process_time()
    pace = Pace.of((t.spec, 60.0 / 616) for t in trials[:2000])
    costs = [cost(t.spec, pace) for t in trials]
    costed = time.process_time()
    with capsys.disabled():
        print(f"\n10,000 trials: plan {planned - started:.2f} s, cost {costed - planned:.2f} s")
    assert len(trials) == len(costs) == 10_000
    assert all(c.seconds == pytest.approx(60.0) for c in costs)
    assert costed - started < 10  # about 1 s where this was written


def test_a_plan_with_costs_imports_nothing_heavy():
    script = (
        "import sys; from initlab.plan.cost import cost; from initlab.plan.plan import plan\n"
        "from initlab.study.study import load_study, study_schema\n"
        f"trials = plan(load_study({str(DEMO)!r}, ['seed=3']))\n"
        "assert trials and all(cost(t.spec).steps for t in trials)\n"
        "study_schema()\n"
        "print([name for name in ('torch', 'pandas', 'matplotlib', 'ray', 'numpy', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")
