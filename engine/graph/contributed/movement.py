"""Early forms of what became standard operators, and sampling of image regions."""

from __future__ import annotations

from typing import Final

import numpy as np

from engine.graph.body import Body, dtype_of
from engine.graph.contributed.products import channels_first, channels_last, window
from engine.graph.contributed.registry import expands
from engine.graph.ir import OURS, Value

_RENAMED: Final = ("GatherND", "GridSample", "Trilu")


@expands(*_RENAMED)
def _renamed(b: Body) -> None:
    """The standard operator of the same name."""
    b.give(0, b(b.node.op, *b.node.inputs, **b.node.attributes))


@expands("Pad")
def _pad(b: Body) -> None:
    """Pad; the pads may be a row instead of a vector."""
    pads = b.reshape(b.input(1), -1)
    value = b.optional(2)
    value = None if value is None else b.reshape(value)
    b.give(0, b("Pad", b.input(0), pads, value, mode=b.attribute("mode", "constant")))


@expands("Range")
def _range(b: Body) -> None:
    """Range with a step of 1 unless given; the bounds may be vectors of one element."""
    step = b.optional(2)
    bounds = [b.reshape(v) for v in (b.input(0), b.input(1))]
    bounds.append(b.like(1, bounds[0]) if step is None else b.reshape(step))
    b.give(0, b("Range", *bounds))


@expands("ExpandDims")
def _expand_dims(b: Body) -> None:
    """Unsqueeze along one axis."""
    b.give(0, b("Unsqueeze", b.input(0), b.reshape(b.cast(b.input(1), np.int64), -1)))


@expands("Unique")
def _unique(b: Body) -> None:
    """Unique without sorting; outputs are the values, their positions per element, their counts."""
    values, _, inverse, counts = b.several("Unique", 4, b.input(0), sorted=0)
    for index, value in enumerate((values, inverse, counts)):
        b.give(index, value)


@expands("Inverse")
def _inverse(b: Body) -> None:
    """Inverse of square matrices."""
    b.give(0, b("Inverse", b.input(0), domain=OURS))


@expands("NhwcMaxPool")
def _nhwc_max_pool(b: Body) -> None:
    """MaxPool of channels-last images."""
    names = ("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides")
    pooled = b("MaxPool", channels_first(b, b.input(0)), **window(b, *names))
    b.give(0, channels_last(b, pooled))


@expands("CropAndResize")
def _crop_and_resize(b: Body) -> None:
    """GridSample of one image per region.

    Row i of n samples height ``y1 + i * (y2 - y1) / (n - 1)`` of 0 to 1 (the middle where n is 1),
    which is ``2h - 1`` in GridSample's corner-aligned coordinates. Samples outside the image are
    the extrapolation value.
    """
    rois = b.input(1)
    image = b("Gather", b.input(0), b.input(2), axis=0)
    top, left, bottom, right = b.several("Split", 4, rois, axis=1, num_outputs=4)
    heights, widths = b.several("Split", 2, b.cast(b.input(3), np.int64), axis=0, num_outputs=2)
    rows = _samples(b, top, bottom, heights)
    columns = _samples(b, left, right, widths)
    y, x = b("Unsqueeze", rows, b.ints(2)), b("Unsqueeze", columns, b.ints(1))
    zero = b("Mul", b.add(y, x), b.like(0, y))
    y, x = b.add(y, zero), b.add(x, zero)
    last = b.ints(3)
    grid = b("Concat", b("Unsqueeze", x, last), b("Unsqueeze", y, last), axis=3)
    nearest = b.attribute("mode", "bilinear") == "nearest"
    sampled = b(
        "GridSample",
        image,
        grid,
        align_corners=1,
        mode="nearest" if nearest else "linear",
        padding_mode="border",
    )
    one = b.like(1, y)
    inside = b(
        "And",
        b("LessOrEqual", b("Abs", y), one),
        b("LessOrEqual", b("Abs", x), one),
    )
    outside = b.like(b.attribute("extrapolation_value", 0.0), sampled)
    b.give(0, b("Where", b("Unsqueeze", inside, b.ints(1)), sampled, outside))


def _samples(b: Body, first: Value, last: Value, count: Value) -> Value:
    """Coordinates of `count` samples from `first` to `last` [regions, 1], as -1 to 1."""
    dtype = dtype_of(first)
    one = b.ints(1)
    steps = b("Range", b.constant(np.array(0)), b.reshape(count), b.constant(np.array(1)))
    several = b.cast(b("Greater", count, one), dtype)
    spacing = b("Div", several, b.cast(b("Max", b("Sub", count, one), one), dtype))
    share = b("Mul", b.cast(steps, dtype), spacing)
    half = b("Mul", b("Sub", b.like(1, first), several), b.like(0.5, first))
    share = b.add(share, half)
    at = b.add(first, b("Mul", share, b("Sub", last, first)))
    return b("Sub", b("Mul", at, b.like(2, at)), b.like(1, at))
