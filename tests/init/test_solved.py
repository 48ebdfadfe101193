"""`solved`: one scale per layer from what the layer itself gets, forward or backward, measured by plain torch."""

import math
import warnings
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from initlab import init_
from initlab.init.lsuv import TOLERANCE

X = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Mixed(nn.Module):
    """A sum, a concatenation, both kinds of pools, a constant, four activations, and a layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.branch, self.skip = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.joined = nn.Conv2d(32, 24, 3, stride=2)
        self.twice = nn.Linear(24, 24)
        self.gated, self.head = nn.Linear(24, 48), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.stem(x)), 2)
        x = self.skip(x) + 3 * nn.functional.leaky_relu_(self.branch(x), 0.5)
        x = torch.cat([x, torch.tanh(x) - 0.4], 1)
        x = nn.functional.gelu(self.joined(x)).mean((2, 3))
        x = self.twice(torch.relu(self.twice(x)))
        value, gate = self.gated(x).chunk(2, 1)
        return self.head(value * torch.sigmoid(gate))


def moments_of_calls(model: nn.Module, x: Tensor) -> dict[str, tuple[float, float]]:
    """(variance of the output, second moment of its gradient) of every layer's last call, by plain hooks."""
    outputs: dict[str, Tensor] = {}
    hooks = []
    for name, module in model.named_modules():
        if hasattr(module, "weight"):

            def keep(_: nn.Module, __: tuple, y: Tensor, name: str = name) -> Tensor:
                y.retain_grad()
                outputs[name] = y
                # Of what works in place behind the layer, y knows nothing.
                return y.clone()

            hooks.append(module.register_forward_hook(keep))
    out = model(x)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(7), dtype=out.dtype))
    for hook in hooks:
        hook.remove()
    return {name: (y.var(correction=0).item(), y.grad.square().mean().item()) for name, y in outputs.items()}


def test_forward_every_layer_has_unit_variance_through_sums_pools_concatenation_constants_and_gates() -> None:
    rows: list[dict] = []
    model = init_(Mixed(), "solved", batch=X, on_parameter=rows.append)
    variances = {name: forward for name, (forward, _) in moments_of_calls(model, X).items()}
    # Its second call gets other inputs than the first, which sets the scale.
    del variances["twice"]
    assert all(abs(variance - 1) <= 2 * TOLERANCE for variance in variances.values()), variances
    assert {row["keeps"] for row in rows if row["name"].endswith("weight")} == {"forward"}


def chain(activation: Callable[[], nn.Module], widths: tuple[int, ...]) -> nn.Sequential:
    layers = [module for n, m in pairwise(widths) for module in (nn.Linear(n, m), activation())]
    return nn.Sequential(*layers[:-1]).double()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU])
def test_backward_every_layers_gradient_has_the_same_second_moment(activation: Callable[[], nn.Module]) -> None:
    """Widths that halve and double: with mode fan_in the gradient's second moment would do the same."""
    model, rows = chain(activation, (32, 64, 128, 64, 128, 64, 5)), list[dict]()
    x = torch.randn(512, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    init_(model, "solved", mode="fan_out", batch=x, on_parameter=rows.append)
    gradients = [backward for _, backward in moments_of_calls(model, x).values()]
    # The output's own gradient is given; another one than the solver's is measured here, on 5 numbers per example.
    hidden = gradients[:-1]
    assert max(hidden) / min(hidden) < 1.2, gradients
    assert {row["keeps"] for row in rows if row["name"].endswith("weight")} == {"backward"}
    forward = init_(chain(activation, (32, 64, 128, 64, 128, 64, 5)), "solved", batch=x)
    there = [backward for _, backward in moments_of_calls(forward, x).values()][:-1]
    assert max(there) / min(there) > 2


def test_backward_in_wide_relu_layers_is_he_by_fan_out() -> None:
    """n_out Var[w] = 2 (He et al. 2015, eq. 14), whatever the fan_in."""
    model = chain(nn.ReLU, (64, 600, 300, 500, 400, 8))
    x = torch.randn(256, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    init_(model, "solved", mode="fan_out", batch=x)
    for layer in list(model)[2:-1:2]:
        assert layer.weight.var().item() * layer.out_features == pytest.approx(2, rel=0.15)


def test_backward_through_a_residual_trunk_every_branch_hands_back_the_same() -> None:
    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(64, width), nn.Linear(width, 64)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.second(torch.relu(self.first(torch.relu(x))))

    model = nn.Sequential(nn.Linear(16, 64), *(Block(width) for width in (32, 128, 256, 64)), nn.Linear(64, 5))
    x = torch.randn(256, 16, generator=torch.Generator().manual_seed(0))
    init_(model.double(), "solved", mode="fan_out", batch=x)
    gradients = {name: backward for name, (_, backward) in moments_of_calls(model, x.double()).items()}
    # Inside a branch one layer alone hands back; the trunk adds up the branches' shares.
    inside = [gradients[f"{place}.first"] for place in (1, 2, 3, 4)]
    assert max(inside) / min(inside) < 1.25
    trunk = [gradients[f"{place}.second"] for place in (4, 3, 2, 1)]
    assert trunk == sorted(trunk)
    assert trunk[3] / trunk[0] == pytest.approx(4, rel=0.3)


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
def test_it_leaves_everything_but_the_sizes(mode: str) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.ReLU(), nn.Linear(8, 2))
    state = torch.get_rng_state()
    init_(model.train(), "solved", mode=mode, batch=X)
    assert torch.equal(torch.get_rng_state(), state)
    assert model[2].num_batches_tracked == 0
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    lecun = init_(nn.Sequential(nn.Flatten(), nn.Linear(64, 8)), "lecun")[1].weight
    ratio = model[1].weight / lecun
    assert ratio.std().item() < 1e-4 * ratio.mean().item()


@pytest.mark.parametrize("scheme", ["lsuv", "solved"])
def test_it_scales_through_weight_norm_of_both_kinds(scheme: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hooked = nn.utils.weight_norm(nn.Linear(64, 32))
    parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(32, 32))
    model = nn.Sequential(nn.Flatten(), hooked, nn.ReLU(), parametrized, nn.Tanh(), nn.Linear(32, 4))
    init_(model, scheme, batch=X)
    x = X
    for module in model:
        x = module(x)
        if isinstance(module, nn.Linear):
            assert x.var(correction=0).item() == pytest.approx(1, abs=2 * TOLERANCE)


def test_a_prior_stays_and_the_weight_beside_it_is_scaled_without_it() -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    nn.init.constant_(model[2].bias, -4.0)
    x = torch.randn(256, 32, generator=torch.Generator().manual_seed(0))
    init_(model, "solved", batch=x)
    y = model(x)
    assert (model[2].bias == -4).all()
    assert (y + 4).var(correction=0).item() == pytest.approx(1, abs=TOLERANCE)


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
def test_a_layer_that_gets_nothing_from_a_closed_one_stays_as_drawn(mode: str) -> None:
    class Closed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.gate, self.behind, self.out = (nn.Linear(16, 16) for _ in range(4))
            nn.init.zeros_(self.gate.weight)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.out(torch.relu(x + self.behind(self.gate(x))))

    model = init_(Closed(), "solved", mode=mode, batch=torch.randn(64, 16))
    assert model.behind.weight.std().item() == pytest.approx(1 / 4, rel=0.2)
    assert not model.gate.weight.any()


def test_solved_says_what_it_lacks() -> None:
    with pytest.raises(ValueError, match=r"solved scales layers on a batch \(got none\); give batch=images"):
        init_(Mixed(), "solved")
    with pytest.raises(ValueError, match=r"^stem: solved cannot scale .*\(got variance 0 on this batch\)"):
        init_(Mixed(), "solved", batch=0 * X)
    with pytest.raises(ValueError, match=r"^stem: solved cannot scale .*\(got variance nan"):
        init_(Mixed(), "solved", batch=X * math.nan)
