"""Products and convolutions of quantised integers, by float32 arithmetic.

With x and w integers of 8 bits, z their zero points and s scales:

- ``MatMulInteger(x, w)`` and ``ConvInteger(x, w)`` are the product P of ``x - z_x`` and ``w - z_w``
- ``QLinearMatMul`` and ``QLinearConv`` are ``clip(round((P + bias) * (s_x * s_w / s_y)) + z_y)``

float32 holds every integer up to 2^24, so P is exact while no partial sum exceeds that: with
constant w, the largest sum of ``|w - z_w|`` per output times the range of ``x - z_x`` bounds it.
Longer products of matrices are split along the sum into parts that are exact and added as int32.
For the quantised results, whose rounding forgives the last bit, P may exceed the bound; what one
product computes and the next reads stays float32 between them, as in `quantization`.

Preconditions: constant w, its zero point and the scales (of x and y: single ones).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from engine.graph.body import Body, Unsupported, dtype_of, rank_of, shape_of
from engine.graph.ir import AnyArray, Value

PRODUCTS: Final = ("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul")

_EXACT: Final = 1 << 24
_BYTES: Final = ("int8", "uint8")
_WINDOW: Final = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def expand_product(b: Body, floats: dict[int, Value]) -> Value | None:
    """Write the product of a node; `floats` knows values by what they are before a cast.

    Returns what the result is before its own cast to 8 bits, None where it is 32 bits wide. Raises
    `Unsupported`.
    """
    operator = b.node.op
    if operator == "MatMulInteger":
        x, reach = _input(b, 0, 2, floats)
        b.give(0, _exact_product(b, x, _weights(b, 1, 3, columns=True), reach))
        return None
    if operator == "ConvInteger":
        x, reach = _input(b, 0, 2, floats)
        w = _weights(b, 1, 3, columns=False)
        if np.abs(w).sum(axis=tuple(range(1, w.ndim))).max(initial=0) * reach > _EXACT:
            raise Unsupported("its sums may exceed 2^24")
        b.give(0, b.cast(_convolution(b, x, w), np.int32))
        return None
    x, _ = _input(b, 0, 2, floats)
    if operator == "QLinearMatMul":
        w = _weights(b, 3, 5, columns=True)
        y = b("MatMul", x, b.constant(w.astype(np.float32)))
        scale = _scale(b, 4)
    else:
        w = _weights(b, 3, 5, columns=False)
        y = _convolution(b, x, w)
        spatial = (1,) * (w.ndim - 2)
        scale = _scale(b, 4).reshape(-1, *spatial)
        bias = b.optional(8)
        if bias is not None:
            y = b("Add", y, b.constant(_constant(bias).astype(np.float32).reshape(-1, *spatial)))
    return _quantised(b, y, _scale(b, 1), scale)


def _constant(value: Value | None) -> AnyArray:
    if value is None or value.data is None:
        raise Unsupported(f"{value.name if value else 'an input'} is computed")
    return value.data


def _scale(b: Body, index: int) -> AnyArray:
    scale = _constant(b.input(index))
    if scale.dtype != np.float32 or scale.ndim > 1:
        raise Unsupported("a scale is no float32 number or vector")
    return scale


def _input(b: Body, data: int, zero: int, floats: dict[int, Value]) -> tuple[Value, int]:
    """``x - z`` in float32, and the largest size that it can have."""
    x, point = b.input(data), b.optional(zero)
    dtype = dtype_of(x)
    if dtype.name not in _BYTES:
        raise Unsupported(f"{x.name} is {dtype}")
    info = np.iinfo(dtype)
    real = floats.get(id(x)) or b.cast(x, np.float32)
    if point is None:
        return real, max(-int(info.min), int(info.max))
    if point.data is not None and point.data.size == 1:
        known = int(point.data.reshape(()))
        reach = max(known - int(info.min), int(info.max) - known)
        return (b("Sub", real, b.like(known, real)) if known else real), reach
    if rank_of(point) and shape_of(point) != shape_of(b.constant(np.zeros(1))):
        raise Unsupported("its input has several zero points")
    return b("Sub", real, b.cast(point, np.float32)), 255


def _weights(b: Body, data: int, zero: int, *, columns: bool) -> AnyArray:
    """``w - z`` as integers; z may be one per column, or per filter."""
    w = _constant(b.input(data))
    if w.dtype.name not in _BYTES or (columns and w.ndim != 2):
        raise Unsupported("its weights are no matrix of 8 bits")
    point = b.optional(zero)
    if point is None:
        return w.astype(np.int64)
    offset = _constant(point).astype(np.int64)
    if offset.ndim == 1 and not columns:
        offset = offset.reshape(-1, *(1,) * (w.ndim - 1))
    return w.astype(np.int64) - offset


def _convolution(b: Body, x: Value, w: AnyArray) -> Value:
    attributes = {name: b.node.attributes[name] for name in _WINDOW if name in b.node.attributes}
    return b("Conv", x, b.constant(w.astype(np.float32)), **attributes)


def _exact_product(b: Body, x: Value, w: AnyArray, reach: int) -> Value:
    """``x @ w`` in int32, as a sum of products that float32 holds exactly."""
    sizes = np.abs(w) * reach
    parts, start = [], 0
    running = np.zeros(w.shape[1], np.int64)
    for row, size in enumerate(sizes):
        if (running + size).max(initial=0) > _EXACT:
            parts.append((start, row))
            start, running = row, np.zeros_like(running)
        running = running + size
    parts.append((start, len(w)))
    total: Value | None = None
    for first, last in parts:
        rows = x
        if len(parts) > 1:
            rows = b("Slice", x, b.ints(first), b.ints(last), b.ints(rank_of(x) - 1))
        part = b("MatMul", rows, b.constant(w[first:last].astype(np.float32)))
        part = b.cast(part, np.int32)
        total = part if total is None else b("Add", total, part)
    assert total is not None
    return total


def _quantised(b: Body, y: Value, first: AnyArray, second: AnyArray) -> Value:
    """The sums as steps of the result; returns them before the cast."""
    third, point = _scale(b, 6), _constant(b.optional(7) or b.input(2))
    if first.size != 1 or third.size != 1 or point.size != 1:
        raise Unsupported("its input or result has several scales")
    factor = first.reshape(()) * second / third.reshape(())
    y = b("Round", b("Mul", y, b.constant(factor.astype(np.float32))))
    zero = int(point.reshape(()))
    if zero:
        y = b("Add", y, b.like(zero, y))
    info = np.iinfo(point.dtype)
    y = b("Clip", y, b.like(info.min, y), b.like(info.max, y))
    b.give(0, b.cast(y, point.dtype))
    return y
