"""Bare parameters that a run applies as weights are drawn as the layers that they are."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from initlab import init_


class Bare(nn.Module):
    """Linear layers and convolutions without a module, either way round, beside what only looks like one."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.shift = nn.Parameter(torch.randn(32, 1, 3, 3)), nn.Parameter(torch.rand(32) / 10)
        self.up = nn.Parameter(torch.randn(32, 24, 2, 2))
        self.right = nn.Parameter(torch.randn(24, 40))
        self.turned = nn.Parameter(torch.randn(48, 40))
        self.straight, self.bias = nn.Parameter(torch.randn(16, 48)), nn.Parameter(torch.rand(16) / 10)
        self.pos_table = nn.Parameter(torch.randn(16, 16))
        self.lora_a, self.lora_b = nn.Parameter(torch.randn(2, 16)), nn.Parameter(torch.zeros(16, 2))
        self.gain = nn.Parameter(torch.ones(16))
        self.unused = nn.Parameter(torch.randn(8, 8))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.kernel, self.shift, padding=1)
        x = F.conv_transpose2d(torch.relu(x), self.up, stride=2).mean((2, 3))
        x = torch.relu(x @ self.right) @ self.turned.t()
        x = F.linear(torch.relu(x), weight=self.straight, bias=self.bias) * self.gain
        x = x + F.linear(x, self.lora_b @ self.lora_a) + x @ self.pos_table
        return self.head(x)


FANS = {"kernel": (9, 288), "up": (32, 96), "right": (24, 40), "turned": (40, 48), "straight": (48, 16)}


def test_bare_weights_are_drawn_with_their_fans_where_a_run_shows_them() -> None:
    x, rows = torch.randn(4, 1, 6, 6), list[dict]()
    model = Bare()
    init_(model, "he", batch=x, on_parameter=rows.append)
    by_name = {row["name"]: row for row in rows}
    for name, fans in FANS.items():
        row = by_name[name]
        assert (row["rule"], row["fan_in"], row["fan_out"]) == ("he", *fans), name
        weight = model.get_parameter(name)
        assert weight.std().item() == pytest.approx(math.sqrt(2 / fans[0]), rel=5 / math.sqrt(2 * weight.numel()))
    assert not model.shift.any()
    assert not model.bias.any()
    others = ("pos_table", "lora_a", "lora_b", "gain", "unused")
    assert {by_name[name]["rule"] for name in others} == {"kept"}
    assert by_name["unused"]["reason"] == "no rule is known for a parameter of Bare"


def test_without_a_batch_bare_parameters_stay() -> None:
    model = Bare()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    init_(model, "he")
    assert all(torch.equal(model.get_parameter(name), before[name]) for name in FANS)
    assert not torch.equal(model.head.weight, before["head.weight"])


def test_looking_changes_nothing_else() -> None:
    model = Bare().train()
    state = torch.get_rng_state()
    init_(model, "he", batch=torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
