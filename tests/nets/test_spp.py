"""Spatial pyramid pooling: SPP-net's windows where they tile the map, every position of it in some bin elsewhere."""

import math

import pytest
import torch
import torch.nn.functional as F

from initlab.nets.layers import SpatialPyramidPool


def maps(height: int, width: int, channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def by_hand(x: torch.Tensor, n: int) -> list[torch.Tensor]:
    """The n x n bins of every channel in order, each the maximum of a slice."""
    height, width = x.shape[2:]
    edges = [[(i * m // n, -(-(i + 1) * m // n)) for i in range(n)] for m in (height, width)]
    return [
        x[:, c, top:bottom, left:right].amax(dim=(1, 2))
        for c in range(x.shape[1])
        for top, bottom in edges[0]
        for left, right in edges[1]
    ]


@pytest.mark.parametrize(("bins", "values"), [((6, 3, 2, 1), 50), ((7, 3, 2, 1), 63)])
def test_the_papers_pyramids_have_50_and_63_bins(bins: tuple[int, ...], values: int) -> None:
    for size in ((7, 7), (14, 18), (18, 18), (31, 8)):
        assert SpatialPyramidPool(bins)(maps(*size)).shape == (2, 3 * values)


@pytest.mark.parametrize("size", [(18, 18), (14, 14), (7, 9), (13, 25), (10, 10)])
def test_levels_are_the_maxima_of_their_bins_in_order(size: tuple[int, int]) -> None:
    x = maps(*size)
    expected = torch.stack([one for n in (7, 3, 2, 1) for one in by_hand(x, n)], dim=1)
    assert torch.equal(SpatialPyramidPool((7, 3, 2, 1))(x), expected)


@pytest.mark.parametrize(("side", "n"), [(18, n) for n in (6, 3, 2, 1)] + [(14, n) for n in (7, 2, 1)])
def test_where_the_bins_divide_the_map_they_are_spp_nets_sliding_windows(side: int, n: int) -> None:
    x = maps(side, side)
    windows = F.max_pool2d(x, math.ceil(side / n), math.floor(side / n))
    assert torch.equal(SpatialPyramidPool((n,))(x), windows.flatten(1))


def test_three_bins_of_14_overlap_and_reach_the_end_where_sliding_windows_do_not() -> None:
    x = torch.zeros(1, 1, 14, 14)
    x[0, 0, 13, 13] = 1.0
    assert F.max_pool2d(x, 5, 4).shape[2:] == (3, 3)
    assert F.max_pool2d(x, 5, 4).max() == 0  # rows 0 to 12 alone
    assert SpatialPyramidPool((3,))(x).tolist() == [[0.0] * 8 + [1.0]]


def test_the_gradient_goes_to_the_maximum_of_each_bin() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4).requires_grad_()
    SpatialPyramidPool((2, 1))(x).sum().backward()
    assert x.grad is not None
    expected = torch.zeros(4, 4)
    expected[1, 1] = expected[1, 3] = expected[3, 1] = 1
    expected[3, 3] = 2  # of its quarter and of the whole
    assert torch.equal(x.grad[0, 0], expected)


@pytest.mark.parametrize("size", [(5, 8), (8, 5), (1, 1)])
def test_a_map_smaller_than_the_bins_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"spp: a map of {size[0]}x{size[1]} is too small .*at least 6 a side"):
        SpatialPyramidPool((6, 3))(maps(*size))
