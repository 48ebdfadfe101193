"""float64 moments against direct formulas."""

import math

import pytest
import torch

from initlab.signal.moments import Moments


def test_pooled_parts_have_the_moments_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [
        torch.randn(size, generator=generator) * scale + shift
        for size, scale, shift in ((7, 1, 0), (40, 9, -5), (1, 1, 3))
    ]
    moments = Moments()
    for part in parts:
        moments.add(part)
    whole = torch.cat(parts).double()
    mean, variance = moments.result()
    assert mean.item() == pytest.approx(whole.mean().item(), rel=1e-13)
    assert variance.item() == pytest.approx(whole.var(correction=0).item(), rel=1e-13)


def test_a_variance_far_below_float32_is_exact() -> None:
    values = torch.tensor([1e-28, -1e-28, 3e-28, -3e-28])  # float32 would square them to 0
    assert values.var().item() == 0
    moments = Moments()
    moments.add(values)
    assert moments.result()[1].item() == pytest.approx(5e-56, rel=1e-6)


def test_a_large_mean_does_not_swallow_a_small_variance() -> None:
    moments = Moments()
    moments.add(torch.tensor([1e8 + 1, 1e8 - 1], dtype=torch.float64))
    assert moments.result()[1].item() == 1.0


def test_nothing_added_is_nan() -> None:
    moments = Moments()
    moments.add(torch.empty(0))
    assert all(math.isnan(value.item()) for value in moments.result())
