"""Scatter of grouped, depthwise and transposed convolutions over draws, against draws in plain torch."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import initlab

NETS = {
    "depthwise": nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False), nn.ReLU(), nn.Conv2d(32, 8, 1, bias=False),
    ),
    "groups in a row": nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, groups=8, bias=False), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, groups=8, bias=False), nn.ReLU(), nn.Conv2d(32, 8, 1, bias=False),
    ),
    "transposed": nn.Sequential(
        nn.ConvTranspose2d(3, 48, 4, 2, 1, bias=False), nn.ReLU(),
        nn.ConvTranspose2d(48, 24, 3, 2, 1, output_padding=1, bias=False), nn.ReLU(), nn.Conv2d(24, 8, 1, bias=False),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(NETS))
def test_the_band_is_as_wide_as_draws_scatter(name: str) -> None:
    net = NETS[name]
    images = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    convs = [m for m in net if not isinstance(m, nn.ReLU)]
    stds = [math.sqrt(2 / m.weight[0].numel()) for m in convs]
    logs = []
    with torch.no_grad():
        for seed in range(250):
            generator = torch.Generator().manual_seed(seed)
            for conv, std in zip(convs, stds, strict=True):
                conv.weight.copy_(torch.randn(conv.weight.shape, generator=generator) * std)
            x, levels = images, []
            for module in net:
                x = module(x)
                levels += [float(x.var().log())] if module in convs else []
            logs.append(levels)
        for conv, std in zip(convs, stds, strict=True):
            conv.weight.mul_(std / conv.weight.square().mean((0, 1), keepdim=True).sqrt())
    theory = initlab.predict(net, batch=images)
    # The first layer's filters see the same few channels in each draw.
    measured, width = np.std(logs, axis=0)[1:], np.log(theory.forward_high / theory.forward_low).to_numpy()[1:] / 3.92
    assert width == pytest.approx(measured, rel=0.2)
    assert np.log(theory.forward_median)[1:].to_numpy() == pytest.approx(np.median(logs, axis=0)[1:], abs=0.06)
