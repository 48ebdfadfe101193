"""Forecasts of nets whose end is known: the demo's 30-layer He and Xavier; and of a study's trials."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import initlab
from initlab.data.dataset import Preprocessing
from initlab.data.in_memory import ImageSet, prepare
from initlab.data.sources import load_raw


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return prepare(load_raw("digits", image_size=16), Preprocessing())


def demo_net(scheme: str, seed: int = 0, **options: float) -> nn.Module:
    net = initlab.build_net("plain", depth=30, width=16, num_classes=10, input_shape=(1, 16, 16), activation="relu")
    return initlab.init_(net, scheme, mode="fan_in", seed=seed, **options)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("scheme", "options", "verdict"),
    [("xavier", {}, "stalled"), ("gaussian", {"std": 0.01}, "stalled"), ("gaussian", {"std": 0.3}, "diverged")],
    ids=["xavier", "fixed 0.01", "far too large"],
)
def test_30_layers_as_in_the_demo_where_these_are_the_verdicts(
    digits: ImageSet, scheme: str, options: dict[str, float], verdict: str, seed: int
) -> None:
    images, labels = digits.probe_batch(32)
    forecast = initlab.forecast(demo_net(scheme, seed, **options), images, labels, lr=0.004, weight_decay=5e-4)
    assert forecast.verdict == verdict, str(forecast)
    assert sum(forecast.probabilities.values()) == pytest.approx(1)


@pytest.mark.parametrize(("scheme", "learns"), [("he", True), ("xavier", False)])
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_30_equal_layers_of_which_those_of_he_learn(scheme: str, learns: bool, seed: int) -> None:
    data = prepare(load_raw("digits", image_size=8), Preprocessing(train_examples=704, val_examples=180))
    net = initlab.build_net(
        "plain", depth=30, widths=(16,), linear_width=144, num_classes=10, input_shape=(1, 8, 8), activation="relu"
    )
    initlab.init_(net, scheme, mode="fan_in", seed=seed)
    forecast = initlab.forecast(net, *data.probe_batch(32), lr=0.004, weight_decay=5e-4)
    assert (forecast.learns > 0.7) == learns and (forecast.learns < 0.3) == (not learns), str(forecast)


def test_the_model_is_as_it_was(digits: ImageSet) -> None:
    images, labels = digits.probe_batch(8)
    net = nn.Sequential(nn.Flatten(), nn.Linear(256, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    initlab.forecast(net, images, labels, lr=0.1)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training and all(p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_loss_that_gives_a_mean_forecasts_as_the_default(digits: ImageSet) -> None:
    images, labels = digits.probe_batch(8)
    net = demo_net("he")

    def mean(output: Tensor, wanted: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, wanted)

    default = initlab.forecast(net, images, labels, lr=0.01, weight_decay=1e-4)
    with_mean = initlab.forecast(net, images, labels, lr=0.01, weight_decay=1e-4, loss=mean)
    assert with_mean.features == pytest.approx(default.features, rel=1e-5)


@pytest.mark.parametrize(("name", "value"), [("lr", 0.0), ("lr", float("nan")), ("weight_decay", -1e-4)])
def test_settings_out_of_range_are_refused(digits: ImageSet, name: str, value: float) -> None:
    images, labels = digits.probe_batch(4)
    with pytest.raises(ValueError, match=rf"forecast: {name}: out of range \(got {value}\); allowed"):
        initlab.forecast(demo_net("he"), images, labels, **{"lr": 0.01, **{name: value}})


def test_a_trials_forecast_is_that_of_its_model(tiny: Callable[..., Path], tmp_path: Path) -> None:
    study = tiny(grid={"init.scheme": ["he", "xavier"]}, data={"val_examples": None})
    results = initlab.run(study, tmp_path / "a", jobs=1, device="cpu", show="nothing")
    assert results.forecasts.trial.tolist() == results.trials.trial.tolist()
    he = results.forecasts.iloc[0]
    odds = he[["converged", "slow", "stalled", "diverged"]].astype(float)
    assert odds.sum() == pytest.approx(1) and he.forecast == odds.idxmax()
    data = prepare(load_raw("digits"), Preprocessing(train_examples=256))
    net = initlab.build_net(
        "plain", depth=7, width=4, linear_width=8, num_classes=10, input_shape=(1, 8, 8), activation="relu"
    )
    images, labels = data.probe_batch(16)
    forecast = initlab.forecast(initlab.init_(net, "he", seed=0), images, labels, lr=0.01, weight_decay=5e-4)
    for name in (
        "forward_change",
        "backward_change",
        "update",
        "last_update",
        "decay",
        "depth",
    ):  # the loss is of the validation set
        assert he[name] == pytest.approx(forecast.features[name], rel=1e-4)


def test_a_single_layer_is_outside_of_the_calibration() -> None:
    forecast = initlab.forecast(nn.Linear(4, 3), torch.randn(8, 4), torch.arange(8) % 3, lr=0.01)
    assert not forecast.calibrated and "depth 0 is outside" in str(forecast)


class Tagger(nn.Module):
    """An LSTM, of which the head alone is measured."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 8, num_layers=2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def test_of_an_lstm_it_cannot_tell() -> None:
    forecast = initlab.forecast(Tagger(), torch.randn(8, 5, 4), torch.arange(8) % 3, lr=0.01)
    assert forecast.verdict == "cannot tell" and "of recurrent it was no better" in forecast.doubt


def test_nets_that_stall_under_sgd_may_learn_under_adam(digits: ImageSet) -> None:
    """A vanishing gradient shortens SGD's step, and Adam's hardly; epsilon does once it is as large."""
    images, labels = digits.probe_batch(32)
    net = demo_net("xavier")
    sgd, adam, large = (
        initlab.forecast(net, images, labels, lr=1e-3, **options)
        for options in ({}, {"optimizer": "adam"}, {"optimizer": "adam", "eps": 1.0})
    )
    assert adam.features["update"] > sgd.features["update"] + 3
    assert large.features["update"] < adam.features["update"] - 10
    assert sgd.learns < 0.1 < adam.learns


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adamax"}, r"forecast: optimizer: unknown \(got 'adamax'\); allowed: sgd, adamw, adam"),
        ({"momentum": 1.0}, r"forecast: momentum: out of range \(got 1.0\); allowed: from 0 to below 1"),
        ({"eps": 0.0}, r"forecast: eps: out of range \(got 0.0\); allowed: above 0"),
    ],
)
def test_an_optimiser_that_is_none_is_refused(digits: ImageSet, options: dict[str, Any], message: str) -> None:
    images, labels = digits.probe_batch(4)
    with pytest.raises(ValueError, match=message):
        initlab.forecast(demo_net("he"), images, labels, lr=0.1, **options)
