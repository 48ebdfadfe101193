"""Correlations of two examples' gradients: where the backward theory starts, and behind a max-pool."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from initlab.signal.theory.cotangent import drawn_gradient, pair_statistics
from initlab.signal.theory.field import Field, Pairs, field_of
from initlab.signal.theory.meanfield import Context, Signal
from initlab.signal.theory.scatter import Noise
from tests.signal.theory.field_runs import run


@pytest.mark.parametrize("c", [0.0, 0.5, 1.0])
def test_examples_with_logits_in_common_start_with_gradients_in_common(c: float) -> None:
    """asin(c)/pi for large logits of two classes.

    Softmax then is a one-hot guess k, and the gradient e_k - e_label. With labels at random its mean square is 1 (0 or
    2), and two examples' mean product that of e_k - 1/2: 1/2 where they guess alike, -1/2 else. They guess alike with
    probability 1/2 + asin(c)/pi, the difference of their logits having correlation c (Sheppard 1899).
    """
    logits = Field(torch.tensor(1e8, dtype=torch.float64), Pairs.alike(c), 0.0, 1, 2)
    start = drawn_gradient(Context(64, False, {}), Signal(logits, Noise()), classes=2)
    # of 400 draws, each of which has one guess in common: a sign's standard deviation is 1, that of the product 1/2
    assert start.c.same_place == pytest.approx(math.asin(c) / math.pi, abs=4 * 0.5 / math.sqrt(400))
    assert start.level == 1


def test_examples_with_small_logits_start_with_gradients_of_their_own() -> None:
    """1/K - e_label: labels at random have nothing in common, whatever the logits have."""
    logits = Field(torch.tensor(1e-8, dtype=torch.float64), Pairs.alike(1.0), 0.0, 1, 10)
    start = drawn_gradient(Context(64, False, {}), Signal(logits, Noise()), classes=10)
    assert start.c.same_place == pytest.approx(0, abs=0.001)


def test_pair_statistics_by_hand() -> None:
    """Gradients (1, 0), (1, 0), (0, 1) of one draw: of three pairs one has product 1, of mean square 1."""
    c, spread = pair_statistics(np.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]))
    assert c == Pairs.alike(1 / 3)
    assert spread.same_place == pytest.approx(1 / 3 - 1 / 9)


def pooled_gradient(images: Tensor) -> Pairs:
    """Correlations of the gradients before a 2x2 max-pool, of examples whose gradients behind it are the same."""
    images = images.requires_grad_()
    pooled = nn.functional.max_pool2d(images, 2)
    same = torch.randn(pooled.shape[1:], generator=torch.Generator().manual_seed(1)).expand_as(pooled)
    (gradient,) = torch.autograd.grad(pooled, images, same)
    return field_of(gradient).c


@pytest.mark.parametrize(("alike", "kept"), [(False, 1 / 4), (True, 1.0)])
def test_a_max_pool_keeps_the_gradient_correlation_of_windows_that_choose_the_same_member(
    alike: bool, kept: float
) -> None:
    """1/4 for independent examples: a window of four sends both gradients to one member in one case of four."""
    independent = torch.randn(1000, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    images = independent[:1].expand_as(independent) if alike else independent
    start = Field(torch.ones(8, 8, dtype=torch.float64), Pairs(1.0, 0.0, 0.0, float(alike), 0.0), 0.0, 64, 4)
    gradients = run(nn.MaxPool2d(2), (4, 8, 8), start=start, c=Pairs(1.0, 0.0, 0.0, 1.0, 0.0))[3]
    assert gradients[0] is not None
    assert gradients[0].c.same_place == pytest.approx(kept, abs=1e-12)
    assert pooled_gradient(images.clone()).same_place == pytest.approx(kept, abs=0.02)
