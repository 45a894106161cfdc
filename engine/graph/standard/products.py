"""Products of other data types than float32, and of quantised integers that are computed.

The product of two matrices has kernels for float64 and integers of 32 and 64 bits; everything here
ends in it.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from engine.graph.body import Body, Unsupported, dtype_of, rank_of, shape_of
from engine.graph.dims import Dim
from engine.graph.ir import Value
from engine.graph.standard.registry import expands

_WIDE: Final = ("float64", "int32", "int64", "uint32", "uint64")
_BYTES: Final = ("int8", "uint8")


@expands("Gemm")
def gemm(b: Body) -> bool:
    """``alpha A' B' + beta C`` step by step."""
    first, second, third = b.input(0), b.input(1), b.optional(2)
    if dtype_of(first).name not in _WIDE:
        return False
    alpha, beta = float(b.attribute("alpha", 1.0)), float(b.attribute("beta", 1.0))
    if dtype_of(first).kind != "f" and not (alpha.is_integer() and beta.is_integer()):
        raise Unsupported("it scales integers by fractions")
    left, right = (
        b.transpose(value, 1, 0) if b.attribute(name, 0) else value
        for name, value in (("transA", first), ("transB", second))
    )
    total = b("MatMul", left, right)
    if alpha != 1:
        total = b("Mul", total, b.like(alpha, total))
    if third is not None and beta != 0:
        total = b("Add", total, b("Mul", third, b.like(beta, third)) if beta != 1 else third)
    b.give(0, total)
    return True


@expands("MatMulInteger")
def matmul_integer(b: Body) -> bool:
    """``(A - a) @ (B - b)`` in int32; constant B is left to the pass `quantization`."""
    if b.input(1).data is not None:
        return False
    b.give(0, b("MatMul", _rows(b, 0, 2), _columns(b, 1, 3)))
    return True


@expands("QLinearMatMul")
def qlinear_matmul(b: Body) -> bool:
    """``clip(round((A - a) @ (B - b) * (s_a s_b / s_y)) + y)``; constant B as above."""
    if b.input(3).data is not None and b.input(1).data is not None:
        return False
    left, right = _rows(b, 0, 2), _columns(b, 3, 5)
    point = b.input(7)
    scales = [b.cast(b.input(index), np.float32) for index in (1, 4, 6)]
    for value in (*scales, point):
        if not all(dim == Dim.of(1) for dim in shape_of(value)):
            raise Unsupported("its matrices have several scales")
    first, second, third = (b("Reshape", scale, _scalar(b)) for scale in scales)
    y = b.cast(b("MatMul", left, right), np.float32)
    y = b("Round", b("Mul", y, b("Div", b("Mul", first, second), third)))
    y = b("Add", y, b("Reshape", b.cast(point, np.float32), _scalar(b)))
    info = np.iinfo(dtype_of(point))
    y = b("Clip", y, b.like(info.min, y), b.like(info.max, y))
    b.give(0, b.cast(y, dtype_of(point)))
    return True


def _scalar(b: Body) -> Value:
    return b.constant(np.zeros(0, np.int64))


def _rows(b: Body, data: int, zero: int) -> Value:
    """The first factor less its zero point, which may be one per row."""
    value, point = _integers(b, data, zero)
    if point is None:
        return value
    if rank_of(point) == 1 and shape_of(point) != (Dim.of(1),):
        point = b("Unsqueeze", point, b.ints(-1))
    return b("Sub", value, point)


def _columns(b: Body, data: int, zero: int) -> Value:
    """The second factor less its zero point, which may be one per column."""
    value, point = _integers(b, data, zero)
    return value if point is None else b("Sub", value, point)


def _integers(b: Body, data: int, zero: int) -> tuple[Value, Value | None]:
    value, point = b.input(data), b.optional(zero)
    if dtype_of(value).name not in _BYTES or rank_of(value) < 1:
        raise Unsupported(f"{value.name} is {value.dtype}")
    return b.cast(value, np.int32), None if point is None else b.cast(point, np.int32)
