"""Weights behind weight norm, spectral norm and pruning are written so that they run."""

import copy
import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from initlab import init_


def old(put_on: Callable[..., nn.Module]) -> Callable[[nn.Module], nn.Module]:
    """A norm of torch.nn.utils, whose use torch warns of."""

    def quietly(layer: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return put_on(layer)

    return quietly


WEIGHT_NORMS = {"hook": old(nn.utils.weight_norm), "parametrization": parametrizations.weight_norm}
SPECTRAL_NORMS = {"hook": old(nn.utils.spectral_norm), "parametrization": parametrizations.spectral_norm}
LAYERS = {
    "linear": (lambda: nn.Linear(300, 200), (4, 300), 300),
    "conv": (lambda: nn.Conv1d(64, 128, 5), (4, 64, 9), 320),
    "transposed": (lambda: nn.ConvTranspose1d(64, 128, 8, stride=4), (4, 64, 9), 128),
}


def weight_of_a_run(model: nn.Module, x: Tensor) -> Tensor:
    """The weight as it is after a forward pass."""
    model(x)
    return model[0].weight.detach()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("put_on", WEIGHT_NORMS)
def test_the_weight_that_runs_under_weight_norm_is_that_of_the_layer_without_it(put_on: str, layer: str) -> None:
    build, shape, fan_in = LAYERS[layer]
    x = torch.randn(shape)
    plain, normed = init_(nn.Sequential(build())), init_(nn.Sequential(WEIGHT_NORMS[put_on](build())))
    ran = weight_of_a_run(normed, x)
    assert torch.allclose(ran, plain[0].weight, rtol=1e-5, atol=1e-7)
    assert ran.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.03)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("put_on", SPECTRAL_NORMS)
def test_the_weight_that_runs_under_spectral_norm_is_the_drawn_one_over_its_largest_singular_value(
    put_on: str, layer: str
) -> None:
    build, shape, _ = LAYERS[layer]
    plain, rows = init_(nn.Sequential(build())), list[dict]()
    normed = init_(nn.Sequential(SPECTRAL_NORMS[put_on](build())), on_parameter=rows.append)
    ran = weight_of_a_run(normed.eval(), torch.randn(shape))
    ratio = plain[0].weight / ran
    assert ratio.std().item() < 1e-4 * ratio.mean().item()
    matrix = (ran.transpose(0, 1) if layer == "transposed" else ran).flatten(1)
    # The power method has not converged by some per cent.
    assert torch.linalg.matrix_norm(matrix, 2).item() == pytest.approx(1, rel=0.1)
    assert {row["rule"]: row["scheme_std"] for row in rows if row["rule"] == "he"} == {"he": None}


@pytest.mark.parametrize("put_on", WEIGHT_NORMS)
def test_a_closed_branch_behind_weight_norm_is_left(put_on: str) -> None:
    layer = nn.Linear(8, 8)
    nn.init.normal_(layer.weight, std=1e-6)
    rows: list[dict] = []
    model = nn.ModuleList([nn.Linear(8, 8), WEIGHT_NORMS[put_on](layer)])
    init_(model, on_parameter=rows.append)
    assert [row["rule"] for row in rows if row["name"].startswith("1.")].count("kept") == 2


def test_a_pruned_weight_keeps_its_mask() -> None:
    layer = nn.Linear(200, 100)
    prune.random_unstructured(layer, "weight", amount=0.5)
    mask = layer.weight_mask.clone()
    ran = weight_of_a_run(init_(nn.Sequential(layer)), torch.randn(2, 200))
    assert torch.equal(ran, init_(nn.Sequential(nn.Linear(200, 100)))[0].weight * mask)


@pytest.mark.parametrize("put_on", [*WEIGHT_NORMS.values(), *SPECTRAL_NORMS.values()])
def test_a_model_that_has_run_can_be_copied_after_init(put_on: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(put_on(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 2))
    model(torch.randn(2, 8))
    copied = copy.deepcopy(init_(model))
    x = torch.randn(3, 8)
    assert torch.equal(copied.eval()(x), model.eval()(x))
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
