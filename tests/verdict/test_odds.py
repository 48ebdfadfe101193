"""The forecast's arithmetic against logistic regressions and features worked out by hand."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from initlab.verdict.odds import FEATURES, FITTED, VERDICTS, Fit, features_of, forecast_of

LN10 = math.log(10)
LAYERS = pd.DataFrame(
    {
        "forward_var": [2.0, 4.0, 1.0],
        "backward_var": [3.0, 1.0, 6.0],
        "weight_var": [0.01, 0.04, 0.01],
        "weight_grad_rms": [1e-3, 1e-3, 1e-2],
    }
)


def by_hand(weights: list[list[float]], intercepts: list[float], classes: tuple[str, ...] = VERDICTS) -> Fit:
    return Fit(
        classes=classes,
        mean=(1.0, *[0.0] * 5),
        scale=(2.0, *[1.0] * 5),
        weights=tuple((*row, *[0.0] * (6 - len(row))) for row in weights),
        intercepts=tuple(intercepts),
        low=(-5.0,) * 6,
        high=(5.0,) * 6,
    )


def test_a_logistic_regression_by_hand() -> None:
    # z = (3 - 1) / 2 = 1, so the logits are 1, 0, 0 and ln 2: odds e, 1, 1, 2 of their sum
    forecast = forecast_of(np.array([3.0, 0, 0, 0, 0, 0]), by_hand([[1], [0], [0], [0]], [0, 0, 0, math.log(2)]))
    total = math.e + 4
    assert list(forecast.probabilities.values()) == pytest.approx([math.e / total, 1 / total, 1 / total, 2 / total])
    assert forecast.verdict == "converged" and forecast.calibrated
    assert (forecast.converged, forecast.diverged) == pytest.approx((math.e / total, 2 / total))


def test_a_verdict_that_the_fit_never_saw_has_probability_zero() -> None:
    odds = by_hand([[0], [0]], [0, math.log(3)], classes=("converged", "stalled")).probabilities(np.zeros((1, 6)))
    assert odds[0].tolist() == pytest.approx([0.25, 0, 0.75, 0])


def test_probabilities_sum_to_one_far_outside_too_and_each_feature_outside_is_named() -> None:
    extreme = np.array([-700.0, -700.0, -600.0, 600.0, 690.0, 7.0])
    forecast = forecast_of(extreme)
    assert sum(forecast.probabilities.values()) == pytest.approx(1)
    assert not forecast.calibrated and len(forecast.outside) == 6
    assert "not calibrated: forward_change -700 is outside" in str(forecast)


def test_features_of_three_layers_by_hand() -> None:
    features = dict(
        zip(FEATURES, features_of(LAYERS, loss=4.6, chance_loss=LN10, lr=0.01, weight_decay=1e-4), strict=True)
    )
    # gradient over weight: 0.01, 0.005, 0.1; the median layer has 0.01
    assert features == pytest.approx(
        {
            "forward_change": math.log(1 / 2),
            "backward_change": math.log(3 / 6),
            "update": math.log(0.01 * 0.01),
            "decay": math.log(1e-4 / 0.01),
            "loss": math.log(4.6 / math.log(10)),
            "depth": math.log(3),
        }
    )


def test_under_another_optimiser_than_sgd_two_features_are_measured() -> None:
    arguments = {"loss": 4.6, "chance_loss": LN10, "lr": 0.01, "weight_decay": 1e-4, "measured": True}
    table = LAYERS.assign(update_ratio=[0.1, 0.3, 0.2], decay_ratio=[1e-3, 1e-4, math.nan])
    features = dict(zip(FEATURES, features_of(table, **arguments), strict=True))
    assert features["update"] == pytest.approx(math.log(0.2))
    assert features["decay"] == pytest.approx(math.log(5.5e-4))
    # A net that overflows at once moves without bound; a decay that is unknown counts as none.
    table = LAYERS.assign(update_ratio=math.nan, decay_ratio=math.nan)
    features = dict(zip(FEATURES, features_of(table, **arguments), strict=True))
    assert features["update"] > 600 and features["decay"] == -20


def test_a_layer_that_never_ran_is_left_out() -> None:
    idle = pd.DataFrame({column: [math.nan] for column in LAYERS})
    arguments = {"loss": 2.3, "chance_loss": LN10, "lr": 0.01, "weight_decay": 1e-4}
    with_idle = features_of(pd.concat([LAYERS, idle]), **arguments)
    assert with_idle.tolist() == features_of(LAYERS, **arguments).tolist()


def test_zero_gradients_overflow_and_no_decay_give_finite_features() -> None:
    dead = LAYERS.assign(weight_grad_rms=0.0, forward_var=[1.0, 0.0, 0.0], backward_var=[0.0, 0.0, 1.0])
    overflown = LAYERS.assign(weight_grad_rms=math.nan, forward_var=[1.0, math.inf, math.nan])
    for layers, loss in ((dead, 2.3), (overflown, math.nan)):
        features = features_of(layers, loss=loss, chance_loss=LN10, lr=0.01, weight_decay=0.0)
        assert np.isfinite(features).all()
    assert forecast_of(features_of(dead, loss=2.3, chance_loss=LN10, lr=0.01, weight_decay=5e-4)).verdict == "stalled"
    assert forecast_of(features_of(overflown, loss=math.nan, chance_loss=LN10, lr=0.01, weight_decay=5e-4)).verdict == (
        "diverged"
    )


def test_layers_without_gradient_are_refused() -> None:
    with pytest.raises(ValueError, match="no weight layer has a gradient"):
        features_of(LAYERS.assign(weight_grad_rms=math.nan), loss=2.3, chance_loss=LN10, lr=0.01, weight_decay=0.0)


def test_the_shipped_fit_names_the_features_that_the_code_makes() -> None:
    content = json.loads(FITTED.read_text())
    assert content["features"] == list(FEATURES) and set(content["classes"]) == set(VERDICTS)
