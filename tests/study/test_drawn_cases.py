"""`zip` and `random` of a study file: the cases that they stand for, and what is refused."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from initlab.plan.plan import plan
from initlab.study.mistakes import StudyError
from initlab.study.study import Study, dump_study, load_study

LR = {"samples": 400, "train.lr": {"log_uniform": [1e-4, 1e-1]}}


def test_zip_goes_along_its_lists_and_is_crossed_with_cases_and_grid(tiny: Callable[..., Path]) -> None:
    zipped = {"train.lr": [0.1, 0.2], "train.batch_size": [8, 16]}
    study = load_study(
        tiny(zip=zipped, cases=[{"train.momentum": 0.5}, {"train.momentum": 0.9}], grid={"seed": [0, 1]})
    )
    got = [(t.spec.train.momentum, t.spec.train.lr, t.spec.train.batch_size, t.spec.seed) for t in plan(study)]
    assert got == [(m, *pair, seed) for m in (0.5, 0.9) for pair in ((0.1, 8), (0.2, 16)) for seed in (0, 1)]


def test_draws_follow_their_distributions_and_the_seed(tiny: Callable[..., Path]) -> None:
    lrs = [case["train.lr"] for case in load_study(tiny(random=LR)).cases]
    assert len(set(lrs)) == 400 and 1e-4 <= min(lrs) < 2e-4 and 0.05 < max(lrs) <= 0.1
    # A third of the draws in each power of ten: 133 of 400, give or take four standard deviations of 9.4.
    for power in (-4, -3, -2):
        assert 95 < sum(power <= math.log10(lr) < power + 1 for lr in lrs) < 171
    more = LR | {"init.std": {"uniform": [0.01, 0.03]}, "seed": 0}
    assert [case["train.lr"] for case in load_study(tiny(random=more)).cases] == lrs, "another path changes no draw"
    assert [case["train.lr"] for case in load_study(tiny(random=LR | {"seed": 1})).cases] != lrs


def test_whole_numbers_and_choices_are_all_reached(tiny: Callable[..., Path]) -> None:
    drawn = {"samples": 6, "seed": 3, "train.batch_size": {"int": [4, 6]}, "init.scheme": {"choice": ["he", "xavier"]}}
    cases = load_study(tiny(random=drawn)).cases
    assert sorted((case["train.batch_size"], case["init.scheme"]) for case in cases) == [
        (size, scheme) for size in (4, 5, 6) for scheme in ("he", "xavier")
    ]


def test_the_stored_study_needs_no_drawing(tiny: Callable[..., Path], tmp_path: Path) -> None:
    study = load_study(tiny(random=LR | {"samples": 3}))
    stored = tmp_path / "stored.yaml"
    stored.write_text(dump_study(study))
    assert "random" not in stored.read_text()
    assert [t.id for t in plan(load_study(stored))] == [t.id for t in plan(study)]
    assert isinstance(study, Study)


def test_a_path_that_is_set_is_no_longer_drawn(tiny: Callable[..., Path]) -> None:
    study = load_study(tiny(random=LR | {"samples": 5}), ["train.lr=0.01"])
    assert [t.spec.train.lr for t in plan(study)] == [0.01]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"zip": {"seed": [1, 2], "train.lr": [0.1]}}, "zip: lists of unlike length (got seed 2, train.lr 1)"),
    ({"zip": {}}, "zip: not lists of values"),
    ({"zip": {"seed": 3}}, "zip: not lists of values"),
    ({"zip": {"train.speed": [1, 2]}}, "no such field"),
    ({"zip": {"seed": [1, 2]}, "grid": {"seed": [0]}}, "zip.seed: varied elsewhere too"),
    ({"random": 3}, "random: not a mapping"),
    ({"random": {"samples": 3}}, "random: no path to vary"),
    ({"random": {**LR, "samples": 0}}, "random.samples: out of range (got 0)"),
    ({"random": {**LR, "samples": True}}, "random.samples: out of range (got true)"),
    ({"random": {**LR, "seed": 0.5}}, "random.seed: wrong type (got 0.5)"),
    ({"random": {"samples": 3, "train.lr": {"normal": [0, 1]}}}, "random.train.lr: no distribution"),
    ({"random": {"samples": 3, "train.lr": {"uniform": [1, 0]}}}, "random.train.lr: no range (got [1, 0])"),
    ({"random": {"samples": 3, "train.lr": {"log_uniform": [0, 1]}}}, "[a, b] with a above 0 and below b"),
    ({"random": {"samples": 3, "train.lr": {"uniform": [0, "x"]}}}, "random.train.lr: no range"),
    ({"random": {"samples": 3, "seed": 1, "train.batch_size": {"int": [1, 2]}}}, "found 2); ask for fewer"),
    ({"random": {"samples": 3, "init.scheme": {"choice": []}}}, "random.init.scheme: no values"),
]


@pytest.mark.parametrize(("changes", "words"), WRONG)
def test_what_is_refused_is_named_where_it_was_written(
    changes: dict[str, Any], words: str, tiny: Callable[..., Path]
) -> None:
    with pytest.raises(StudyError) as error:
        load_study(tiny(**changes))
    assert any(words in line for line in error.value.lines), error.value.lines
    assert all("\n" not in line and len(line) < 1000 for line in error.value.lines)
