"""`predict` against measurement: expectation, band, any model, and the model left as it was."""

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from torch import Tensor, nn

import initlab
from initlab.signal.probe import measure
from tests.signal.theory.field_runs import output


def draws(net: nn.Module, scheme: str, shape: tuple[int, ...], seeds: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Measured forward and relative backward variances (seeds, layers), on normal inputs and random labels."""
    forward, backward = [], []
    generator = torch.Generator().manual_seed(1)
    for seed in range(seeds):
        initlab.init_(net, scheme, seed=seed)
        x, y = torch.randn(batch, *shape, generator=generator), torch.randint(0, 10, (batch,), generator=generator)
        rows = pd.DataFrame(measure(net, x, y))
        forward.append(rows.forward_var.to_numpy())
        backward.append((rows.backward_var / rows.backward_var.iloc[-1]).to_numpy())
    return np.array(forward), np.array(backward)


def inside(values: np.ndarray, theory: pd.DataFrame, direction: str) -> float:
    """Share of (seed, layer) points in the band."""
    return float(
        ((values >= theory[f"{direction}_low"].to_numpy()) & (values <= theory[f"{direction}_high"].to_numpy())).mean()
    )


@pytest.mark.parametrize(("size", "batch"), [(8, 16), pytest.param(16, 64, marks=pytest.mark.slow)])
def test_the_band_holds_for_the_thirty_layer_plain_net(size: int, batch: int) -> None:
    """92 to 98 % of the points of 200 seeds lie in the 95 % band, forward and backward."""
    shape = (1, size, size)
    net = initlab.build_net("plain", depth=30, input_shape=shape)
    theory = initlab.predict(net, scheme="he", input_shape=shape, batch_size=batch)
    forward, backward = draws(net, "he", shape, 200, batch)
    assert 0.92 <= inside(forward, theory, "forward") <= 0.98
    assert 0.92 <= inside(backward[:, :-1], theory.iloc[:-1], "backward") <= 0.98  # the last is 1 by definition


@pytest.mark.parametrize("scheme", ["xavier", "gaussian"])
def test_other_schemes_have_the_same_band_around_their_own_mean(scheme: str) -> None:
    """Exact by homogeneity: at 0 biases every variance is He's times a power of the schemes' ratio."""
    net = initlab.build_net("plain", depth=30, input_shape=(1, 16, 16))
    he, other = (initlab.predict(net, scheme=s, input_shape=(1, 16, 16)) for s in ("he", scheme))
    fans = he.name.map({name: m.weight[0].numel() for name, m in net.named_children() if hasattr(m, "weight")})
    ratio = pd.Series({"xavier": 0.5, "gaussian": 1e-4 / 2}[scheme] * (1 if scheme == "xavier" else fans)).cumprod()
    if scheme == "xavier":
        ratio = pd.Series([0.5 ** (i + 1) for i in range(30)])
    np.testing.assert_allclose(other.forward_var / he.forward_var, ratio, rtol=1e-9)
    np.testing.assert_allclose(other.forward_high / other.forward_low, he.forward_high / he.forward_low, rtol=1e-9)


def test_first_layer_by_hand() -> None:
    net = initlab.build_net("plain", depth=30, input_shape=(1, 16, 16))
    theory = initlab.predict(net, scheme="he", input_shape=(1, 16, 16))
    assert theory.forward_var[0] == pytest.approx(2 * (46 / 48) ** 2, rel=1e-5)  # less the mean over channels
    assert theory.backward_var.iloc[-1] == 1
    assert list(theory.columns) == [
        "layer",
        "name",
        "op",
        "forward_var",
        "forward_median",
        "forward_low",
        "forward_high",
        "backward_var",
        "backward_median",
        "backward_low",
        "backward_high",
        "correlation",
        "basis",
    ]
    assert (theory.forward_low < theory.forward_median).all()
    assert (theory.forward_median < theory.forward_high).all()
    assert set(theory.basis) == {"theory"}


def test_second_moments_as_they_are() -> None:
    """Without a scheme the prediction is of draws with the weights' own second moments."""
    net = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64))
    for layer, value in ((net[0], 0.1), (net[2], 0.3)):
        nn.init.constant_(layer.weight, value)
        nn.init.constant_(layer.bias, 0.2)
    theory = initlab.predict(net, input_shape=(64,), batch_size=10**9)
    first = 64 * 0.01 + 0.04
    # A bias of 0.2 in all units moves their mean and no variance.
    assert theory.forward_var[0] == pytest.approx(first - 0.04, rel=1e-6)
    # tanh of normals of variance 0.64 about 0.2
    normals = math.sqrt(0.64) * torch.randn(1_000_000, generator=torch.Generator().manual_seed(0)) + 0.2
    second = 64 * 0.09 * float(normals.tanh().square().mean())
    assert theory.forward_var[1] == pytest.approx(second, rel=0.02)


def test_correlations_follow_the_c_map() -> None:
    """corr.c1, corr.c5: two orthogonal inputs of a wide He net; 1/pi is exact at any width."""
    layers = [m for _ in range(6) for m in (nn.Linear(1024, 1024, bias=False), nn.ReLU())]
    for layer in layers[::2]:
        nn.init.constant_(layer.weight, math.sqrt(2 / 1024))
    correlation = initlab.predict(nn.Sequential(*layers), input_shape=(1024,)).correlation
    assert correlation[[0, 1, 5]].tolist() == pytest.approx([0, 0.3183099, 0.7359464], abs=0.003)


def test_torch_biases_hide_a_vanishing_signal() -> None:
    """default.bias_floor: n E[z^2] settles on 2/5 while the gradient falls 6-fold a layer."""
    net = nn.Sequential(*[m for _ in range(30) for m in (nn.Linear(512, 512), nn.ReLU())], nn.Linear(512, 10))
    theory = initlab.predict(net, scheme="torch_default", input_shape=(512,))
    falls = [above / below for above, below in pairwise(theory.backward_var.iloc[:29])]
    assert falls == pytest.approx([1 / 6] * 28, rel=0.02)  # the second moments are those of one draw
    level = output(net[:60], (512,)).level * 2  # before the last rectifier
    assert 512 * level == pytest.approx(0.4, rel=0.1)


NETS = ["resnet18", "densenet121", "mobilenet_v3_small", "googlenet"]


@pytest.mark.parametrize("name", NETS)
def test_torchvision_nets_are_followed(name: str) -> None:
    """Forward variances within 30 % of one draw's, backward within a factor 2 (measured operations: 6) of it."""
    torch.manual_seed(0)
    options = {"init_weights": True, "aux_logits": False} if name == "googlenet" else {}
    net = getattr(torchvision.models, name)(weights=None, **options)
    images, labels = torch.randn(4, 3, 96, 96), torch.randint(0, 1000, (4,))
    measured = pd.DataFrame(measure(net, images, labels))
    theory = initlab.predict(net, batch=images, labels=labels)
    assert list(theory.name) == list(measured.name)
    forward = np.log(measured.forward_var / theory.forward_var).abs()
    assert forward.median() < 0.1
    assert forward.max() < 1.0
    backward = np.log(measured.backward_var / theory.backward_var).abs()
    assert backward.median() < {"mobilenet_v3_small": 1.8, "googlenet": 1.8}.get(name, 0.5)


def test_an_operation_without_a_rule_is_measured_and_said() -> None:
    class SortedSquares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).sort(-1).values ** 2)

    net = initlab.init_(SortedSquares(), "lecun")
    images = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    theory = initlab.predict(net, batch=images)
    assert list(theory.basis) == ["measured", "measured"]
    # E[z^4] = 3, all but a little of it the same for all examples, of which the mean over 10 outputs takes a tenth.
    assert theory.forward_var[1] == pytest.approx(3 * 0.9, rel=0.3)


def test_shared_and_unused_layers() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.never, self.twice, self.last = nn.Linear(8, 8), nn.Linear(64, 64), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> tuple[Tensor, str]:
            return self.last(self.twice(self.twice(x).relu()).relu()), "and more"

    theory = initlab.predict(Shared(), scheme="he", input_shape=(64,))
    assert list(theory.name) == ["twice", "last", "never"]
    assert theory.forward_var[0] == pytest.approx(2, rel=0.02)
    assert theory.iloc[2].isna().sum() == 10


def test_the_model_is_left_as_it_was() -> None:
    net = torchvision.models.resnet18(weights=None).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    initlab.predict(net, scheme="he", input_shape=(3, 64, 64))
    initlab.predict(net, batch=torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), draws=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    assert not any(m._forward_hooks for m in net.modules())


def test_redrawn_bands_agree_with_theory_and_tell_their_cost() -> None:
    net = initlab.build_net("plain", depth=12, input_shape=(1, 16, 16))
    theory = initlab.predict(net, scheme="he", input_shape=(1, 16, 16))
    drawn = initlab.predict(net, scheme="he", input_shape=(1, 16, 16), draws=40)
    assert list(drawn.columns) == list(theory.columns)
    assert set(drawn.basis) == {"redrawn"}
    assert drawn.attrs["draws"] == 40
    assert drawn.attrs["passes"] > 20
    for direction in ("forward", "backward"):
        medians = np.log(drawn[f"{direction}_median"] / theory[f"{direction}_median"]).abs()
        assert medians.max() < 0.6
        widths = np.log(drawn[f"{direction}_high"] / drawn[f"{direction}_low"]).iloc[:-1]
        assert widths.to_numpy() == pytest.approx(
            np.log(theory[f"{direction}_high"] / theory[f"{direction}_low"]).iloc[:-1].to_numpy(), rel=0.5
        )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "predict: give one of input_shape and batch (got neither)"),
        ({"input_shape": (8,), "batch": torch.ones(2, 8)}, "predict: give one of input_shape and batch (got both)"),
        ({"input_shape": (8,), "labels": torch.zeros(2)}, "predict: labels belong to a batch (got none)"),
        ({"input_shape": (8,), "draws": 1}, "predict: too few draws for a band (got 1); allowed: 0, or at least 2"),
        ({"input_shape": (8,), "scheme": "hee"}, "init: unknown scheme (got 'hee')"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        initlab.predict(nn.Sequential(nn.Linear(8, 4)), **arguments)  # type: ignore[arg-type]
    assert str(error.value).startswith(text)
    assert "\n" not in str(error.value)
