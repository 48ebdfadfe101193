"""The weight layers of any module: their names, kinds and hooks."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from initlab.nets.any_module import on_weight_layers, op_of


def test_every_convolution_is_conv_transposed_ones_too() -> None:
    layers = [nn.Linear(2, 2), nn.Conv1d(1, 1, 1), nn.Conv3d(1, 1, 1), nn.ConvTranspose2d(1, 1, 1)]
    assert [op_of(layer) for layer in layers] == ["linear", "conv", "conv", "conv"]


def test_a_hook_sees_each_call_of_a_weight_layer_in_order_and_is_gone_afterwards() -> None:
    shared = nn.Linear(2, 2)
    model = nn.Sequential(nn.Sequential(shared, nn.ReLU()), shared, nn.Linear(2, 1))
    calls: list[tuple[str, nn.Module, int]] = []

    def hook(name: str, layer: nn.Module, inputs: tuple[Any, ...], y: Tensor) -> None:
        calls.append((name, layer, len(inputs)))

    with on_weight_layers(model, hook):
        model(torch.ones(1, 2))
    model(torch.ones(1, 2))
    assert calls == [("0.0", shared, 1), ("0.0", shared, 1), ("2", model[2], 1)]


def test_what_a_hook_returns_becomes_the_output_and_an_error_takes_the_hooks_off() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    with on_weight_layers(layer, lambda name, layer, inputs, y: 2 * y):
        assert layer(torch.ones(1)).item() == 2
    with pytest.raises(RuntimeError), on_weight_layers(layer, lambda *_: None):
        layer(torch.ones(2))
    assert not layer._forward_hooks
