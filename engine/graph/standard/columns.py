"""Convolutions of other data types than float32, or over more than three axes, as products.

Every tap of the window sees a slice of the padded image, `strides` apart. Stacked, the slices of a
channel are the rows of a matrix, and the filters a matrix of one row per result (K. Chellapilla and
others, High performance convolutional neural networks for document processing, 2006).

Preconditions: filters of known size, pads that do not follow from the size of the image.
"""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Final

import numpy as np

from engine.graph.body import Body, Unsupported, dtype_of, known_size, rank_of, shape_of
from engine.graph.dims import Dim
from engine.graph.ir import Value
from engine.graph.standard.registry import expands

_END: Final = np.iinfo(np.int64).max
_EXACT: Final = 1 << 24
"""Sums that float32 holds; `quantization` takes products of constant weights within it."""


@expands("Conv")
def convolution(b: Body) -> bool:
    """Of float64, and over four axes and more."""
    x = b.input(0)
    if dtype_of(x).name != "float64" and (rank_of(x) < 6 or dtype_of(x).name != "float32"):
        return False
    bias = b.optional(2)
    y = _convolved(b, x, b.input(1))
    b.give(0, y if bias is None else b("Add", y, _per_channel(b, bias)))
    return True


@expands("ConvInteger")
def integer_convolution(b: Body) -> bool:
    """``conv(x - z, w - w_z)`` in int32, where `quantization` has no exact sum in float32."""
    weight, point = b.input(1), b.optional(3)
    if weight.data is not None and (point is None or point.data is not None):
        offset = np.zeros(1) if point is None else np.asarray(point.data, np.float64)
        filters = np.abs(weight.data - offset.reshape(-1, *(1,) * (weight.data.ndim - 1)))
        if filters.sum(axis=tuple(range(1, filters.ndim))).max(initial=0) * 255 <= _EXACT:
            return False
    b.give(0, _convolved(b, *_centred(b, (0, 2), (1, 3))))
    return True


@expands("QLinearConv")
def quantised_convolution(b: Body) -> bool:
    """``clip(round((conv(x - z, w - w_z) + bias) * (s_x s_w / s_y)) + y_z)``, w computed."""
    given = [b.input(index) for index in (1, 3, 4, 5, 6, 7)]
    if all(value.data is not None for value in given):
        return False
    y = _convolved(b, *_centred(b, (0, 2), (3, 5)))
    bias = b.optional(8)
    if bias is not None:
        y = b("Add", y, _per_channel(b, bias))
    first, second, third = (b.input(index) for index in (1, 4, 6))
    factor = b("Div", b("Mul", _per_channel(b, second), _single(b, first)), _single(b, third))
    y = b("Round", b("Mul", b.cast(y, np.float32), factor))
    kind = dtype_of(b.input(7))
    y = b("Add", y, b.cast(_single(b, b.input(7)), np.float32))
    info = np.iinfo(kind)
    b.give(0, b.cast(b("Clip", y, b.like(info.min, y), b.like(info.max, y)), kind))
    return True


def _single(b: Body, value: Value) -> Value:
    if not all(dim == Dim.of(1) for dim in shape_of(value)):
        raise Unsupported(f"{value.name} is no single number")
    return b("Reshape", value, b.constant(np.zeros(0, np.int64)))


def _per_channel(b: Body, value: Value) -> Value:
    """A vector of channels, or a single number, against [N, C, spatial...]."""
    if rank_of(value) == 0:
        return value
    return b("Unsqueeze", value, b.ints(*range(1, rank_of(b.input(0)) - 1)))


def _centred(b: Body, x: tuple[int, int], w: tuple[int, int]) -> tuple[Value, Value]:
    """Image and filters in int32, less their zero points."""
    found = []
    for data, zero in (x, w):
        value, point = b.input(data), b.optional(zero)
        if dtype_of(value).name not in ("int8", "uint8"):
            raise Unsupported(f"{value.name} is {value.dtype}")
        whole = b.cast(value, np.int32)
        if point is not None:
            wide = b.cast(point, np.int32)
            if rank_of(point) == 1 and data == w[0]:
                wide = b("Unsqueeze", wide, b.ints(*range(1, rank_of(value))))
            whole = b("Sub", whole, wide)
        found.append(whole)
    return found[0], found[1]


def _convolved(b: Body, x: Value, w: Value) -> Value:
    """The sum over the window, without a bias."""
    spatial = rank_of(w) - 2
    outputs, channels, *kernel = (known_size(w, axis) for axis in range(spatial + 2))
    group = int(b.attribute("group", 1))
    strides = list(b.attribute("strides") or [1] * spatial)
    dilations = list(b.attribute("dilations") or [1] * spatial)
    mode = b.attribute("auto_pad", "NOTSET")
    if mode not in ("NOTSET", "VALID"):
        raise Unsupported("its pads follow from the size of the image")
    pads = list(b.attribute("pads") or [0] * (2 * spatial))
    if any(pads) and mode == "NOTSET":
        x = b("Pad", x, b.ints(0, 0, *pads[:spatial], 0, 0, *pads[spatial:]))
    axes = b.ints(*range(2, spatial + 2))
    parts = []
    for tap in product(*(range(size) for size in kernel)):
        starts = [t * d for t, d in zip(tap, dilations, strict=True)]
        behind = [(k - 1 - t) * d for k, t, d in zip(kernel, tap, dilations, strict=True)]
        ends = b.ints(*(-left if left else _END for left in behind))
        parts.append(b("Slice", x, b.ints(*starts), ends, axes, b.ints(*strides)))
    size = b("Shape", parts[0])
    stacked = b("Concat", *(b("Unsqueeze", part, b.ints(2)) for part in parts), axis=2)
    images, rest = b("Slice", size, b.ints(0), b.ints(1)), b("Slice", size, b.ints(2), b.ints(_END))
    positions = b("ReduceProd", rest, b.ints(0), keepdims=1)
    depth = channels * prod(kernel)
    shape = b("Concat", images, b.ints(group, depth), positions, axis=0)
    columns = b("Reshape", stacked, shape, allowzero=1)
    filters = b.reshape(w, group, outputs // group, depth)
    y = b("MatMul", filters, columns)
    return b("Reshape", y, b("Concat", images, b.ints(outputs), rest, axis=0), allowzero=1)
