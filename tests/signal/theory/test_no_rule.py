"""Calls that theory can't follow: named in the frame; a user's mistake is an error, never a table of local laws."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import initlab


class Between(nn.Module):
    """Two layers with a function between them."""

    def __init__(self, function: Callable[[Tensor], Tensor], first: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.function, self.first, self.last = function, first, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


def convs(function: Callable[[Tensor], Tensor]) -> nn.Module:
    return initlab.init_(Between(function, nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 1)), "lecun")


def linears(function: Callable[[Tensor], Tensor]) -> nn.Module:
    return initlab.init_(Between(function, nn.Linear(64, 64), nn.Linear(64, 5)), "lecun")


@pytest.mark.parametrize(
    ("net", "shape", "because"),
    [
        (convs(lambda y: F.max_pool2d(y, 2, dilation=2)), (3, 8, 8), "max_pool2d: dilation = 2"),
        (convs(lambda y: F.avg_pool2d(y, 2, divisor_override=1)), (3, 8, 8), "avg_pool2d: divisor_override = 1"),
        (convs(lambda y: torch.stack([F.max_pool2d(one, 2) for one in y])), (3, 8, 8), "max_pool2d: an input without"),
        (linears(lambda y: torch.div(y, torch.ones(64), rounding_mode="floor")), (64,), "div: rounding_mode = 'floor'"),
        (linears(lambda y: F.threshold(y, 100.0, 0.0)), (64,), "threshold: gives 0 wherever its signal lies"),
        (linears(lambda y: F.rrelu(y, training=True)), (64,), "rrelu: activation: rrelu is random"),
        (linears(lambda y: F.layer_norm(0 * y, (64,), eps=0.0)), (64,), "layer_norm: a signal without variance"),
        (linears(lambda y: (1e80 * y).relu()), (64,), "relu: a signal of mean square 1"),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_a_call_without_a_rule_is_named_and_each_layer_predicted_from_its_own_input(
    net: nn.Module, shape: tuple[int, ...], because: str
) -> None:
    theory = initlab.predict(net, input_shape=shape)
    assert theory.attrs["local_because"].startswith(because)
    assert list(theory.basis) == ["local", "local"]
    assert theory.backward_var.isna().all()
    assert theory.forward_var[0] == pytest.approx(1, rel=0.6)  # lecun's, of two examples


def test_a_convolution_of_one_image_has_no_theory_at_all() -> None:
    class OneByOne(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.layer(image) for image in x])

    theory = initlab.predict(OneByOne(), input_shape=(3, 8, 8))
    assert theory.attrs["local_because"] == "conv2d: an input without a batch (got shape (3, 8, 8))"
    assert list(theory.basis) == ["local"]
    assert theory.forward_var.isna().all()


def test_a_model_that_is_followed_gives_no_reason() -> None:
    assert initlab.predict(linears(torch.relu), input_shape=(64,)).attrs == {}


def test_a_signal_in_the_denominator() -> None:
    """1 / (10 + y) of y in N(0, 1): the mean square is (1 + 3/100 + 15/10^4) / 100."""
    images = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    theory = initlab.predict(linears(lambda y: torch.div(torch.ones(64), 10 + y)), batch=images)
    single = initlab.predict(linears(lambda y: 1 / (10 + y)), batch=images)
    # A tensor of several numbers above is no function of y alone, so that it is measured, and the gradient with it.
    assert list(theory.basis) == ["measured", "measured"]
    assert list(single.basis) == ["theory", "theory"]
    # All but 1/100 of it is common to the examples, and the mean over 5 outputs takes a fifth of that.
    for frame in (theory, single):
        assert frame.forward_var[1] == pytest.approx(0.010315 * (1 - 0.99 / 5), rel=0.05)


def test_a_corner_that_is_always_0_is_followed() -> None:
    """Where only padding and zeros meet, tanh gives 0: no logarithm of it is taken."""
    images = torch.zeros(8, 1, 12, 12)
    images[:, :, 4:8, 4:8] = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    net = initlab.init_(
        nn.Sequential(nn.Conv2d(1, 64, 3, padding=1, bias=False), nn.Tanh(), nn.Conv2d(64, 64, 1, bias=False)), "lecun"
    )
    theory = initlab.predict(net, batch=images)
    assert list(theory.basis) == ["approximate", "approximate"]
    measured = initlab.inspect(net, images).table.forward_var
    assert theory.forward_var.to_numpy() == pytest.approx(measured.to_numpy(), rel=0.2)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def class_labels(*values: float, dtype: torch.dtype = torch.int64) -> dict[str, Tensor]:
    return {"batch": torch.ones(len(values), 8), "labels": torch.tensor(values, dtype=dtype)}


BATCH = {"batch": torch.ones(2, 8)}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (class_labels(0, 7), r"labels do not fit .*Target 7 is out of bounds.*; allowed: int64 classes from 0 on"),
        (class_labels(0, -1), r"Target -1 is out of bounds"),
        (
            BATCH | {"labels": torch.zeros(3, dtype=torch.int64)},
            r"output of shape \(2, 3\) \(got torch.int64 of shape \(3,\)",
        ),
        (class_labels(0, 1, dtype=torch.float32), r"the labels do not fit .* \(got torch.float32 of shape \(2,\)"),
        (BATCH | {"labels": [0, 1]}, r"labels= takes a tensor of examples \(got list\)"),
        ({"batch": torch.ones(0, 8)}, r"batch= takes a tensor of examples \(got an empty one\)"),
        (class_labels(0, 1) | {"loss": lambda y, _: y.new_zeros(3)}, r"the loss has a wrong shape \(got \(3,\)"),
        (class_labels(0, 1) | {"loss": lambda y, _: y.detach().sum(1)}, r"the loss has no gradient"),
        ({"input_shape": (0,)}, r"input_shape is out of range \(got \(0,\)\); allowed: sides from 1 on"),
        ({"input_shape": ()}, r"input_shape is out of range"),
        ({"input_shape": (8,), "batch_size": 0}, r"batch_size is out of range \(got 0\); allowed: from 1 on"),
        ({"input_shape": (8,), "input_moments": (0.0, -1.0)}, r"input_moments is out of range \(got \(0.0, -1.0\)\)"),
        ({"input_shape": (8,), "input_moments": (0.0, 0.0)}, r"of inputs that are not all 0"),
    ],
)
def test_a_users_mistake_is_one_line(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text) as error:
        initlab.predict(mlp(), **arguments)
    assert "\n" not in str(error.value)


def test_what_a_loss_raises_goes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        initlab.predict(mlp(), **class_labels(0, 1), loss=lambda *_: 1 / 0)


def test_labels_that_torch_ignores_and_probabilities_are_labels() -> None:
    for labels in (torch.tensor([0, -100]), torch.full((2, 3), 1 / 3)):
        assert not math.isnan(initlab.predict(mlp(), **BATCH, labels=labels).backward_var[0])


def test_an_output_that_is_a_class_index_gives_no_gradient() -> None:
    net = Between(lambda y: y, nn.Linear(8, 8), nn.Linear(8, 3))
    net.register_forward_hook(lambda *arguments: arguments[-1].argmax(1))
    theory = initlab.predict(net, input_shape=(8,))
    assert list(theory.basis) == ["theory", "theory"]
    assert theory.backward_var.isna().all()


def test_functions_of_what_was_measured_are_measured_too() -> None:
    """The square root of a variance, which is no normal, takes no expectation over negative numbers."""

    def normed(y: Tensor) -> Tensor:
        return (y - y.mean(0, keepdim=True)) / (y.var(0, keepdim=True) + 1e-5).sqrt()

    theory = initlab.predict(linears(normed), input_shape=(64,))
    assert list(theory.basis) == ["measured", "measured"]
    assert theory.attrs.get("local_because") is None
    assert theory.forward_var[1] == pytest.approx(1, rel=0.6)


@pytest.mark.parametrize("function", [torch.sign, torch.floor, lambda y: (y > 0).float()])
def test_steps_let_no_gradient_through(function: Callable[[Tensor], Tensor]) -> None:
    theory = initlab.predict(linears(function), input_shape=(64,))
    assert list(theory.basis) == ["theory", "theory"]
    assert theory.backward_var[0] == 0
