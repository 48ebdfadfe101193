"""Decoding: every kind of file becomes RGB as it should, or is refused in one line that names it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from initlab.data.pictures import Files, decode, read, unpacked
from initlab.data.scales import resized_shape
from initlab.errors import UserError
from tests.data.pictures import write_picture

CPU = torch.device("cpu")
PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


def saved(path: Path, image: Image.Image) -> Path:
    image.save(path)
    return path


def test_a_colour_picture_keeps_its_pixels(tmp_path: Path) -> None:
    picture = decode(saved(tmp_path / "x.png", Image.fromarray(PIXELS)))
    assert torch.equal(picture, torch.from_numpy(PIXELS).permute(2, 0, 1))


def test_a_grey_picture_has_three_equal_channels(tmp_path: Path) -> None:
    picture = decode(saved(tmp_path / "x.png", Image.fromarray(PIXELS[:, :, 0])))
    assert torch.equal(picture, torch.from_numpy(PIXELS[:, :, 0]).expand(3, 4, 6))


def test_cmyk_is_converted_to_the_colours_it_shows(tmp_path: Path) -> None:
    # full cyan without the other inks shows no red; no ink at all is white
    inks = np.zeros((16, 32, 4), dtype=np.uint8)
    inks[:, :16, 0] = 255
    Image.fromarray(inks, "CMYK").save(tmp_path / "x.jpg", quality=100)
    picture = decode(tmp_path / "x.jpg").float()
    assert picture[:, 4:12, 4:12].mean((1, 2)).tolist() == pytest.approx([0, 255, 255], abs=3)
    assert picture[:, 4:12, 20:28].mean((1, 2)).tolist() == pytest.approx([255, 255, 255], abs=3)


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    picture = decode(saved(tmp_path / "x.png", image))
    assert picture[:, 0, 1].tolist() == [200, 100, 50]
    assert picture[:, 1, 1].tolist() == [10, 20, 30]


def test_the_shorter_side_is_resized_and_the_shape_kept(tmp_path: Path) -> None:
    write_picture(tmp_path / "x.jpg", (100, 75), 0)
    assert decode(tmp_path / "x.jpg", 30).shape == (3, 30, 40)
    assert decode(tmp_path / "x.jpg").shape == (3, 75, 100)
    assert resized_shape(500, 375, 256) == (341, 256)
    assert resized_shape(7, 7, 3) == (3, 3)


def broken(path: Path) -> Path:
    write_picture(path, (64, 64), 0)
    path.write_bytes(path.read_bytes()[:-200])
    return path


def garbled(path: Path) -> Path:
    Image.fromarray(PIXELS).save(path.with_suffix(".png"))
    content = bytearray(path.with_suffix(".png").read_bytes())
    content[50:60] = bytes(10)
    path.write_bytes(content)
    return path


def text(path: Path) -> Path:
    path.write_text("<html>404</html>")
    return path


def empty(path: Path) -> Path:
    path.touch()
    return path


def pixel(path: Path) -> Path:
    return saved(path, Image.new("RGB", (1, 1)))


def strip(path: Path) -> Path:
    return saved(path, Image.new("RGB", (200, 2)))


def deep(path: Path) -> Path:
    Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(path, format="PNG")
    return path


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (broken, "not a readable picture"),
        (garbled, "not a readable picture"),
        (text, "not a readable picture"),
        (empty, "not a readable picture"),
        (pixel, r"too thin for a picture \(got 1 x 1 pixels\)"),
        (strip, r"too thin for a picture \(got 200 x 2 pixels\)"),
        (deep, r"more than 8 bits a channel \(got .*I;16"),
    ],
)
def test_a_bad_file_is_named_in_one_line(spoil, words: str, tmp_path: Path) -> None:
    path = spoil(tmp_path / "bad.jpg")
    with pytest.raises(UserError, match=words) as caught:
        decode(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_the_order_asked_for_with_errors_as_one_line(workers: int, tmp_path: Path) -> None:
    for index in range(5):
        write_picture(tmp_path / f"{index}.png", (8 + index, 9), index)
    files = Files(tmp_path, [f"{index}.png" for index in range(5)])
    batches = [[3, 1], [4, 0], [2, 2]]
    for expected, batch in zip(batches, read(files, iter(batches), workers, CPU), strict=True):
        indices, pictures = unpacked(batch, CPU)
        assert indices == expected
        for index, picture in zip(indices, pictures, strict=True):
            assert torch.equal(picture, decode(tmp_path / f"{index}.png"))
    (tmp_path / "4.png").write_text("x")
    with pytest.raises(UserError, match=r"4.png: not a readable picture") as caught:
        for batch in read(files, iter(batches), workers, CPU):
            unpacked(batch, CPU)
    assert "\n" not in str(caught.value)


def test_reading_leaves_torchs_random_numbers_alone(tmp_path: Path) -> None:
    write_picture(tmp_path / "0.png", (8, 8), 0)
    before = torch.random.get_rng_state()
    list(read(Files(tmp_path, ["0.png"]), [[0]], 0, CPU))
    assert torch.equal(before, torch.random.get_rng_state())
