"""Quantisation by computed scales, by blocks, and to types of few bits.

- ``QuantizeLinear(x) = cast(clip(round(x / s) + z))``, to floats without what rounds;
- ``DequantizeLinear(q) = (q - z) s``.

s and z are spread over the tensor: along an axis, or in blocks of an axis. Constant scales per
tensor and axis are left to the pass `quantization`, which cancels what meets.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from engine.graph.body import Body, Unsupported, dtype_of, rank_of, shape_of
from engine.graph.dims import Dim
from engine.graph.ir import Value
from engine.graph.standard.registry import expands
from engine.graph.standard.small_types import SMALL, decoded, encoded, is_float

_RANGES: Final = {"int4": (-8, 7), "uint4": (0, 15), "int2": (-2, 1), "uint2": (0, 3)}
_REAL: Final = ("float32", "float16", "bfloat16")


@expands("QuantizeLinear")
def quantise(b: Body) -> bool:
    """In float32."""
    x, scale, zero = b.input(0), b.input(1), b.optional(2)
    target = b.node.outputs[0].dtype
    if target is None or not _taken(b, target):
        return False
    y = b("Div", b.cast(x, np.float32), _spread(b, b.cast(scale, np.float32)))
    if not is_float(target):
        y = b("Round", y)
    if zero is not None and (not is_float(target) or target.name.startswith("float4")):
        y = b("Add", y, _spread(b, _real(b, zero)))
    if not is_float(target):
        low, high = _RANGES.get(target.name) or (np.iinfo(target).min, np.iinfo(target).max)
        y = b("Clip", y, b.like(low, y), b.like(high, y))
    saturate = bool(b.attribute("saturate", 1))
    b.give(0, encoded(b, y, target, saturate) if target.name in SMALL else b.cast(y, target))
    return True


@expands("DequantizeLinear")
def dequantise(b: Body) -> bool:
    """In float32, rounded to what the scale or the node says."""
    x, scale, zero = b.input(0), b.input(1), b.optional(2)
    result = b.node.outputs[0].dtype
    if result is None or not _taken(b, dtype_of(x)):
        return False
    y = _real(b, x)
    if zero is not None and not is_float(dtype_of(x)):
        y = b("Sub", y, _spread(b, _real(b, zero)))
    b.give(0, b.cast(b("Mul", y, _spread(b, b.cast(scale, np.float32))), result))
    return True


def _taken(b: Body, integers: np.dtype[Any]) -> bool:
    """Whether the node has a form for which the pass `quantization` has no arithmetic."""
    from engine.graph.passes.quantization import arithmetic

    if b.attribute("precision", 0):
        raise Unsupported("it asks for a precision")
    numbers = [b.input(0), b.input(1), b.node.outputs[0]]
    for value in numbers:
        if value.dtype is None or value.dtype.name not in (*_REAL, integers.name):
            raise Unsupported(f"{value.name} is {value.dtype}")
    return isinstance(arithmetic(b.node), str)


def _real(b: Body, value: Value) -> Value:
    return decoded(b, value) if dtype_of(value).name in SMALL else b.cast(value, np.float32)


def _spread(b: Body, value: Value) -> Value:
    """A scale or zero point in a shape that broadcasts to the tensor's."""
    x, block = b.input(0), int(b.attribute("block_size", 0))
    shape = shape_of(value)
    if all(dim == Dim.of(1) for dim in shape) and not block:
        return b("Reshape", value, b.constant(np.zeros(0, np.int64)))
    rank = rank_of(x)
    axis = int(b.attribute("axis", 1)) % rank
    if not block:
        if len(shape) != 1:
            raise Unsupported("its scales are no vector")
        return b("Unsqueeze", value, b.ints(*range(1, rank - axis))) if axis < rank - 1 else value
    if len(shape) != rank:
        raise Unsupported("its blocks have other axes than the tensor")
    each = [block if place == axis + 1 else 1 for place in range(rank + 1)]
    repeated = b("Expand", b("Unsqueeze", value, b.ints(axis + 1)), b.ints(*each))
    whole = [block if place == axis else 1 for place in range(rank)]
    joined = b("Reshape", repeated, b("Mul", b("Shape", value), b.ints(*whole)), allowzero=1)
    return b("Slice", joined, b.ints(0), b.size(x, axis), b.ints(axis))
