"""`init_` on any model: norms, embeddings, shared and computed weights, the listing; and `lsuv`, which runs it."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from initlab import build_net, init_, inspect
from initlab.init.lsuv import TOLERANCE
from initlab.init.shapes import LayerShape


def images(count: int = 32) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 3 + 1


def net(**options: object) -> nn.Sequential:
    return build_net("plain", depth=9, width=6, input_shape=(1, 8, 8), linear_width=16, **options)


def test_norms_get_weight_1_and_bias_0() -> None:
    norms = [nn.BatchNorm2d(3), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.InstanceNorm1d(3, affine=True), nn.RMSNorm(5)]
    model = nn.Sequential(*norms, nn.BatchNorm1d(2, affine=False))
    for parameter in model.parameters():
        nn.init.uniform_(parameter)
    init_(model)
    for name, parameter in model.named_parameters():
        assert (parameter == (1 if name.endswith("weight") else 0)).all()


def test_embeddings_stay_also_where_a_linear_layer_shares_their_weight() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, 4)
            self.head = nn.Linear(4, 10)
            self.head.weight = self.embedding.weight

    model = Tied()
    before = model.embedding.weight.detach().clone()
    rows: list[dict] = []
    init_(model, "he", on_parameter=rows.append)
    assert torch.equal(model.head.weight, before)
    assert [(row["name"], row["rule"]) for row in rows] == [("embedding.weight", "kept"), ("head.bias", "0")]


def test_a_weight_of_two_layers_is_drawn_for_the_last_of_them() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    alone = init_(copy.deepcopy(model))[2].weight
    model[0].weight = model[2].weight
    assert torch.equal(init_(model)[0].weight, alone)


def test_a_weight_that_a_copy_would_not_change_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)))
    before = model[0].weight.detach().clone()
    with pytest.raises(ValueError, match=r"^1: its weight is computed from other parameters \(got a .*before that"):
        init_(model)
    assert torch.equal(model[0].weight, before)


def test_a_lazy_weight_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^0: its weight has no shape yet \(got a lazy LazyLinear\); run the model"):
        init_(nn.Sequential(nn.LazyLinear(4)))


def test_the_listing_says_what_every_parameter_was_set_to() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.PReLU(), nn.Flatten(), nn.Linear(8, 2, bias=False))
    rows: list[dict] = []
    init_(model, "xavier", last_std=0.5, on_parameter=rows.append)
    assert [(row["name"], row["rule"], row["fan_in"], row["fan_out"]) for row in rows] == [
        ("0.weight", "xavier", 27, 72),
        ("0.bias", "0", None, None),
        ("1.weight", "1", None, None),
        ("1.bias", "0", None, None),
        ("2.weight", "kept", None, None),
        ("4.weight", "gaussian", 8, 2),
    ]
    assert rows[0]["shape"] == (8, 3, 3, 3)
    assert rows[0]["std"] == pytest.approx(model[0].weight.std(correction=0).item())
    assert (rows[2]["mean"], rows[2]["std"]) == (1, 0)


def test_the_old_name_of_on_parameter_goes_on_working_but_not_beside_the_new_one() -> None:
    model = nn.Linear(3, 2)
    rows: list[dict] = []
    init_(model, tell=rows.append)
    assert [(row["name"], row["rule"]) for row in rows] == [("weight", "he"), ("bias", "0")]
    with pytest.raises(ValueError, match=r"^init: on_parameter is given twice .*tell too"):
        init_(model, tell=rows.append, on_parameter=rows.append)


def test_a_function_is_a_scheme_with_the_factor_of_the_last_layer_and_zero_biases() -> None:
    def torch_default(normals: Tensor, layer: LayerShape) -> Tensor:  # called as a built-in one, and yet the user's
        return torch.full_like(normals, layer.fan_in)

    rows: list[dict] = []
    model = init_(
        nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), torch_default, last_factor=0.5, on_parameter=rows.append
    )
    assert (model[0].weight == 4).all()
    assert (model[1].weight == 1.5).all()
    assert not model[0].bias.any()
    assert [row["rule"] for row in rows] == ["torch_default", "0", "torch_default", "0"]


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        (lambda normals, layer: normals[0], r"^0: <lambda> gave no weight \(got \(4,\)\); return a tensor of \(3, 4\)"),
        (lambda normals, layer: None, r"^0: <lambda> gave no weight \(got NoneType\)"),
        (lambda normals, layer: normals / 0, r"^0: <lambda> gave numbers that are not finite"),
    ],
)
def test_a_function_that_gives_no_weight_is_named_with_what_it_gave(scheme, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        init_(nn.Sequential(nn.Linear(4, 3)), scheme)


@pytest.mark.parametrize("activation", ["relu", "prelu"])
def test_lsuv_gives_every_layer_unit_variance_on_its_batch(activation: str) -> None:
    model = init_(net(activation=activation), "lsuv", batch=images())
    assert inspect(model, images()).table.forward_var.between(1 - TOLERANCE, 1 + TOLERANCE).all()


def test_lsuv_only_scales_the_orthogonal_weights() -> None:
    start, scaled = init_(net(), "orthogonal").state_dict(), init_(net(), "lsuv", batch=images()).state_dict()
    for name in start:
        if name.endswith("weight"):
            ratio = scaled[name].norm() / start[name].norm()
            assert torch.allclose(scaled[name], start[name] * ratio, rtol=1e-4, atol=1e-6)


def test_lsuv_in_order_of_the_calls_and_once_for_a_layer_used_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.never = nn.Linear(64, 64)
            self.second = nn.Linear(64, 64)
            self.first = nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x.flatten(1))
            return self.second(torch.relu(self.second(torch.relu(y))))

    model = init_(Twice(), "lsuv", batch=images())
    with torch.no_grad():
        y = model.first(images().flatten(1))
        z = model.second(torch.relu(y))
    assert y.var(correction=0).item() == pytest.approx(1, abs=TOLERANCE)
    assert z.var(correction=0).item() == pytest.approx(1, abs=TOLERANCE)
    assert torch.equal(model.never.weight, init_(Twice(), "orthogonal").never.weight)


def test_lsuv_respects_given_stds_and_the_last_factor() -> None:
    model = init_(net(), "lsuv", batch=images(), linear_std=0.02, last_factor=0.1)
    table = inspect(model, images()).table.set_index("name")
    assert model.fc1.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert table.forward_var["fc3"] == pytest.approx(0.01, rel=TOLERANCE)
    assert table.forward_var["conv1_1"] == pytest.approx(1, rel=TOLERANCE)


def test_lsuv_leaves_buffers_modes_hooks_and_the_random_state() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2)).train()
    state = torch.get_rng_state()
    init_(model, "lsuv", batch=images())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert not model[2].running_mean.any()
    assert model[2].num_batches_tracked == 0
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_lsuv_says_what_it_lacks() -> None:
    with pytest.raises(ValueError, match=r"lsuv scales layers on a batch \(got none\); give batch=images"):
        init_(net(), "lsuv")
    with pytest.raises(ValueError, match=r"^conv1_1: lsuv cannot scale .*\(got variance 0 on this batch\)"):
        init_(net(), "lsuv", batch=torch.zeros(4, 1, 8, 8))
    with pytest.raises(ValueError, match=r"^conv1_1: lsuv cannot scale .*\(got variance nan"):
        init_(net(), "lsuv", batch=torch.full((4, 1, 8, 8), math.nan))
