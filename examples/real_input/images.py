"""Reading images as arrays."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def rgb(path: Path, size: tuple[int, int] | None = None) -> Pixels:
    """Pixels [height, width, 3] of 0..255; `size` is (width, height)."""
    with Image.open(path) as image:
        plain = image.convert("RGB")
    return np.asarray(resized(plain, size) if size else plain)


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image in another size (width, height), bilinear."""
    return image.resize(size, Image.Resampling.BILINEAR)


def files(folder: Path, *suffixes: str) -> list[Path]:
    """Files with one of the suffixes, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)


def normalised(pixels: Pixels, centre: Any, spread: Any) -> NDArray[np.float32]:
    """`(pixel - centre) / spread`, both in units of pixels, per channel where they have three."""
    values: NDArray[np.float32] = (pixels - np.float32(centre)) / np.float32(spread)
    return values.astype(np.float32)


def channels_first(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[height, width, channels] as a batch of one, [1, channels, height, width]."""
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32) * 255
