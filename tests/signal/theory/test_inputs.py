"""What goes into layers and comes out of models: ids, constants, sequences, single numbers, computed weights.

Answers are means over draws measured by the probe, or closed forms.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, weight_norm

import initlab
from initlab.signal.probe import measure


def over_draws(net: nn.Module, batch: Tensor, labels: Tensor, draws: int = 30) -> np.ndarray:
    """Mean forward and backward variance (2, layers) over torch's own draws of the layers."""
    tables = []
    for seed in range(draws):
        torch.manual_seed(seed)
        for layer in net.modules():
            if isinstance(layer, nn.Linear | nn.Conv1d):
                layer.reset_parameters()
        tables.append([(row["forward_var"], row["backward_var"]) for row in measure(net, batch, labels)])
    return np.mean(tables, axis=0).T


class Tokens(nn.Module):
    """An embedding of ids that are put into another shape first, as GPT-2 has it."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.first, self.last = nn.Embedding(50, 64), nn.Linear(64, 128), nn.Linear(128, 50)

    def forward(self, ids: Tensor) -> Tensor:
        return self.last(self.first(self.table(ids.view(-1, ids.shape[-1]))).relu())


class Positions(nn.Module):
    """A layer of a constant, added to one of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.of_input, self.of_place, self.last = nn.Linear(16, 64), nn.Linear(8, 64), nn.Linear(64, 5)
        self.places = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.last((self.of_input(x) + self.of_place(self.places)).relu()).mean(1)


class Joined(nn.Module):
    """A constant beside the signal, in a concatenation along `axis`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 96), nn.Linear(128, 50)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([self.first(x), torch.full((len(x), 32), 3.0)], axis=1))


def sequence() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 64, 3, padding=1), nn.BatchNorm1d(64), nn.ReLU(), nn.Conv1d(64, 64, 3, padding=1),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 50),
    )  # fmt: skip


NORMALS = torch.Generator().manual_seed(1)
CASES: dict[str, tuple[Callable[[], nn.Module], Tensor, Tensor]] = {
    "ids": (Tokens, torch.randint(0, 50, (8, 12), generator=NORMALS), torch.arange(96).reshape(8, 12) % 50),
    "constant input": (Positions, torch.randn(8, 12, 16, generator=NORMALS), torch.zeros(8, dtype=torch.int64)),
    "constant part": (Joined, torch.randn(8, 16, generator=NORMALS), torch.arange(8)),
    "sequence": (sequence, torch.randn(16, 4, 20, generator=NORMALS), torch.arange(16)),
}


@pytest.mark.parametrize("name", list(CASES))
def test_inputs_of_any_kind_are_followed(name: str) -> None:
    build, batch, labels = CASES[name]
    net = build()
    forward, backward = over_draws(net, batch, labels)
    theory = initlab.predict(net, batch=batch, labels=labels)
    assert set(theory.basis) == {"theory"}
    assert theory.forward_var.to_numpy() == pytest.approx(forward, rel=0.25)
    assert theory.backward_var.to_numpy() == pytest.approx(backward, rel=0.25)


def binary(output: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(output, labels, reduction="none")


@pytest.mark.parametrize("last", [nn.Flatten(0), nn.Identity()])
def test_float_labels_and_one_number_for_each_example(last: nn.Module) -> None:
    """The gradient of the binary loss at small logits is 1/2 - label, whose square is 1/4."""
    net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 1), last)
    small = {"scheme": "gaussian", "std": 0.001}
    images = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    labels = (torch.arange(8) % 2).float().reshape(net(images).shape)
    theory = initlab.predict(net, **small, batch=images, labels=labels, loss=lambda y, t: binary(y, t).reshape(-1))
    assert set(theory.basis) == {"theory"}
    assert theory.backward_var[1] == pytest.approx(0.25, rel=1e-3)
    assert theory.backward_var[0] == pytest.approx(0.25 * 1e-6 / 2, rel=0.02)
    relative = initlab.predict(net, **small, batch=images)
    # Independent gradients: the mean over 8 numbers takes an eighth of the last layer's, over 64 times as many less.
    first = 1e-6 / 2 * (1 - 1 / (8 * 64)) / (1 - 1 / 8)
    assert list(relative.backward_var) == pytest.approx([first, 1.0], rel=0.02)
    assert np.isfinite(initlab.predict(net, batch=images, draws=2).backward_var).all()


def test_no_gradient_goes_back_through_detach() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.side, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x) + self.side(x).detach())

    theory = initlab.predict(Detached(), input_shape=(8,)).set_index("name")
    assert np.isnan(theory.backward_var["side"])
    assert np.isfinite(theory.backward_var["first"])
    assert np.isfinite(theory.forward_var["side"])


def test_a_bare_layer_has_the_schemes_own_moment() -> None:
    """2 (1/2) less what the mean over 4096 units takes."""
    theory = initlab.predict(nn.Linear(2, 4096, bias=False), scheme="lecun", input_shape=(2,))
    assert theory.forward_var[0] == pytest.approx(1 - 1 / (64 * 4096), rel=1e-9)


def test_rms_norm_takes_the_eps_of_its_type_where_it_has_none() -> None:
    """A signal of mean square 1e-6 beside float32's 1.19e-7: 1 / 1.119."""
    net = nn.Sequential(nn.RMSNorm(512, elementwise_affine=False), nn.Linear(512, 512, bias=False))
    theory = initlab.predict(net, scheme="lecun", input_shape=(512,), input_moments=(0.0, 1e-6), batch_size=10**6)
    assert theory.forward_var[0] == pytest.approx(1 / (1 + torch.finfo(torch.float32).eps / 1e-6), rel=1e-3)


def pruned(layer: nn.Module) -> nn.Module:
    return prune.random_unstructured(layer, "weight", 0.5)


WRAPPERS = [parametrizations.weight_norm, weight_norm, parametrizations.spectral_norm, pruned]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize("wrap", WRAPPERS, ids=lambda wrap: wrap.__module__.rsplit(".", 1)[-1] + "." + wrap.__name__)
def test_computed_weights_are_drawn_again(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """The band has a width, and the model stays, although it holds a weight with a graph."""
    net = nn.Sequential(wrap(nn.Linear(16, 32)), nn.ReLU(), wrap(nn.Linear(32, 5)))
    images = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    net(images)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    drawn = initlab.predict(net, batch=images, draws=4)
    assert (drawn.forward_high > 1.05 * drawn.forward_low).all()
    initlab.predict(net, scheme="he", batch=images)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
