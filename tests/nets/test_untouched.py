"""Looking changes nothing: each way in which a model writes on itself, its input or the world, undone in place."""

import copy
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import initlab
from initlab.nets.undisturbed import run_model, untouched


class Net(nn.Module):
    """Two layers around a step of a subclass that writes somewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
        self.set_up()

    def set_up(self) -> None:
        """What the step needs."""

    def step(self, x: Tensor) -> Tensor:
        """Write somewhere."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.step(self.first(x)))


class NewBuffer(Net):
    def set_up(self) -> None:
        self.register_buffer("table", None)

    def step(self, x: Tensor) -> Tensor:
        self.table = torch.ones(4)
        self.register_buffer("mask", torch.ones(4))
        return x * self.table


class FromData(Net):
    def set_up(self) -> None:
        self.scale, self.ready = nn.Parameter(torch.ones(4)), False

    def step(self, x: Tensor) -> Tensor:
        if not self.ready:
            self.scale.data.copy_(1 / x.detach().std(0))
            self.scale.data = self.scale.data.clone()
            self.ready = True
        return x * self.scale


class Lists(Net):
    def set_up(self) -> None:
        self.calls, self.log, self.cache = 0, [[1]], SimpleNamespace(keys={}, entries=[SimpleNamespace(n=0)])

    def step(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.log[0].append(x)
        self.cache.keys["x"] = x
        self.cache.entries[0].n += 1
        return x


class KeepsGraph(Net):
    def step(self, x: Tensor) -> Tensor:
        self.kept = x * 2
        return x


class HooksItself(Net):
    def step(self, x: Tensor) -> Tensor:
        if not self.last._forward_hooks:
            self.last.register_forward_hook(lambda *_: None)
        return x


class OwnGenerator(Net):
    def set_up(self) -> None:
        self.generator = torch.Generator().manual_seed(3)

    def step(self, x: Tensor) -> Tensor:
        return x + torch.rand(4, generator=self.generator) + random.random() + float(np.random.rand())


class WritesGradients(Net):
    def step(self, x: Tensor) -> Tensor:
        self.first.weight.square().sum().backward() if self.first.weight.requires_grad else None
        return x


class Refuses(Net):
    def train(self, mode: bool = True) -> "Refuses":
        raise NotImplementedError("this model has no modes")


def spectral(old: bool) -> Net:
    net = Net()
    (nn.utils.spectral_norm if old else nn.utils.parametrizations.spectral_norm)(net.first)
    return net


def state_of(model: nn.Module) -> dict[str, Any]:
    """All attributes of all modules as text, and the random states."""
    parts = {name: {k: repr(v) for k, v in vars(m).items()} for name, m in model.named_modules()}
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    generators = [v.get_state().tolist() for v in vars(model).values() if isinstance(v, torch.Generator)]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), generators
    return {"parts": parts, "tensors": {n: v.tolist() for n, v in tensors.items()}, "states": states}


LOOKS: dict[str, Callable[[nn.Module, Tensor, Tensor], object]] = {
    "inspect": lambda model, x, y: initlab.inspect(model, x, y),
    "no labels": lambda model, x, y: initlab.inspect(model, x),
    "lint": lambda model, x, y: (initlab.lint(model, x), initlab.lint(model)),
    "predict": lambda model, x, y: initlab.predict(model, batch=x, labels=y),
    "compare_inits": lambda model, x, y: initlab.compare_inits(
        model, x, y, ["as_is", "he", ("mine", lambda copy: nn.init.zeros_(copy.last.bias))], 1, lr=0.1
    ),
    "forecast": lambda model, x, y: initlab.forecast(model, x, y, lr=0.1),
}
MODELS: list[Callable[[], Net]] = [
    *(NewBuffer, FromData, Lists, KeepsGraph, HooksItself, OwnGenerator, WritesGradients, Refuses),
    *(lambda: spectral(True), lambda: spectral(False)),
]


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("build", MODELS)
def test_nothing_of_the_model_is_changed_by_looking(build: Callable[[], Net], look: str) -> None:
    torch.manual_seed(0)
    model = build()
    parameters, x, y = list(model.parameters()), torch.randn(6, 4), torch.arange(6) % 3
    before, images = state_of(model), x.clone()
    LOOKS[look](model, x, y)
    assert state_of(model) == before
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert torch.equal(x, images)
    copy.deepcopy(model)


def test_lsuv_scales_the_weights_and_changes_nothing_else() -> None:
    torch.manual_seed(0)
    model, x = Lists(), torch.randn(64, 4)
    initlab.init_(model, "lsuv", batch=x)
    assert model.calls == 0 and model.log == [[1]]
    y = model.first(x)
    assert y.var(correction=0).item() == pytest.approx(1, rel=0.01)
    assert model.last(y).var(correction=0).item() == pytest.approx(1, rel=0.01)


def test_an_input_that_is_changed_in_place_is_the_users_as_before() -> None:
    class InPlace(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mul_(2))

    model, x, y = InPlace(), torch.ones(6, 4), torch.arange(6) % 3
    for look in LOOKS.values():
        look(model, x, y)
    initlab.init_(model, "lsuv", batch=torch.randn(6, 4))
    assert torch.equal(x, torch.ones(6, 4))


def test_looking_between_a_forward_and_its_backward_leaves_the_graph_usable() -> None:
    model = Net()
    loss = model(torch.ones(2, 4)).sum()
    initlab.inspect(model, torch.randn(6, 4), torch.arange(6) % 3)
    loss.backward()
    assert model.first.weight.grad is not None


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.last(self.first(x) * (1.0 if mask is None else mask))


@pytest.mark.parametrize("kind", ["dict", "list", "tuple"])
def test_batches_that_are_arguments_give_what_the_tensor_gives(kind: str) -> None:
    torch.manual_seed(0)
    model, x, y = Pair(), torch.randn(6, 4), torch.arange(6) % 3
    batch: Any = {"dict": {"x": x, "mask": torch.ones(4)}, "list": [x, torch.ones(4)], "tuple": (x,)}[kind]
    plain, other = initlab.inspect(model, x, y).table, initlab.inspect(model, batch, y).table
    assert other.forward_var.tolist() == plain.forward_var.tolist()
    assert other.weight_grad_rms.tolist() == plain.weight_grad_rms.tolist()
    assert [f.rule for f in initlab.lint(model, batch)] == [f.rule for f in initlab.lint(model, x)]
    assert len(initlab.predict(model, batch=batch)) == 2
    # With a mask, what joins the signal looks like a skip, whose family of nets is another.
    assert initlab.forecast(model, batch, y, lr=0.1).features == initlab.forecast(model, x, y, lr=0.1).features
    scaled = initlab.init_(copy.deepcopy(model), "lsuv", batch=batch)
    assert torch.equal(scaled.first.weight, initlab.init_(copy.deepcopy(model), "lsuv", batch=x).first.weight)


def test_a_list_of_pictures_is_one_argument_where_forward_says_so() -> None:
    class Detector(nn.Module):
        def forward(self, images: list[Tensor], targets: Any = None) -> int:
            return len(images)

    assert run_model(Detector(), [torch.ones(3, 4, 4), torch.ones(3, 5, 5)]) == 2


def test_a_compiled_model_runs_as_it_is_written(recwarn: pytest.WarningsRecorder) -> None:
    compiled: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(1)
        return graph.forward

    net = Net()
    model = torch.compile(net, backend=backend)
    assert str(initlab.inspect(model, torch.ones(6, 4))) == str(initlab.inspect(net, torch.ones(6, 4)))
    assert not compiled
    model(torch.ones(6, 4))
    assert compiled


def test_the_states_are_back_after_an_error() -> None:
    model = Lists()
    before = state_of(model)
    with pytest.raises(RuntimeError), untouched(model, backward=True):
        model(torch.ones(2, 4))
        model(torch.ones(2, 5))
    assert state_of(model) == before
