"""Views of numbered images, and images at a scale."""

import pytest
import torch

from initlab.data.dataset import Preprocessing
from initlab.data.examples import Examples
from initlab.data.in_memory import ImageSet, prepare
from initlab.data.scales import at_side, centre_view, mean_at, ten_views


def numbered(height: int, width: int) -> torch.Tensor:
    """One image, (1, 1, height, width): 0, 1, 2, … row by row."""
    return torch.arange(height * width, dtype=torch.float32).reshape(1, 1, height, width)


def test_the_ten_views_of_a_numbered_image() -> None:
    #  0  1  2  3
    #  4  5  6  7
    #  8  9 10 11
    # 12 13 14 15
    views = [view.flatten().tolist() for view in ten_views(numbered(4, 4), 2, 2)]
    corners = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert views[:5] == [*corners, [5, 6, 9, 10]]
    mirrored = [[1, 0, 5, 4], [3, 2, 7, 6], [9, 8, 13, 12], [11, 10, 15, 14]]
    assert views[5:] == [*mirrored, [6, 5, 10, 9]]
    assert len(ten_views(numbered(4, 4), 2, 2, flips=False)) == 5


def test_an_oblong_image_and_an_odd_margin() -> None:
    # 0 1 2 3 4
    # 5 6 7 8 9
    assert [v.flatten().tolist() for v in ten_views(numbered(2, 5), 2, 3, flips=False)] == [
        [0, 1, 2, 5, 6, 7],
        [2, 3, 4, 7, 8, 9],
        [0, 1, 2, 5, 6, 7],
        [2, 3, 4, 7, 8, 9],
        [1, 2, 3, 6, 7, 8],
    ]
    assert centre_view(numbered(3, 3), 2, 2).flatten().tolist() == [4, 5, 7, 8]
    assert centre_view(numbered(3, 3), 3, 3).flatten().tolist() == list(range(9))


def test_the_shorter_side_gets_the_scale() -> None:
    images = numbered(4, 6)
    assert at_side(images, 8).shape == (1, 1, 8, 12)
    assert at_side(images.mT, 2).shape == (1, 1, 3, 2)
    assert at_side(images, 4) is images
    flat = at_side(torch.full((2, 3, 4, 4), 77.0), 7)
    assert flat.shape == (2, 3, 7, 7) and (flat == 77).all()
    ramp = at_side(torch.tensor([0.0, 100.0]).expand(1, 1, 2, 2), 4)[0, 0, 0]
    assert ramp.tolist() == [0, 25, 75, 100], "bilinear: a quarter and three quarters of the way, the ends held"


@pytest.fixture
def seven() -> ImageSet:
    """Seven validation images of 4 x 4, image i all of grey level i, with a mean of 10."""
    val = torch.arange(7, dtype=torch.uint8)[:, None, None, None].expand(7, 1, 4, 4).contiguous()
    train = torch.tensor([0, 20], dtype=torch.uint8)[:, None, None, None].expand(2, 1, 4, 4).contiguous()
    raw = Examples(train, torch.tensor([0, 1]), val, torch.arange(7) % 2, num_classes=2)
    return prepare(raw, Preprocessing(dtype=torch.float64))


@pytest.mark.parametrize("side", [4, 6])
def test_every_validation_image_comes_once_in_grey_levels(seven: ImageSet, side: int) -> None:
    values = dict[int, float]()
    for images, places in seven.val_at(side, batch_size=3):
        assert images.shape[1:] == (1, side, side) and images.dtype == torch.float64
        values |= dict(zip(places.tolist(), images.mean((1, 2, 3)).tolist(), strict=True))
    assert values == {i: i for i in range(7)}


def test_the_mean_image_is_stretched() -> None:
    mean = torch.tensor([[0.0, 100.0]]).expand(2, 2)[None]
    assert mean_at(mean, 2, 2) is mean
    assert mean_at(mean, 4, 4)[0, 3].tolist() == [0, 25, 75, 100]
