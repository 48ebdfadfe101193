"""What narrow layers change in the mean itself, against a plain Monte Carlo over draws of the weights."""

import math
from collections.abc import Callable

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import initlab
from initlab.signal.probe import measure
from tests.signal.theory.field_runs import output

# Not proven: these keep basis `theory` unless `proven.py` says otherwise, but their bands miss the 92-98 % or their
# means are off by more than 5 % in a Monte Carlo of 60-150 draws.
# - GELU and SiLU under He, 20 layers or more below width 512: a map of slope above 1 amplifies what levels scatter.
# - Logits of variance above 10 or so: one power of the level does not describe the softmax's gradient.
# - 20 convolutions or more with zero padding below 64 channels, backward: neighbours' masks under one row of weights.
# - BatchNorm of fewer than 64 examples, backward, 10 layers or more (`MOST_STRAIN` in `passes.py` is for this).
# - Sums of a branch and a skip below width 128, backward: a branch's draw and its skip's scatter are correlated.

DRAWS = 400


def levels(function: Callable[[Tensor], Tensor], variance: float, width: int, depth: int) -> tuple[float, float, float]:
    """Mean square after so many layers from unit normals, its standard error, and two examples' product over it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(DRAWS, 16, width, generator=generator)
    for _ in range(depth):
        weight = torch.randn(DRAWS, width, width, generator=generator) * math.sqrt(variance / width)
        x = function(x) @ weight
    squares = x.double().square().mean((1, 2))
    pairs = (x.double().mean(1).square().mean(1) * 16 - squares) / 15
    error = float(squares.std()) / math.sqrt(DRAWS)
    return float(squares.mean()), error, float(pairs.mean() / squares.mean())


@pytest.mark.parametrize(
    ("module", "variance", "width", "depth"), [(nn.Tanh, 1.0, 16, 30), (nn.GELU, 2.0, 64, 6), (nn.SiLU, 2.0, 64, 6)]
)
def test_levels_of_single_examples_scatter_and_move_the_mean(
    module: type[nn.Module], variance: float, width: int, depth: int
) -> None:
    """Of tanh 0.010 after 30 layers of 16 units, where wide ones have 0.0172."""
    layers = [m for _ in range(depth) for m in (module(), nn.Linear(width, width, bias=False))]
    for layer in layers[1::2]:
        nn.init.constant_(layer.weight, math.sqrt(variance / width))
    field = output(nn.Sequential(*layers), (width,), examples=16)
    mean, error, pairs = levels(module(), variance, width, depth)
    # Theory's own error is at most a twentieth.
    assert field.level == pytest.approx(mean, abs=0.05 * mean + 4 * error)
    assert field.c.same_place == pytest.approx(pairs, abs=0.03)


def test_padding_and_narrow_patches_make_positions_less_alike() -> None:
    """Products of a map's positions over its mean square behind three convolutions of 3x3 and ReLUs."""
    net = nn.Sequential(*[m for c in (3, 32, 32) for m in (nn.Conv2d(c, 32, 3, padding=1, bias=False), nn.ReLU())])
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    within = []
    for seed in range(30):
        maps = initlab.init_(net, "he", seed=seed)(images).detach().double().flatten(2)
        square = maps.square().mean()
        within.append(float((maps.mean(2).square().mean() * 64 - square) / 63 / square))
    field = output(initlab.init_(net, "he"), (3, 8, 8), examples=16)
    assert field.c.within == pytest.approx(sum(within) / 30, abs=0.02)


def test_a_softmax_gradient_grows_along_its_own_signal() -> None:
    """A fifth more reaches the first of 6 layers of 64 than n Var[w] / 2 a layer says: what follows the signal."""
    widths = [64] * 6
    net = nn.Sequential(*[m for n in widths for m in (nn.Linear(n, 64), nn.ReLU())][:-2], nn.Linear(64, 10))
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(16, 64, generator=generator), torch.randint(0, 10, (16,), generator=generator)
    theory = initlab.predict(net, scheme="he", batch=images, labels=labels)
    tables = []
    for seed in range(100):
        tables.append(pd.DataFrame(measure(initlab.init_(net, "he", seed=seed), images, labels)).backward_var)
    means = pd.concat(tables, axis=1).mean(axis=1)
    assert theory.backward_var[0] == pytest.approx(means[0], rel=0.08)
    # The head's n Var[w] over n inputs; He's layers hand on as much as they get.
    plain = theory.backward_var.iloc[-1] * 10 * (2 / 64) / 2
    assert theory.backward_var[0] > 1.1 * plain


def test_a_gradient_that_follows_the_signal_lies_where_slopes_are_large() -> None:
    """Behind 128 squared ReLUs the gradient is 2.24 times as large, where E[phi'^2] is 2."""

    class Squares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(64, 128, bias=False), nn.Linear(128, 128, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).relu() ** 2)

    generator = torch.Generator().manual_seed(0)
    batch, labels = torch.randn(64, 64, generator=generator), torch.randint(0, 128, (64,), generator=generator)
    theory = initlab.predict(Squares(), scheme="lecun", batch=batch, labels=labels)
    levels = []
    for _ in range(200):
        first, last = (torch.randn(128, n, generator=generator) / math.sqrt(n) for n in (64, 128))
        y = torch.randn(64, 64, generator=generator) @ first.T
        gradient = (y.relu() ** 2 @ last.T).softmax(1)
        gradient[torch.arange(64), torch.randint(0, 128, (64,), generator=generator)] -= 1
        back = gradient @ last * 2 * y.relu()
        levels.append([back.square().mean(), gradient.square().mean()])
    back_level, level = torch.tensor(levels).mean(0).tolist()
    # The Monte Carlo's standard error is 0.011.
    assert theory.backward_var[0] / theory.backward_var[1] == pytest.approx(back_level / level, abs=0.06)


def test_a_norm_behind_a_pool_has_a_band_of_its_draws() -> None:
    """The pooled examples are alike but for a twentieth of their square, which the norm divides by."""
    net = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(64), nn.Flatten(),
        nn.Linear(64, 10),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(64, 3, 8, 8, generator=generator), torch.randint(0, 10, (64,), generator=generator)
    last = initlab.predict(net, scheme="he", batch=images, labels=labels).iloc[-1]
    logs = []
    for seed in range(40):
        rows = measure(initlab.init_(net, "he", seed=seed), images, labels)
        logs.append(math.log(rows[-1]["forward_var"]))
    assert math.log(last.forward_high / last.forward_low) / 3.92 == pytest.approx(float(pd.Series(logs).std()), rel=0.4)


def test_the_typical_gradient_of_a_narrow_net_lies_in_the_middle_of_its_band() -> None:
    """Its median over 300 draws, in plain torch: masks see the angle between examples, whose levels walk apart."""
    depth, width, draws = 10, 64, 300
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(32, width, generator=generator), torch.arange(32) % 10
    layers = [m for _ in range(depth) for m in (nn.Linear(width, width), nn.ReLU())]
    theory = initlab.predict(nn.Sequential(*layers, nn.Linear(width, 10)), scheme="he", batch=x, labels=labels)
    y, signals = x.double().expand(draws, 32, width), []
    for number in range(depth + 1):
        weight = torch.randn(draws, width, 10 if number == depth else width, generator=generator).double()
        y = (y.relu() if number else y) @ weight * math.sqrt(2 / width)
        signals.append(y.requires_grad_())
    loss = nn.functional.cross_entropy(y.flatten(0, 1), labels.repeat(draws), reduction="sum")
    gradients = torch.autograd.grad(loss, signals)
    logs = torch.stack([g.flatten(1).var(1, correction=0).log() for g in gradients], 1)
    expected = torch.tensor(theory.backward_median.to_numpy()).log()
    # The standard error of a median is 1.25 * 0.55 / sqrt(300) at most, 0.04; one of 0.82 of it would lie 0.2 below.
    assert float((logs.median(0).values - expected).abs().max()) < 0.12
    spread = torch.tensor((theory.backward_high / theory.backward_low).to_numpy()).log() / 3.92
    assert logs.std(0)[:-1] / spread[:-1] == pytest.approx(torch.ones(depth).numpy(), rel=0.15)
