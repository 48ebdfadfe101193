"""The shape of an image as a user types it."""

import pytest

from initlab.errors import UserError
from initlab.plan.dimensions import parse_image_shape, shape_text


@pytest.mark.parametrize(
    ("text", "channels", "shape"), [("96", 3, (3, 96, 96)), ("16", 1, (1, 16, 16)), ("1x28x20", 3, (1, 28, 20))]
)
def test_an_images_shape(text: str, channels: int, shape: tuple[int, int, int]):
    assert parse_image_shape(text, channels) == shape
    assert parse_image_shape(shape_text(shape)) == shape


@pytest.mark.parametrize(
    "text", ["", "0", "3x0x3", "224x224", "3x224x224x1", "-3", "3 x 4 x 5", "3X4X5", "999999", "２", "3,8,8"]
)
def test_what_is_not_a_shape_is_refused(text: str):
    with pytest.raises(UserError, match=r"^--input: not an image's shape .*allowed: CHANNELSxHEIGHTxWIDTH or SIDE$"):
        parse_image_shape(text)
