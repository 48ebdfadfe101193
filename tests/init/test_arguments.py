"""`init_` refuses numbers that are none, before it changes anything, and leaves what has no numbers."""

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from initlab import init_


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, "0.1", [0.1]])
@pytest.mark.parametrize("option", ["std", "last_std", "linear_std", "last_factor", "embedding_std", "negative_slope"])
def test_a_number_that_is_none_is_refused_and_the_model_stays(option: str, value: object) -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    if option == "negative_slope" and value == -1.0:
        pytest.skip("a slope may have any sign")
    with pytest.raises(ValueError, match=rf"^init: {option} is out of range .*; allowed: a finite number") as error:
        init_(model, "gaussian", **{option: value})
    assert "\n" not in str(error.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("seed", ["x", 0.5, None, math.nan])
def test_a_seed_that_is_no_integer_is_refused(seed: object) -> None:
    model = net()
    before = model[0].weight.clone()
    with pytest.raises(ValueError, match=r"^init: seed is no integer \(got .*\); allowed: integers$"):
        init_(model, seed=seed)
    assert torch.equal(model[0].weight, before)


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    plain = init_(net(), "gaussian", std=0.5, seed=3)
    other = init_(net(), "gaussian", std=torch.tensor(0.5), seed=np.int64(3), last_factor=np.float32(1))
    assert torch.equal(plain[0].weight, other[0].weight)


@pytest.mark.parametrize("option", ["keep", "redraw"])
def test_a_pattern_that_names_no_parameter_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=rf"^init: {option} names no parameter \(got 'head.\*'\); allowed: .* 0.w"):
        init_(net(), **{option: "head.*"})


@pytest.mark.parametrize("build", [lambda: nn.Linear(0, 3), lambda: nn.Linear(3, 0), lambda: nn.Conv2d(2, 0, 3)])
@pytest.mark.parametrize("scheme", ["he", "orthogonal", "torch_default"])
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_a_layer_without_numbers_is_left_as_it_is(build: Callable[[], nn.Module], scheme: str) -> None:
    layer = build()
    rows: list[dict] = []
    assert init_(nn.Sequential(layer, nn.Linear(3, 3)), scheme, on_parameter=rows.append)[0] is layer
    assert rows[0]["rule"] == "kept"
    assert rows[0]["reason"] == "it has no numbers"
    assert rows[2]["rule"] == scheme


def test_a_layer_alone_is_a_model() -> None:
    layer = init_(nn.Linear(400, 300), "he")
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 400), rel=0.02)
    assert not layer.bias.any()


def test_complex_weights_are_left_and_named() -> None:
    layer = nn.Linear(4, 4, dtype=torch.complex64)
    before: Tensor = layer.weight.detach().clone()
    rows: list[dict] = []
    init_(nn.Sequential(layer, nn.Linear(4, 4)), on_parameter=rows.append)
    assert torch.equal(layer.weight, before)
    assert rows[0]["reason"] == "its numbers are not real ones"
