"""One remedy: the call that is printed is what is done, and advice, lint and `--fix` give the same one."""

import copy
import re

import pytest
import torch
from torch import Tensor, nn

import initlab
from initlab import init_, inspect, lint
from initlab.init.activations import FUNCTIONS, NAMES
from initlab.inspection.examination import examine
from initlab.inspection.remedy import Remedy, remedy_for
from initlab.inspection.subject import Subject

IMAGES = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(64) % 10
CALL = re.compile(r"initlab\.init_\([^`]*\)")


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return FUNCTIONS[self.name](x)


def net_of(name: str, depth: int = 20, width: int = 64) -> nn.Sequential:
    """Linear layers under torch's default with an activation of this name between them."""
    torch.manual_seed(0)
    modules = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "prelu": nn.PReLU, "linear": nn.Identity}
    layers = [
        module
        for _ in range(depth - 1)
        for module in (nn.Linear(width, width), modules[name]() if name in modules else Function(name))
    ]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def assert_done_as_printed(remedy: Remedy, model: nn.Module, images: Tensor) -> None:
    """Run the printed call on one copy and `apply` on another; every number is the same."""
    printed, applied = copy.deepcopy(model), copy.deepcopy(model)
    exec(remedy.call, {"initlab": initlab, "model": printed, "batch": images})
    remedy.apply(applied, images)
    states = printed.state_dict(), applied.state_dict()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert any(not torch.equal(value, states[0][key]) for key, value in model.state_dict().items())


def all_calls(model: nn.Module, images: Tensor, labels: Tensor) -> set[str]:
    """The calls of `init_` in the advice, in the findings of lint, and the one that `--fix` tries."""
    examination = examine(Subject("net", model, images, labels), fix=True)
    texts = [*examination.inspection.advice, *(finding.fix for finding in examination.findings)]
    assert examination.remedy is not None
    assert any(CALL.search(text) for text in examination.inspection.advice), examination.inspection.verdict
    return {examination.remedy.call, *(call for text in texts for call in CALL.findall(text))}


@pytest.mark.parametrize("name", NAMES)
def test_the_printed_call_is_what_is_done(name: str) -> None:
    assert_done_as_printed(remedy_for(name), net_of(name, depth=6), IMAGES)


# Under any gain they lose two thirds of the gradient per layer.
HOPELESS = ("logsigmoid", "softplus")
# Halves its loss in 30 steps under torch's default, so nothing is advised.
LEARNS = ("selu",)
# A name for each kind of call: He's with a slope or without, Xavier's, LeCun's, LSUV's, and one of its own.
KINDS = ("relu", "prelu", "linear", "tanh", "gelu", "sigmoid")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in KINDS else pytest.mark.slow)
        for name in sorted({*NAMES} - {*HOPELESS, *LEARNS})
    ],
)
def test_advice_lint_and_fix_give_one_call(name: str) -> None:
    assert all_calls(net_of(name), IMAGES, LABELS) == {remedy_for(name).call}


@pytest.mark.parametrize("name", HOPELESS)
def test_where_nothing_helps_that_is_said_and_nothing_advised(name: str) -> None:
    examination = examine(Subject("net", net_of(name), IMAGES, LABELS), fix=True)
    inspection = examination.inspection
    assert (inspection.verdict, inspection.cause, inspection.remedy) == ("vanishing", "", "")
    assert re.fullmatch(r"none of \d+ changes that were tried on a copy makes it better", inspection.advice[0])
    assert examination.remedy is None and examination.fixed is None
    texts = [*inspection.advice, *(finding.fix for finding in examination.findings)]
    assert not any("init_(" in text for text in texts)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("relu", 'initlab.init_(model, "he")'),
        ("prelu", 'initlab.init_(model, "he", negative_slope=0.25)'),
        ("linear", 'initlab.init_(model, "xavier")'),
        ("tanh", 'initlab.init_(model, "lecun")'),
        ("selu", 'initlab.init_(model, "lecun")'),
        ("elu", 'initlab.init_(model, "lsuv", batch=batch)'),
        (
            "sigmoid",
            "initlab.init_(model, lambda normals, layer: normals * 10.1493 / layer.fan_in**0.5, last_factor=0.099)",
        ),
        ("gelu", 'initlab.init_(model, "lsuv", batch=batch)'),
    ],
)
def test_calls_in_full(name: str, call: str) -> None:
    assert remedy_for(name).call == call


@pytest.mark.parametrize("slope", [1 / 3, 1.2345678, 1e-7])
def test_a_slope_is_no_more_precise_than_printed(slope: float) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.PReLU(init=slope), nn.Linear(8, 8))
    assert_done_as_printed(remedy_for(nn.PReLU(init=slope)), model, IMAGES[:, :8])


def test_the_slope_of_most_layers_is_said_where_init_would_take_anothers() -> None:
    layers = [nn.Linear(64, 64), nn.LeakyReLU(0.5)]
    for _ in range(20):
        layers += [nn.Linear(64, 64), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    assert all_calls(model, IMAGES, LABELS) == {'initlab.init_(model, "he", negative_slope=0)'}


def test_where_the_weights_have_the_right_scale_fix_tries_the_lsuv_that_is_advised() -> None:
    layers = (module for _ in range(60) for module in (nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()))
    images = torch.randn(2, 32, 3, 3, generator=torch.Generator().manual_seed(0))
    model = init_(nn.Sequential(*layers, nn.Flatten(), nn.Linear(288, 10)), "he")
    assert all_calls(model, images, torch.arange(2)) == {'initlab.init_(model, "lsuv", batch=batch)'}


def test_where_inputs_make_logits_too_large_the_inputs_are_named_and_fixed() -> None:
    model = init_(net_of("relu", depth=6), "he")
    inspection = inspect(model, 64 * IMAGES, LABELS)
    assert inspection.verdict == "saturated"
    examination = examine(Subject("net", model, 64 * IMAGES, LABELS), fix=True)
    assert examination.remedy is not None and examination.fixed is not None
    assert f"`{examination.remedy.call}`" in inspection.advice[0]
    assert examination.remedy.call == "batch = (batch - batch.mean()) / batch.std()"
    assert inspection.cause.startswith("the batch has mean -0.")
    assert examination.fixed.healthy


@pytest.mark.parametrize(
    "name", ["tanh", "softsign", "hardtanh", "selu", "elu", "celu", "sigmoid", "hardsigmoid", "mish"]
)
def test_the_remedy_keeps_50_layers_healthy(name: str) -> None:
    """Where there is a gain that can; softplus and logsigmoid lose two thirds of the gradient per layer under any."""
    assert inspect(remedy_for(name).apply(net_of(name, depth=50), IMAGES), IMAGES, LABELS).healthy


def test_a_model_that_changes_its_input_in_place_is_advised_too() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), *net_of("relu"))
    assert inspect(model, IMAGES, LABELS).advice
    assert lint(model, IMAGES)
