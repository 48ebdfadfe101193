"""Views: scale jitter, crops, flips and colours as drawn; statistics by brute force."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from initlab.data.statistics import CentreViews, color_components, measure
from initlab.data.views import Views, centre_view, color_shift, draw, training_views

VIEWS = Views(crop=8, val_side=10, jitter=(9, 14), flip=True, color_std=0.1)
NUMBERS = torch.Generator().manual_seed(0)
PICTURES = [
    torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=NUMBERS)
    for height, width in [(20, 30), (9, 9), (40, 11), (5, 7)]
]


def test_sides_are_uniform_over_the_range_with_both_ends() -> None:
    sides = torch.cat([draw(VIEWS, 100, 0, step).sides for step in range(60)])
    counts = torch.bincount(sides, minlength=15)[9:]
    assert counts.sum() == 6000
    chi_square = ((counts - 1000) ** 2 / 1000).sum().item()  # 5 degrees of freedom: above 20.5 once in a thousand
    assert chi_square < 20.5


def test_draws_depend_on_seed_and_step_and_not_on_what_is_in_use() -> None:
    one, again = draw(VIEWS, 16, 3, 7), draw(VIEWS, 16, 3, 7)
    assert torch.equal(one.color, again.color)
    assert not torch.equal(one.offsets, draw(VIEWS, 16, 3, 8).offsets)
    assert not torch.equal(one.offsets, draw(VIEWS, 16, 4, 7).offsets)
    bare = draw(Views(crop=8, val_side=10, jitter=(10, 10), flip=False, color_std=0.0), 16, 3, 7)
    assert torch.equal(one.offsets, bare.offsets)
    assert not bare.mirrored.any()
    assert not bare.color.any()


def test_coefficients_of_colour_are_normal_with_the_asked_std_and_half_is_mirrored() -> None:
    draws = [draw(VIEWS, 500, 0, step) for step in range(8)]
    color = torch.cat([d.color for d in draws])
    assert color.std().item() == pytest.approx(0.1, rel=5 / math.sqrt(2 * color.numel()))
    assert color.mean().item() == pytest.approx(0, abs=5 * 0.1 / math.sqrt(color.numel()))
    mirrored = torch.cat([d.mirrored for d in draws]).double().mean().item()
    assert mirrored == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(4000))


def test_where_nothing_is_resized_a_view_is_a_crop_of_the_picture_mirrored_or_not() -> None:
    picture = PICTURES[1]  # 9 x 9: its shorter side stays 9, and four crops of 8 fit
    draws = draw(Views(crop=8, val_side=9, jitter=(9, 9), flip=True, color_std=0.0), 400, 0, 0)
    views = training_views([picture] * 400, draws, 8)
    crops = [picture[:, top : top + 8, left : left + 8] for top in (0, 1) for left in (0, 1)]
    kinds = torch.stack([(views == crop).flatten(1).all(1) for crop in [*crops, *(c.flip(2) for c in crops)]])
    assert (kinds.sum(0) == 1).all()
    counts = kinds.sum(1)
    assert ((counts - 50) ** 2 / 50).sum().item() < 24.3  # chi square, 7 degrees of freedom, once in a thousand
    assert torch.equal(kinds[4:].any(0), draws.mirrored)


def test_pictures_smaller_than_the_crop_are_enlarged() -> None:
    grey = torch.full((3, 2, 3), 77, dtype=torch.uint8)
    views = training_views([grey, PICTURES[3]], draw(VIEWS, 2, 0, 0), 8)
    assert views.shape == (2, 3, 8, 8)
    assert (views[0] == 77).all()


def test_a_large_picture_shrinks_to_area_means() -> None:
    blocks = torch.arange(100, dtype=torch.uint8).view(1, 10, 10).expand(3, 10, 10)
    large = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)  # 80 x 80; a triangle over 16 pixels is linear here
    result = centre_view(large, 10, 8)
    assert (result.int() - blocks[:, 1:9, 1:9].int()).abs().max() <= 1


def test_the_centre_view_is_the_middle() -> None:
    picture = torch.arange(12, dtype=torch.uint8).view(1, 1, 12).expand(3, 4, 12).contiguous()
    assert centre_view(picture, 4, 4)[0, 0].tolist() == [4, 5, 6, 7]


def test_colours_move_along_the_principal_components() -> None:
    # by numpy on the pixels themselves: covariance of [0, 1] pixels, column = component x eigenvalue x 255
    pixels = np.random.default_rng(0).normal(0, [[50], [20], [5]], (3, 4000)) + 128
    pixels = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0] @ pixels
    covariance = np.cov(pixels, bias=True)
    values, vectors = np.linalg.eigh(np.cov(pixels / 255, bias=True))
    result = color_components(torch.from_numpy(covariance)).numpy()
    for column, index in enumerate((2, 1, 0)):
        sign = np.sign(vectors[np.abs(vectors[:, index]).argmax(), index])
        assert result[:, column] == pytest.approx(sign * vectors[:, index] * values[index] * 255, rel=1e-9)
    shift = color_shift(torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64), torch.from_numpy(result))
    assert shift.shape == (1, 3, 1, 1)
    assert shift.flatten().numpy() == pytest.approx(result @ [1.0, -2.0, 0.5])


def test_statistics_are_those_of_all_centre_views_by_brute_force() -> None:
    class Four:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Tensor:
            return PICTURES[index]

    result = measure(CentreViews(Four(), VIEWS), 0, print)
    views = torch.stack([centre_view(picture, 10, 8) for picture in PICTURES]).double()
    mean = views.mean(0)
    assert torch.allclose(result.mean, mean, rtol=0, atol=1e-10)
    assert result.std == pytest.approx((views - mean).std(correction=0).item(), rel=1e-12)
    covariance = torch.cov(views.transpose(0, 1).flatten(1), correction=0)
    assert torch.allclose(result.components, color_components(covariance), rtol=1e-9, atol=1e-9)
