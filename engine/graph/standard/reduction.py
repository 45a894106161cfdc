"""Reductions of unsigned integers, and logarithms of integers.

Kernels reduce float32, float64, int32 and int64. Sums and products of 64 bits are the same with and
without a sign, those of 32 bits are the low bits of wider ones. The order of unsigned numbers of 64
bits is the signed one with the highest bit flipped. What needs a root or a logarithm goes through
float64 and is cut to a whole number.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from engine.graph.body import Body, Unsupported, dtype_of
from engine.graph.ir import Value
from engine.graph.standard.registry import expands

_UNSIGNED: Final = ("uint32", "uint64")
_HIGHEST: Final = np.array(1 << 63, np.uint64)


@expands("ReduceSum", "ReduceProd", "ReduceSumSquare")
def whole(b: Body) -> bool:
    """``R(x) = R(x as int64)``."""
    if dtype_of(b.input(0)).name not in _UNSIGNED:
        return False
    b.give(0, b.cast(_reduced(b, b.node.op, b.cast(b.input(0), np.int64)), b.input(0).dtype))
    return True


@expands("ReduceL1")
def absolute(b: Body) -> bool:
    """Of numbers without a sign the sum."""
    if dtype_of(b.input(0)).name not in _UNSIGNED:
        return False
    b.give(0, b.cast(_reduced(b, "ReduceSum", b.cast(b.input(0), np.int64)), b.input(0).dtype))
    return True


@expands("ReduceMax", "ReduceMin")
def extreme(b: Body) -> bool:
    """``R(x) = R(x as int64)``; of 64 bits ``R(x ^ h as int64) ^ h`` with the highest bit h."""
    x = b.input(0)
    if dtype_of(x).name not in _UNSIGNED:
        return False
    flip = x.dtype == np.uint64
    ordered = b("BitwiseXor", x, b.constant(_HIGHEST)) if flip else x
    found = b.cast(_reduced(b, b.node.op, b.cast(ordered, np.int64)), x.dtype)
    b.give(0, b("BitwiseXor", found, b.constant(_HIGHEST)) if flip else found)
    return True


@expands("ReduceMean")
def mean(b: Body) -> bool:
    """The sum in 64 bits, divided by how many numbers there are for each result, or by 1."""
    x = b.input(0)
    if dtype_of(x).name not in _UNSIGNED:
        return False
    total = b.cast(_reduced(b, "ReduceSum", b.cast(x, np.int64)), np.uint64)
    one = b.constant(np.array(1, np.int64))
    each = b("Div", b("Size", x), b("Max", b("Size", total), one))
    b.give(0, b.cast(b("Div", total, b.cast(b("Max", each, one), np.uint64)), x.dtype))
    return True


@expands("ReduceL2")
def length(b: Body) -> bool:
    """``R(x) = trunc(R(x as float64))`` of unsigned numbers."""
    return _through_floats(b, _UNSIGNED)


@expands("ReduceLogSum", "ReduceLogSumExp")
def logarithm(b: Body) -> bool:
    """``R(x) = trunc(R(x as float64))`` of any integers."""
    return _through_floats(b, (*_UNSIGNED, "int32", "int64"))


def _through_floats(b: Body, types: tuple[str, ...]) -> bool:
    x = b.input(0)
    if dtype_of(x).name not in types:
        return False
    b.give(0, b.cast(_reduced(b, b.node.op, b.cast(x, np.float64)), x.dtype))
    return True


def _reduced(b: Body, op: str, x: Value) -> Value:
    """The node's reduction of another tensor."""
    axes, listed = b.optional(1), b.attribute("axes")
    if axes is None and listed is not None:
        axes = b.ints(*(int(axis) for axis in listed))
    attributes = {k: v for k, v in b.node.attributes.items() if k != "axes"}
    if axes is not None and axes.dtype is None:
        raise Unsupported("its axes are of no known type")
    return b(op, x, axes, **attributes)
