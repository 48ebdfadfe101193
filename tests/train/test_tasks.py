"""Studies of each task from a user's callables: what is learned, what is recorded, and what is refused at the start."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import initlab
from initlab.study.mistakes import StudyError
from initlab.study.study import Study
from tests.train import tasks


def study(data: str, net: str, fields: dict[str, Any], options: dict[str, Any] | None = None) -> Study:
    """One of the callables of `tests.train.tasks` on another, trained for a moment."""
    train: dict[str, Any] = {"epochs": 6.0, "lr": 0.1, "weight_decay": 0.0, "schedule": "cosine", **fields}
    content: dict[str, Any] = {
        "data": {"name": f"tests.train.tasks:{data}"},
        "net": {"name": f"tests.train.tasks:{net}", "options": options or {}},
        "probe": {"every": 20, "examples": 8},
        "run": {"jobs": 1, "isolate": "none"},
    }
    return Study.model_validate({"name": "own", "train": train, **content})


def run(out: Path, *args: Any, **options: Any) -> initlab.Results:
    return initlab.run(study(*args), out, allow_code=True, show="nothing", **options)


def only(results: initlab.Results) -> dict[str, Any]:
    """Status of the one trial, with its verdict."""
    (trial,) = results.stored
    assert trial.result, trial.status["error"]
    return {**trial.status, "verdict": results.verdicts.verdict[0]}


def test_a_linear_regression_leaves_the_variance_that_least_squares_leaves(tmp_path: Path) -> None:
    status = only(run(tmp_path, "numbers", "net", {"epochs": 20.0}))
    inputs, labels, val_inputs, val_labels = tasks.numbers()

    def with_bias(x: Any) -> Any:
        return np.column_stack([x, np.ones(len(x))])

    fitted = np.linalg.lstsq(with_bias(inputs), labels)[0]
    unexplained = np.mean((with_bias(val_inputs) @ fitted - val_labels) ** 2) / labels.var()
    assert status["val_error"] == pytest.approx(unexplained, rel=0.02)
    # Of the function itself: noise / (sum of squared slopes + noise), to the sampling error of 256 squares.
    closed_form = tasks.NOISE**2 / (np.square(tasks.SLOPES).sum() + tasks.NOISE**2)
    assert status["val_error"] == pytest.approx(closed_form, rel=4 * math.sqrt(2 / 256))
    assert status["val_loss"] == pytest.approx(status["val_error"] * labels.var(), rel=1e-5)
    assert (status["task"], status["chance"], status["verdict"]) == ("regression", 1.0, "converged")
    assert status["chance_loss"] == pytest.approx(labels.var(), rel=1e-5)


@pytest.mark.parametrize("second", [False, True])
def test_next_token_prediction_comes_down_to_the_chains_own_noise(tmp_path: Path, second: bool) -> None:
    results = run(tmp_path, "tokens", "bigram", {"lr": 0.3}, {"classes_second": second})
    status = only(results)
    labels = tasks.tokens()[1].flatten().tolist()
    assert status["chance"] == pytest.approx(1 - max(labels.count(word) for word in range(8)) / len(labels))
    # A word in five is drawn anew, and of these one in eight is right all the same.
    errors, positions = 0.2 * 7 / 8, 64 * 12
    assert status["val_error"] == pytest.approx(errors, abs=4 * math.sqrt(errors * (1 - errors) / positions))
    assert status["verdict"] == "converged"
    assert results.scalars.val_error_top5.iloc[-1] < status["val_error"]
    first = results.signals[results.signals.step == 0]
    assert (first.backward_var > 0).all()
    assert results.forecasts.loss[0] == pytest.approx(math.log(results.scalars.val_loss[0] / math.log(8)))


@pytest.mark.parametrize(("data", "loss", "whole"), [("signs", None, False), ("signs", "bce", True)])
def test_several_labels_are_learned_each(tmp_path: Path, data: str, loss: str | None, whole: bool) -> None:
    one = study(data, "net", {"loss": loss, "lr": 0.5})
    one = one.model_copy(update={"data": one.data.model_copy(update={"options": {"whole": whole}})})
    results = initlab.run(one, tmp_path, allow_code=True, show="nothing")
    status = only(results)
    shares = tasks.signs()[1].double().mean(0)
    assert status["chance"] == pytest.approx(sum(min(p, 1 - p) for p in shares.tolist()) / 3)
    assert (status["task"], status["verdict"]) == ("multilabel", "converged")
    assert results.scalars.val_error_top5.isna().all()


def test_vectors_with_classes_and_a_loss_of_ones_own(tmp_path: Path) -> None:
    assert only(run(tmp_path / "classes", "classes", "net", {}))["verdict"] == "converged"
    status = only(run(tmp_path / "huber", "numbers", "net", {"loss": "tests.train.tasks:huber"}))
    assert status["verdict"] == "converged"
    # Of errors of standard deviation below 1, Huber's loss is about half of the squared error.
    assert 0.4 < status["val_loss"] / (status["val_error"] * tasks.numbers()[1].var()) < 0.5


@pytest.mark.parametrize(
    ("data", "fields"), [("numbers", {}), ("tokens", {"lr": 0.3}), ("numbers", {"loss": "tests.train.tasks:huber"})]
)
def test_a_pack_gives_each_trial_what_it_has_alone(tmp_path: Path, data: str, fields: dict[str, Any]) -> None:
    one = study(data, "net" if data == "numbers" else "bigram", {"epochs": 2.0, **fields})
    both = one.model_copy(update={"grid": {"seed": [0, 1]}})
    alone, packed = (
        initlab.run(both, tmp_path / str(pack), allow_code=True, show="nothing", pack=pack) for pack in (1, 2)
    )
    assert all(trial.result and trial.result["packed"] == 2 for trial in packed.stored)
    for column in ("train_loss", "train_error", "val_loss", "val_error"):
        assert np.allclose(alone.scalars[column], packed.scalars[column], rtol=1e-4, equal_nan=True)


@pytest.mark.parametrize(
    ("data", "net", "fields", "expected"),
    [
        ("numbers", "net", {"loss": "cross_entropy"}, r"takes other labels \(got torch.float32\)"),
        ("numbers", "net", {"loss": "tests.train.tasks:detached"}, r"train.loss: has no gradient"),
        ("numbers", "net", {"loss": "tests.train.tasks:halved"}, r"nor a value for each of 2 examples \(got \(1,\)\)"),
        ("numbers", "net", {"loss": "tests.train.tasks:a_number"}, r"neither a mean .* \(got float\)"),
        ("signs", "net", {"auxiliary": [1]}, r"train.auxiliary: no such convolution \(got 1\)"),
    ],
)
def test_what_does_not_fit_fails_before_anything_trains(
    tmp_path: Path, data: str, net: str, fields: dict[str, Any], expected: str
) -> None:
    results = run(tmp_path, data, net, fields)
    (trial,) = results.stored
    assert trial.status["state"] == "failed"
    assert results.scalars.empty
    with pytest.raises(AssertionError, match=expected):
        only(results)


def test_a_catalog_net_and_a_test_of_pictures_refuse_other_data(tmp_path: Path) -> None:
    one = study("numbers", "net", {"epochs": 1.0})
    with pytest.raises(ValueError, match=r"evaluate tests pictures with a class for each \(got inputs of \(4,\)"):
        (trial,) = initlab.run(one, tmp_path / "own", allow_code=True, show="nothing").stored
        initlab.evaluate(trial.folder, allow_code=True)
    plain = one.model_copy(update={"net": type(one.net)()})
    (trial,) = initlab.run(plain, tmp_path / "plain", allow_code=True, show="nothing").stored
    assert "net.name: takes pictures (got plain for inputs of 4)" in trial.status["error"]


def test_a_loss_that_built_in_labels_or_several_processes_do_not_go_with_is_refused_in_the_plan(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"train.loss: takes no classes, which digits has \(got mse\)"):
        initlab.run(Study.model_validate({"name": "a", "train": {"loss": "mse"}}), tmp_path)
    own = Study.model_validate({"name": "a", "train": {"loss": "tests.train.tasks:huber"}})
    with pytest.raises(StudyError, match=r"train.loss: a loss of yours .*; give --devices 1"):
        initlab.run(own, tmp_path, allow_code=True, devices=2)
    with pytest.raises(StudyError, match=r"train.loss: names code .* only with --allow-code"):
        initlab.run(own, tmp_path)
