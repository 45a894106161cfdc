"""Conversion from and to floats of 8 and 4 bits, and integers of 4 and 2.

A tensor of them has one element per byte. A byte stands for a number by a table of 256. A float x
of 32 bits becomes the nearest of a type with M bits of mantissa, least exponent e0 and codes that
count up from 0 (ONNX, "Float stored in 8 bits"): with its exponent e, at least e0, and
``r = round(|x| 2^(M - e))``, half to even, the code is ``(e - e0) 2^M + r``; that r may reach the
next exponent is what the sum allows for. Integers keep their low bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from engine.graph.body import Body, Unsupported, dtype_of
from engine.graph.ir import OURS, Value
from engine.graph.standard.registry import expands


@dataclass(frozen=True)
class _Float:
    """A small float: bits of its mantissa, least exponent, largest code, and what has no number.

    `over` is the code of what is too large where it does not saturate, `nan` that of no number;
    `unsigned_zero` types have one zero and one code without a number, which takes no sign.
    """

    mantissa: int
    least: int
    most: int
    over: int
    nan: int
    sign: int = 128
    unsigned_zero: bool = False


_FLOATS: Final = {
    "float8_e4m3fn": _Float(3, -6, 0x7E, 0x7F, 0x7F),
    "float8_e4m3fnuz": _Float(3, -7, 0x7F, 0x80, 0x80, unsigned_zero=True),
    "float8_e5m2": _Float(2, -14, 0x7B, 0x7C, 0x7E),
    "float8_e5m2fnuz": _Float(2, -15, 0x7F, 0x80, 0x80, unsigned_zero=True),
    "float4_e2m1fn": _Float(1, 0, 7, 7, 8, sign=8),
}
_INTEGERS: Final = {"int4": 15, "uint4": 15, "int2": 3, "uint2": 3}
"""Their bits."""

SMALL: Final = frozenset((*_FLOATS, *_INTEGERS))


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether a data type is a small float."""
    return dtype.name in _FLOATS


def decoded(b: Body, x: Value) -> Value:
    """A tensor of a small type in float32, which holds each of its numbers."""
    table = np.arange(256, dtype=np.uint8).view(dtype_of(x)).astype(np.float32)
    return b("Gather", b.constant(table), b.cast(_bytes(b, x, np.uint8), np.int32), axis=0)


def encoded(b: Body, x: Value, dtype: np.dtype[Any], saturate: bool) -> Value:
    """A tensor of numbers in a small type."""
    if dtype.name in _INTEGERS:
        low = b("BitwiseAnd", b.cast(x, np.int32), _number(b, _INTEGERS[dtype.name], np.int32))
        return _bytes(b, b.cast(low, np.uint8), dtype)
    return _bytes(b, b.cast(_codes(b, b.cast(x, np.float32), dtype, saturate), np.uint8), dtype)


def _codes(b: Body, x: Value, dtype: np.dtype[Any], saturate: bool) -> Value:
    """Codes of floats, in int32."""
    kind = _FLOATS[dtype.name]
    bits = b("BitCast", x, to=_onnx(np.uint32))
    places = _number(b, 23, np.uint32)
    size = b("BitwiseAnd", bits, _number(b, 0x7FFFFFFF, np.uint32))
    exponent = b.cast(b("BitShift", size, places, direction="RIGHT"), np.int32)
    # Exponents of float32 are 127 more than they say.
    exponent = b("Max", exponent, _number(b, 127 + kind.least, np.int32))
    factor = b("Sub", _number(b, 254 + kind.mantissa, np.int32), exponent)
    factor = b("BitShift", b.cast(factor, np.uint32), places, direction="LEFT")
    # A number beyond the largest is told by its exponent.
    finite = b("Min", b("Abs", x), _number(b, 2.0 ** (127 - kind.mantissa), np.float32))
    steps = b("Round", b("Mul", finite, b("BitCast", factor, to=_onnx(np.float32))))
    above = b("Sub", exponent, _number(b, 127 + kind.least, np.int32))
    code = b("Mul", above, _number(b, 1 << kind.mantissa, np.int32))
    code = b("Add", code, b.cast(steps, np.int32))
    most = _number(b, kind.most, np.int32)
    large = b("Greater", code, most)
    over = most if saturate else _number(b, kind.over, np.int32)
    code = b("Where", large, over, code)
    sign = b("Mul", b.cast(b("BitShift", bits, _number(b, 31, np.uint32), direction="RIGHT"),
                           np.int32), _number(b, kind.sign, np.int32))  # fmt: skip
    special = b("IsNaN", x)
    if kind.unsigned_zero:
        zero = _number(b, 0, np.int32)
        sign = b("Where", b("Equal", code, zero), zero, sign)
        special = special if saturate else b("Or", special, large)
    return b("Where", special, _number(b, kind.nan, np.int32), b("Add", code, sign))


def _number(b: Body, number: float, dtype: Any) -> Value:
    return b.constant(np.array(number, dtype))


def _onnx(dtype: Any) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _bytes(b: Body, x: Value, dtype: Any) -> Value:
    """The same bytes as elements of another type of one byte."""
    return b("Bytes", x, domain=OURS, to=_onnx(dtype))


@expands("Cast", "CastLike")
def cast(b: Body) -> bool:
    """Through float32."""
    x = b.input(0)
    result = b.node.outputs[0].dtype
    if result is None or SMALL.isdisjoint((result.name, dtype_of(x).name)):
        return False
    if result.kind in "OSU" or dtype_of(x).kind in "OSU":
        raise Unsupported("it converts texts")
    number = decoded(b, x) if dtype_of(x).name in SMALL else x
    if result.name not in SMALL:
        b.give(0, b.cast(number, result))
        return True
    saturate = bool(b.attribute("saturate", 1))
    b.give(0, encoded(b, number, result, saturate))
    return True
