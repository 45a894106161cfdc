"""Fitting images to inputs: layout, channels, size and scale."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from api.cli.errors import CommandError, UsageError
from api.cli.images import Fit, Layout, read_image
from engine import TensorSpec


def spec(*shape: int | str, dtype: str = "f4") -> TensorSpec:
    return TensorSpec("x", np.dtype(dtype), shape)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Two rows of three pixels: red, green, blue; white, grey, black."""
    pixels = np.array(
        [
            [[255, 0, 0], [0, 255, 0], [0, 0, 255]],
            [[255, 255, 255], [128, 128, 128], [0, 0, 0]],
        ],
        np.uint8,
    )
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (("N", 3, 2, 3), (1, 3, 2, 3)),
        (("N", 3, "h", "w"), (1, 3, 2, 3)),
        ((1, 2, 3, 3), (1, 2, 3, 3)),
        (("N", "h", "w", 3), (1, 2, 3, 3)),
        (("N", 1, 2, 3), (1, 1, 2, 3)),
        ((3, 2, 3), (3, 2, 3)),
        (("h", "w", 3), (2, 3, 3)),
        (("N", 2, 4), (1, 2, 4)),
        ((2, 4), (2, 4)),
        (("N", 3, 8, 4), (1, 3, 8, 4)),
    ],
)
def test_layouts(photo: Path, shape: tuple[int | str, ...], expected: tuple[int, ...]) -> None:
    array = read_image(photo, spec(*shape), Fit())
    assert array.shape == expected
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    assert 0 <= array.min() <= array.max() <= 1


def test_channel_order(photo: Path) -> None:
    first = read_image(photo, spec("N", 3, "h", "w"), Fit())
    assert first[0, :, 0, 0].tolist() == [1, 0, 0]
    last = read_image(photo, spec("N", "h", "w", 3), Fit())
    np.testing.assert_array_equal(last, first.transpose(0, 2, 3, 1))
    swapped = read_image(photo, spec("N", 3, "h", "w"), Fit(colour="bgr"))
    np.testing.assert_array_equal(swapped, first[:, ::-1])
    layout: Layout = "nhwc"
    forced = read_image(photo, spec("N", "a", "b", "c"), Fit(layout=layout))
    np.testing.assert_array_equal(forced, last)


def test_values(photo: Path) -> None:
    whole = read_image(photo, spec("N", 3, 2, 3, dtype="u1"), Fit())
    assert whole.dtype == np.uint8
    assert whole[0, :, 1, 1].tolist() == [128, 128, 128]
    fit = Fit(scale=1.0, mean=(127.5,), std=(127.5,))
    centred = read_image(photo, spec("N", 3, 2, 3), fit)
    assert (centred.min(), centred.max()) == (-1, 1)
    fit = Fit(mean=(0.5, 0.0, 0.0), std=(1.0, 2.0, 1.0))
    per_channel = read_image(photo, spec("N", 3, 2, 3), fit)
    assert per_channel[0, :, 1, 0].tolist() == [0.5, 0.5, 1]
    signed = read_image(photo, spec("N", 3, 2, 3, dtype="i1"), Fit())
    assert signed.max() == 127


def test_transparent_pixels_are_black(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (255, 255, 255, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png", spec("N", 1, 2, 2), Fit()).max() == 0


def test_size_for_open_inputs(photo: Path) -> None:
    array = read_image(photo, spec("N", 3, "h", "w"), Fit(size=(5, 7)))
    assert array.shape == (1, 3, 5, 7)


@pytest.mark.parametrize(
    ("shape", "fit"),
    [
        (("N", 5, 2, 4), Fit()),
        (("N", 1, 2, 3), Fit(colour="rgb")),
        (("N", 3, 2, 3), Fit(mean=(1.0, 2.0))),
        ((2, 2, 2, 2, 3), Fit()),
    ],
)
def test_inputs_that_are_no_images(photo: Path, shape: tuple[int | str, ...], fit: Fit) -> None:
    with pytest.raises(UsageError, match=r"x|--mean"):
        read_image(photo, spec(*shape), fit)


def test_files_that_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(CommandError, match="not an image"):
        read_image(tmp_path / "text.png", spec("N", 3, 2, 2), Fit())
    with pytest.raises(CommandError, match=r"gone\.png"):
        read_image(tmp_path / "gone.png", spec("N", 3, 2, 2), Fit())
