"""Bands with labels, from the last layer on: the share of draws inside them; and where theory says that it is rough."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import initlab
from initlab.signal.probe import measure

Build = Callable[[], nn.Module]


def chain(*between: Callable[[], nn.Module], depth: int, width: int) -> nn.Sequential:
    layers = [m for _ in range(depth) for m in (nn.Linear(width, width), *(b() for b in between))]
    return nn.Sequential(*layers, nn.Linear(width, 10))


class ChannelsFirstNorm(nn.Module):
    """LayerNorm over the channels of a map, as ConvNeXt has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def pooled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.GELU(), nn.AdaptiveAvgPool2d(1),
        ChannelsFirstNorm(64), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


CASES: dict[str, tuple[Build, tuple[int, ...], str]] = {
    "relu": (lambda: chain(nn.ReLU, depth=5, width=64), (64,), "he"),
    "gelu": (lambda: chain(nn.GELU, depth=8, width=64), (64,), "lecun"),
    "layer norm": (lambda: chain(lambda: nn.LayerNorm(64), nn.ReLU, depth=4, width=64), (64,), "he"),
    "batch norm": (lambda: chain(lambda: nn.BatchNorm1d(64), nn.ReLU, depth=3, width=64), (64,), "he"),
    "norm behind a pool": (pooled, (3, 8, 8), "torch_default"),
}


@pytest.mark.parametrize("name", list(CASES))
def test_draws_lie_in_the_band_from_the_last_layer_on(name: str) -> None:
    """At least 85 % of the points of 40 draws in each direction, the last layer's gradient among them."""
    build, shape, scheme = CASES[name]
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(16, *shape, generator=generator), torch.randint(0, 10, (16,), generator=generator)
    net = build()
    theory = initlab.predict(net, scheme=scheme, batch=images, labels=labels)
    tables = []
    for seed in range(40):
        initlab.init_(net, scheme, seed=seed)
        tables.append(pd.DataFrame(measure(net, images, labels)))
    assert set(theory.basis) == {"approximate" if "GELU" in repr(net) else "theory"}
    for direction in ("forward", "backward"):
        low, high = (theory[f"{direction}_{bound}"].to_numpy() for bound in ("low", "high"))
        points = np.array([table[f"{direction}_var"] for table in tables])
        assert ((points > low) & (points < high)).mean() >= 0.85
    assert ((points[:, -1] > low[-1]) & (points[:, -1] < high[-1])).mean() >= 0.7


class Shared(nn.Module):
    """One layer in a stream, several times."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(4):
            x = x + self.again(x).relu()
        return self.last(x)


class Gated(nn.Module):
    """A gate whose factor comes from its own input, added to that input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x + x * self.gate(x).sigmoid())


@pytest.mark.parametrize(
    ("net", "because"),
    [(Shared(), "linear: again takes in what it gave itself"), (Gated(), "add: what meets there has a part in common")],
)
def test_signals_that_meet_and_are_not_independent_are_said(net: nn.Module, because: str) -> None:
    theory = initlab.predict(net, input_shape=(32,))
    assert theory.attrs["approximate_because"] == because
    assert set(theory.basis) == {"approximate"}


def test_parallel_uses_of_one_layer_and_ordinary_skips_are_independent() -> None:
    class Siamese(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.branch, self.head = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            y = y + self.branch(y.relu())
            return torch.cat([self.head(y), self.head(y.relu())], 1)

    theory = initlab.predict(Siamese(), input_shape=(32,))
    # The one doubt is that of all sums.
    assert theory.attrs["approximate_because"] == "gradients of residual sums"


def test_gradients_through_many_batch_norms_of_few_examples_are_said() -> None:
    """Each of them takes two numbers from eight examples."""
    net = chain(lambda: nn.BatchNorm1d(32), nn.ReLU, depth=8, width=32)
    theory = initlab.predict(net, input_shape=(32,), batch_size=8)
    assert theory.attrs["approximate_because"].startswith("batch_norm: the gradient comes through many norms")
    assert theory.basis.iloc[0] == "approximate"
    assert theory.basis.iloc[-1] == "theory"
    assert set(initlab.predict(net, input_shape=(32,), batch_size=512).basis) == {"theory"}
