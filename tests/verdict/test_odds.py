"""The forecast's arithmetic against logistic regressions and features worked out by hand."""

import json
import math
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import initlab
from initlab.signal.start import start_of
from initlab.study.sections import Net
from initlab.study.training import Train
from initlab.train.update_rules import Lion
from initlab.verdict.features import FEATURES, MEANINGS, family_of_net, features_of
from initlab.verdict.forecast import family_of
from initlab.verdict.odds import CANNOT_TELL, FITTED, QUESTIONS, Fit, Question, forecast_of

LN10 = math.log(10)
LAYERS = pd.DataFrame(
    {
        "forward_var": [2.0, 4.0, 1.0],
        "backward_var": [3.0, 1.0, 6.0],
        "weight_var": [0.01, 0.04, 0.01],
        "weight_grad_rms": [1e-3, 1e-3, 1e-2],
    }
)


SGD = Train(optimizer="sgd", lr=0.01, momentum=0.0, weight_decay=1e-4)
N = len(FEATURES)


def by_hand(learns: float = 0.0, sure: float = 0.5) -> Fit:
    """P(learns) is sigmoid(learns z), z = (first feature - 1) / 2; 3 in 4 converge, of others 1 in 5 diverges."""
    nothing = [0.0] * 2 * N
    intercepts = {"learns": 0.0, "converges": math.log(3), "diverges": math.log(1 / 4)}
    weights = {"learns": [learns, *nothing[1:]]}
    return Fit(
        mean=(1.0, *nothing[1:]),
        scale=(2.0, *[1.0] * (2 * N - 1)),
        low=(-5.0,) * N,
        high=(5.0,) * N,
        questions={name: Question(weights.get(name, nothing), intercepts[name]) for name in QUESTIONS},
        families={"convolutions": True, "recurrent": False},
        optimizers={"sgd": True, "adam": False},
        sure=sure,
    )


def test_three_questions_by_hand() -> None:
    # z = (3 - 1) / 2 = 1 and the weight is ln 4, so the odds of learning are 4 to 1.
    forecast = forecast_of(np.array([3.0, *[0.0] * (N - 1)]), "convolutions", SGD, by_hand(math.log(4)))
    assert list(forecast.probabilities.values()) == pytest.approx([0.8 * 0.75, 0.8 * 0.25, 0.2 * 0.8, 0.2 * 0.2])
    assert (forecast.verdict, forecast.calibrated, forecast.doubt) == ("converged", True, "")
    assert forecast.learns == pytest.approx(0.8) and str(forecast).startswith("learns 80%: converged 60%")


@pytest.mark.parametrize(
    ("family", "optimizer", "reason"),
    [
        ("recurrent", "sgd", "of recurrent it was no better than a simple rule"),
        ("attention", "sgd", r"no such nets \(got attention\); it had: convolutions; recurrent"),
        ("", "sgd", "no such nets .got a net of your own."),
        ("convolutions", "adam", "of adam it was no better"),
        ("convolutions", "lion", r"no such optimiser \(got lion\); it had: sgd; adam"),
    ],
)
def test_it_cannot_tell_of_nets_and_optimisers_that_it_does_not_know(family: str, optimizer: str, reason: str) -> None:
    train = Train(optimizer=optimizer, lr=0.01)
    forecast = forecast_of(np.zeros(N), family, train, by_hand(5.0))
    assert forecast.verdict == CANNOT_TELL and not forecast.calibrated
    assert re.search(reason, forecast.doubt) and str(forecast).endswith(f"cannot tell: {forecast.doubt}")
    assert sum(forecast.probabilities.values()) == pytest.approx(1)


def test_it_cannot_tell_between_learning_and_not_below_what_it_is_sure_from() -> None:
    features = np.array([3.0, *[0.0] * (N - 1)])
    assert forecast_of(features, "convolutions", SGD, by_hand(math.log(4), sure=0.8)).verdict == "converged"
    unsure = forecast_of(features, "convolutions", SGD, by_hand(math.log(4), sure=0.81))
    assert unsure.verdict == CANNOT_TELL and unsure.calibrated
    assert unsure.doubt == "it learns with 80%; verdicts are given from 81% either way on"


def test_far_outside_it_goes_no_further_than_the_range_and_each_feature_outside_is_named() -> None:
    fit = by_hand(1.0)
    edge, extreme = np.full(N, 5.0), np.full(N, 700.0)
    assert fit.probabilities(extreme[None]).tolist() == fit.probabilities(edge[None]).tolist()
    forecast = forecast_of(extreme, "convolutions", SGD, fit)
    assert not forecast.calibrated and len(forecast.outside) == N and forecast.verdict == "converged"
    assert "not calibrated: forward_change 700 is outside -5 to 5" in str(forecast)


def features(train: Train = SGD, layers: pd.DataFrame = LAYERS, loss: float = 4.6) -> dict[str, float]:
    return dict(zip(FEATURES, features_of(layers, loss=loss, chance_loss=LN10, train=train), strict=True))


def test_features_of_three_layers_by_hand() -> None:
    # gradient over weight: 0.01, 0.005, 0.1; the median layer has 0.01, where decay is 1e-4 / 0.01 of the gradient
    assert features() == pytest.approx(
        {
            "forward_change": math.log(1 / 2),
            "backward_change": math.log(3 / 6),
            "update": math.log(0.01 * 0.01),
            "last_update": math.log(0.01 * 0.1),
            "decay": math.log1p(0.01),
            "loss": math.log(4.6 / math.log(10)),
            "depth": math.log(3),
        }
    )


def test_of_a_single_layer_nothing_changes_over_depth() -> None:
    one = features(layers=LAYERS[:1])
    assert (one["forward_change"], one["backward_change"], one["depth"]) == (0, 0, 0)


def torch_step(train: Train, steps: int = 1) -> tuple[list[float], list[float]]:
    """rms of the weights of two layers, and of what torch's own optimiser takes off them in the last of the steps."""
    torch.manual_seed(0)
    weights = [nn.Parameter(std * torch.randn(40, 30, dtype=torch.float64)) for std in (0.1, 0.3)]
    gradients = [std * torch.randn(40, 30, dtype=torch.float64).sign() for std in (1e-3, 2e-2)]
    optimizer = {
        "sgd": lambda: torch.optim.SGD(weights, train.lr, momentum=train.momentum),
        "adam": lambda: torch.optim.Adam(weights, train.lr, eps=train.eps),
        "adamw": lambda: torch.optim.AdamW(weights, train.lr, eps=train.eps, weight_decay=0),
        "lion": lambda: Lion([{"params": weights, "weight_decay": 0.0}], lr=train.lr, betas=(0.9, 0.99)),
    }[train.optimizer]()
    sizes = [float(w.detach().std(correction=0)) for w in weights]
    for _ in range(steps):
        before = [w.detach().clone() for w in weights]
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.clone()
        optimizer.step()
    moved = [float((w.detach() - b).square().mean().sqrt()) for w, b in zip(weights, before, strict=True)]
    return sizes, moved


@pytest.mark.parametrize(
    ("train", "steps"),
    [
        (Train(optimizer="sgd", lr=0.1, momentum=0.0, weight_decay=0.0), 1),
        (Train(optimizer="sgd", lr=1e-3, momentum=0.9, weight_decay=0.0), 200),  # the lasting step
        (Train(optimizer="adam", lr=0.01, weight_decay=0.0), 1),
        (Train(optimizer="adam", lr=0.01, weight_decay=0.0, eps=1e-3), 1),  # half a step where gradients are as small
        (Train(optimizer="adamw", lr=0.01, weight_decay=0.0, eps=0.02), 1),
        (Train(optimizer="lion", lr=0.01, weight_decay=0.0), 1),
    ],
    ids=["sgd", "momentum", "adam", "adam eps", "adamw eps", "lion"],
)
def test_the_update_is_that_of_torchs_own_optimiser(train: Train, steps: int) -> None:
    sizes, moved = torch_step(train, steps)
    layers = LAYERS[:2].assign(weight_var=[size**2 for size in sizes], weight_grad_rms=[1e-3, 2e-2])
    told = features(train, layers)
    logs = [math.log(step / size) for step, size in zip(moved, sizes, strict=True)]
    assert told["update"] == pytest.approx(sum(logs) / 2, abs=1e-6)
    assert told["last_update"] == pytest.approx(logs[1], abs=1e-6)


def test_decay_is_part_of_adams_gradient_and_no_part_of_adamws() -> None:
    one = LAYERS[:1].assign(weight_var=1.0, weight_grad_rms=3e-3)
    adam, adamw, sgd = (
        features(Train(optimizer=name, lr=0.01, weight_decay=4e-3), one) for name in ("adam", "adamw", "sgd")
    )
    # Of a step of size lr along 3 (loss) and 4 (decay) at right angles, the loss has 3/5 and decay 4/3 as much.
    assert adam["update"] == pytest.approx(math.log(0.01 * 3 / 5), rel=1e-5)
    assert adam["decay"] == pytest.approx(math.log1p(4 / 3)) == sgd["decay"]
    # AdamW takes lr 0.004 off each weight of 1, and the loss a step of lr.
    assert adamw["update"] == pytest.approx(math.log(0.01), rel=1e-5)
    assert adamw["decay"] == pytest.approx(math.log1p(4e-3), rel=1e-4)


def test_without_decay_the_feature_is_0_and_next_to_none_is_next_to_0() -> None:
    for name in ("sgd", "adam", "adamw", "lion", "muon"):
        assert features(Train(optimizer=name, lr=0.01, weight_decay=0.0))["decay"] < 1e-12
        assert features(Train(optimizer=name, lr=0.01, weight_decay=1e-9))["decay"] < 1e-5


def test_a_layer_that_never_ran_is_left_out() -> None:
    idle = pd.DataFrame({column: [math.nan] for column in LAYERS})
    assert features(layers=pd.concat([LAYERS, idle])) == features()


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "lion"])
def test_zero_gradients_and_overflow_give_finite_features(optimizer: str) -> None:
    dead = LAYERS.assign(weight_grad_rms=0.0, forward_var=[1.0, 0.0, 0.0], backward_var=[0.0, 0.0, 1.0])
    overflown = LAYERS.assign(weight_grad_rms=math.nan, forward_var=[1.0, math.inf, math.nan])
    train = Train(optimizer=optimizer, lr=0.01, weight_decay=5e-4)
    for layers, loss in ((dead, 2.3), (overflown, math.nan)):
        assert np.isfinite(list(features(train, layers, loss).values())).all()
    if optimizer == "sgd":
        told = [
            forecast_of(np.array([*features(train, layers, loss).values()]), "convolutions", train)
            for layers, loss in ((dead, 2.3), (overflown, math.nan))
        ]
        assert [forecast.verdict for forecast in told] == ["stalled", "diverged"]


def test_layers_without_gradient_are_refused() -> None:
    with pytest.raises(ValueError, match="no weight layer has a gradient"):
        features(layers=LAYERS.assign(weight_grad_rms=math.nan), loss=2.3)


@pytest.mark.parametrize(
    ("net", "family"),
    [
        ({"name": "mlp"}, "linear layers"),
        ({"name": "plain"}, "convolutions"),
        ({"name": "plain", "skip": "identity"}, "convolutions, skips"),
        ({"name": "plain", "norm": "batch", "skip": "identity"}, "convolutions, BatchNorm"),
        ({"name": "transformer"}, "attention"),
        ({"name": "transformer", "norm": "post", "width": 8}, "attention, LayerNorm"),
        ({"name": "lstm"}, "recurrent"),
    ],
)
def test_the_family_of_a_net_is_the_same_by_its_description_and_by_its_modules(
    net: dict[str, Any], family: str
) -> None:
    choices = {key: value for key, value in net.items() if key != "name"}
    choices |= {"depth": 7, "stages": 1} if net["name"] == "plain" else {"depth": 2}
    shape = (6,) if net["name"] in ("transformer", "lstm") else (1, 8, 8)
    model = initlab.build_net(net["name"], num_classes=5, input_shape=shape, **choices)
    batch = torch.randint(5, (3, 6)) if len(shape) == 1 else torch.randn(3, *shape)
    skips = start_of(model, batch).wiring.skips
    assert family_of_net(Net(**net)) == family_of(model, skips=skips) == family


def test_the_shipped_fit_names_the_features_that_the_code_makes() -> None:
    content = json.loads(FITTED.read_text())
    assert content["features"] == list(FEATURES) == list(MEANINGS) and list(content["questions"]) == list(QUESTIONS)
