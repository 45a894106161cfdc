"""Images as model inputs: decoded, fitted to the input's shape, scaled to its values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

import engine
from api.cli.errors import CommandError, UsageError
from api.cli.terminal import shape_text

Colour = Literal["auto", "rgb", "bgr", "grey"]
Layout = Literal["auto", "nchw", "nhwc"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"})
_MAX_PIXELS = 1 << 28


@dataclass(frozen=True, slots=True)
class Fit:
    """How pixels become values: `(pixel * scale - mean) / std`, pixels being 0..255.

    `scale` None is 1/255 for float inputs and 1 for integer inputs. `mean` and `std` have one entry
    or one per channel. `size` (height, width) is for inputs that leave them open; None keeps the
    image's own.
    """

    colour: Colour = "auto"
    layout: Layout = "auto"
    scale: float | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    size: tuple[int, int] | None = None


def is_image(path: Path) -> bool:
    """Whether the file's name says that it is an image."""
    return path.suffix.lower() in SUFFIXES


def read_image(path: Path, spec: engine.TensorSpec, fit: Fit) -> NDArray[Any]:
    """The image fitted to the input `spec`, as one row of a batch: [1, channels, height, width],
    [1, height, width, channels], or without the channel or batch axis where the input has none.

    Raises CommandError where the file is no image and UsageError where the input is no image input.
    """
    axes = _axes(spec, fit.layout)
    try:
        with Image.open(path) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise CommandError(f"{path}: {image.width}x{image.height} pixels are too many")
            pixels = _pixels(image, spec, axes, fit)
    except UnidentifiedImageError:
        raise CommandError(f"{path}: not an image that Pillow can read") from None
    except (OSError, Image.DecompressionBombError) as error:
        raise CommandError(f"{path}: {error}") from None
    values = _values(pixels, spec, fit)
    if "C" in axes:
        values = values.transpose(2, 0, 1) if axes.index("C") < axes.index("H") else values
    else:
        values = values[..., 0]
    return np.ascontiguousarray(values[None] if "N" in axes else values, dtype=spec.dtype)


def _axes(spec: engine.TensorSpec, layout: Layout) -> str:
    """What the input's axes mean: `NCHW`, `NHWC`, `CHW`, `HWC`, `NHW` or `HW`."""
    shape = spec.shape
    if layout != "auto" and len(shape) in (3, 4):
        return layout.upper()[4 - len(shape) :]
    if spec.dtype.kind in "fiu":
        if len(shape) == 4:
            return "NHWC" if shape[3] in (1, 3) and shape[1] not in (1, 3) else "NCHW"
        if len(shape) == 3:
            if shape[2] in (1, 3) and shape[0] not in (1, 3):
                return "HWC"
            return "CHW" if shape[0] in (1, 3) else "NHW"
        if len(shape) == 2:
            return "HW"
    raise UsageError(
        f"input {spec.name!r} is {spec.dtype}{shape_text(shape)}, which is no image; "
        "give it a .npy or .json file"
    )


def _pixels(image: Image.Image, spec: engine.TensorSpec, axes: str, fit: Fit) -> NDArray[np.uint8]:
    """Pixels [height, width, channels] of 0..255 in the input's size and channel order."""
    channels = spec.shape[axes.index("C")] if "C" in axes else 1
    if isinstance(channels, str):
        channels = 1 if fit.colour == "grey" else 3
    if channels not in (1, 3):
        raise UsageError(f"input {spec.name!r} has {channels} channels; images have 1 or 3")
    if fit.colour != "auto" and channels != (1 if fit.colour == "grey" else 3):
        raise UsageError(f"input {spec.name!r} has {channels} channels, not those of {fit.colour}")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        solid = Image.new("RGBA", image.size, "black")
        solid.alpha_composite(image.convert("RGBA"))
        image = solid
    image = image.convert("L" if channels == 1 else "RGB")
    height, width = spec.shape[axes.index("H")], spec.shape[axes.index("W")]
    wanted_height, wanted_width = fit.size or (image.height, image.width)
    size = (
        width if isinstance(width, int) else wanted_width,
        height if isinstance(height, int) else wanted_height,
    )
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(image).reshape(size[1], size[0], channels)
    return pixels[..., ::-1] if fit.colour == "bgr" else pixels


def _values(pixels: NDArray[np.uint8], spec: engine.TensorSpec, fit: Fit) -> NDArray[Any]:
    """Pixels scaled and normalised; integer inputs are rounded and must not overflow."""
    channels = pixels.shape[-1]
    for name, numbers in (("--mean", fit.mean), ("--std", fit.std)):
        if len(numbers) not in (1, channels):
            raise UsageError(f"{name} has {len(numbers)} numbers; give 1 or {channels}")
    whole = spec.dtype.kind in "iu"
    scale = fit.scale if fit.scale is not None else (1.0 if whole else 1 / 255)
    mean, std = np.array(fit.mean, np.float32), np.array(fit.std, np.float32)
    values: NDArray[Any] = (pixels.astype(np.float32) * np.float32(scale) - mean) / std
    if whole:
        limits = np.iinfo(spec.dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values
