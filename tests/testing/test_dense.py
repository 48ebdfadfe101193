"""Dense testing against explicit crops, one forward pass each: equal without padding, and at the net's own size."""

import re
from collections import OrderedDict
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from initlab import build_net, dense_scores
from initlab.nets import catalog
from initlab.nets.layers import Add, SkipSequential, SpatialPyramidPool
from initlab.testing import dense

INPUT, STRIDE = 12, 2  # of the nets below: 12 -> 10 -> 5 -> 4, one step of the map is 2 pixels


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def unpadded(spp: bool) -> nn.Sequential:
    maps = [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2, 2), nn.Conv2d(4, 5, 2), nn.ReLU()]
    pool, values = (SpatialPyramidPool((2, 1)), 25) if spp else (nn.Flatten(), 80)
    return nn.Sequential(*maps, pool, nn.Linear(values, 8), nn.ReLU(), nn.Linear(8, 3)).double()


def images(height: int, width: int, count: int = 3) -> Tensor:
    return 3 * torch.randn(count, 2, height, width, dtype=torch.float64)


def cropped(net: nn.Module, whole: Tensor, tops: range, lefts: range, softmax: bool = True) -> Tensor:
    """Mean scores over explicit crops, each through the whole net."""
    outputs = [net(whole[:, :, top : top + INPUT, left : left + INPUT]) for top, left in product(tops, lefts)]
    return torch.stack([y.softmax(1) if softmax else y for y in outputs]).mean(0)


@pytest.mark.parametrize("spp", [False, True])
@pytest.mark.parametrize(("height", "width", "rows", "columns"), [(12, 12, 1, 1), (12, 16, 1, 3), (20, 23, 5, 6)])
def test_without_padding_windows_are_crops(spp: bool, height: int, width: int, rows: int, columns: int) -> None:
    net, whole = unpadded(spp), images(height, width)
    tops, lefts = range(0, STRIDE * rows, STRIDE), range(0, STRIDE * columns, STRIDE)
    expected = cropped(net, whole, tops, lefts)
    assert torch.allclose(dense_scores(net, whole, INPUT, flips=False), expected, rtol=0, atol=1e-12)
    both = (expected + cropped(net, whole.flip(3), tops, lefts)) / 2
    assert torch.allclose(dense_scores(net, whole, INPUT), both, rtol=0, atol=1e-12)
    logits = cropped(net, whole, tops, lefts, softmax=False)
    scores = dense_scores(net, whole, INPUT, flips=False, scores="logits")
    assert torch.allclose(scores, logits, rtol=0, atol=1e-12)
    assert dense_scores(net, whole, INPUT).sum(1).tolist() == pytest.approx([1.0] * 3, abs=1e-12)


def test_skips_and_rows_in_rows_and_average_pools_are_taken_apart() -> None:
    skip = OrderedDict(
        a=nn.Conv2d(2, 4, 3),
        b=nn.Conv2d(4, 4, 1),
        add=Add("a"),
        pool=nn.MaxPool2d(2, 2),
        c=nn.Conv2d(4, 5, 2),
        flatten=nn.Flatten(),
        fc=nn.Linear(80, 3),
    )
    rows = [
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()),
        nn.Sequential(nn.MaxPool2d(2, 2), nn.Conv2d(4, 5, 2)),
        nn.AdaptiveAvgPool2d(1),
        nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(5, 3)),
    ]
    for net in (SkipSequential(skip).double(), nn.Sequential(*rows).double()):
        whole = images(17, 15)
        expected = cropped(net.eval(), whole, range(0, 6, 2), range(0, 4, 2))
        assert torch.allclose(dense_scores(net, whole, INPUT, flips=False), expected, rtol=0, atol=1e-12)


class Built(nn.Sequential):
    """A net whose constructor takes numbers, so that a slice of it cannot be made."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(nn.Conv2d(2, width, 3), nn.ReLU(), Pooled(width), nn.Flatten(), nn.Linear(80, classes))


class Pooled(nn.Sequential):
    """A row of such a kind inside it."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.MaxPool2d(2, 2), nn.Conv2d(width, 5, 2))


class BuiltWithSkip(SkipSequential):
    """The same with a skip."""

    def __init__(self, width: int) -> None:
        layers: list[nn.Module] = [nn.Conv2d(2, width, 3), nn.Conv2d(width, width, 1), Add("0"), Pooled(width)]
        super().__init__(*layers, nn.Flatten(), nn.Linear(80, 3))


@pytest.mark.parametrize("build", [lambda: Built(width=4, classes=3), lambda: BuiltWithSkip(width=4)])
def test_a_class_of_its_own_whose_constructor_takes_no_layers(build: Callable[[], nn.Module]) -> None:
    net, whole = build().double(), images(17, 15)
    expected = cropped(net, whole, range(0, 6, 2), range(0, 4, 2))
    assert torch.allclose(dense_scores(net, whole, INPUT, flips=False), expected, rtol=0, atol=1e-12)


def test_windows_some_at_a_time_are_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    net, whole = unpadded(spp=True), images(20, 23)
    expected = dense_scores(net, whole, INPUT)
    for chunk in (1, 3 * 80 * 5):  # one window, five windows of 4 x 4 x 5 values in 3 images
        monkeypatch.setattr(dense, "CHUNK", chunk)
        assert torch.allclose(dense_scores(net, whole, INPUT), expected, rtol=0, atol=1e-14)


HEAVY = [pytest.param(name, marks=pytest.mark.slow) for name in ("B", "C", "B+3", "B+6", "B+9")]


@pytest.mark.parametrize("name", ["small-14", "small-30", "vgg-16", "vgg-19", "A", *HEAVY])
def test_at_its_own_size_a_net_of_the_paper_gives_its_plain_output(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "LINEAR_WIDTH", 32)  # 4096 would take gigabytes
    side = next(side for side in range(1, 224) if catalog.fits(name, side, side))
    net = build_net(name, num_classes=7, input_size=side, dropout=0.5).eval()
    whole = torch.randn(1, 3, side, side)
    with torch.no_grad():
        expected = 0.5 * (net(whole) + net(whole.flip(3)))
    assert torch.allclose(dense_scores(net, whole, side, scores="logits"), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("choice", [{"skip": "identity"}, {"norm": "batch"}, {"activation": "prelu"}])
def test_at_its_own_size_a_plain_net_gives_its_plain_output(choice: dict[str, str]) -> None:
    net = build_net("plain", depth=12, width=4, input_shape=(1, 16, 16), **choice).double()  # type: ignore[arg-type]
    whole = torch.randn(5, 1, 16, 16, dtype=torch.float64)
    net(whole)  # moves BatchNorm's running statistics
    net.eval()
    assert torch.allclose(dense_scores(net, whole, 16, flips=False), net(whole).softmax(1), rtol=0, atol=1e-12)


def test_zero_padding_parts_windows_from_crops() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(4, 1, bias=False)).double()
    nn.init.ones_(net[0].weight)  # type: ignore[arg-type]
    nn.init.ones_(net[2].weight)  # type: ignore[arg-type]
    whole = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    # A 2x2 crop has four sums of its 4 ones; a window sees its neighbours, so sums of 4, 6 or 9.
    corner, edge, middle = 4 + 6 + 6 + 9, 6 + 6 + 9 + 9, 4 * 9
    scores = dense_scores(net, whole, 2, flips=False, scores="logits").item()
    assert scores == pytest.approx((4 * corner + 4 * edge + middle) / 9, abs=1e-12)
    assert net(whole[:, :, :2, :2]).item() == 16


def test_the_net_is_left_as_it_was() -> None:
    net = unpadded(spp=False)
    net.train()
    net[1].eval()
    dense_scores(net, images(15, 15), INPUT)
    assert [module.training for module in net] == [True, False, *[True] * (len(net) - 2)]
    assert all(p.grad is None for p in net.parameters())


class Own(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


@pytest.mark.parametrize(
    ("net", "whole", "choice", "words"),
    [
        (unpadded(False), images(11, 20), {}, "images smaller than input_size (got 11x20 for 12x12)"),
        (nn.Linear(3, 2), images(13, 13), {}, "net: not a Sequential (got Linear)"),
        (Own(nn.Flatten(), nn.Linear(3, 2)), images(13, 13), {}, "net: not a Sequential (got Own)"),
        (nn.Sequential(nn.Conv2d(2, 3, 3)), images(13, 13), {}, "no linear layer (got 1 layers without)"),
        (unpadded(False), images(20, 20), {"input_size": 15}, "input_size: not what the net was built for"),
        (unpadded(False), images(20, 20)[:, :1], {}, "input_size: not what the net was built for (got (1, 12, 12)"),
        (unpadded(False), images(20, 20)[0], {}, "images: not a batch (got torch.float64 (2, 20, 20))"),
        (unpadded(False), images(20, 20).byte(), {}, "images: not a batch (got torch.uint8"),
        (unpadded(False), images(20, 20), {"scores": "odds"}, "scores: unknown (got 'odds'); allowed: softmax, logits"),
    ],
)
def test_mistakes_are_one_line(net: nn.Module, whole: Tensor, choice: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        dense_scores(net, whole, **{"input_size": INPUT, **choice})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
