"""Conversion between float32 and the 16-bit floats, which travel in registers as 16-bit integers.

Kernels compute with 16-bit floats in float32 and round, to nearest with ties to even, wherever the
model says that a value is one. bfloat16 is the upper half of a float32. float16 uses the CPU's
instructions where it has them; elsewhere integer arithmetic, after F. Giesen, "Half to float done
quick" (2012): scaling by 2**112 moves the exponent's bias and normalises subnormals on the way.
"""

from __future__ import annotations

from typing import Final

import llvmlite.ir as ir

from engine.codegen.builder import F32, I16, I32, KernelBuilder, Val
from engine.codegen.math import like

HALVES: Final = frozenset({"float16", "bfloat16"})

_INFINITY: Final = 0x7F800000
_LARGEST: Final = (127 + 16) << 23
"""Bits of 65536.0, from which on a float32 is infinite as float16."""

_SMALLEST: Final = 113 << 23
"""Bits of 2**-14, below which a float32 is subnormal as float16."""

_SUBNORMAL_UNIT: Final = ((127 - 15) + (23 - 10) + 1) << 23
"""Bits of the float32 whose last place is the last place of a subnormal float16."""


def widen(k: KernelBuilder, x: Val, source: str) -> Val:
    """float32 of the 16-bit float `x`; exact."""
    kind = like(x.type, F32)
    if source == "float16" and k.target.fused:
        half = k.bitcast(x, like(x.type, ir.HalfType()))
        return Val(k, k.b.fpext(half.v, kind))
    bits = k.convert(x, like(x.type, I32), signed=False)
    if source == "bfloat16":
        return k.bitcast(_shift(k, bits, 16, left=True), kind)
    rest = _shift(k, bits & 0x7FFF, 13, left=True)
    scaled = k.bitcast(k.bitcast(rest, kind) * 2.0**112, rest.type)
    special = (bits & 0x7C00).equals(0x7C00)
    magnitude = k.select(special, rest | _INFINITY, scaled)
    return k.bitcast(magnitude | _shift(k, bits & 0x8000, 16, left=True), kind)


def narrow(k: KernelBuilder, x: Val, target: str) -> Val:
    """The 16-bit float nearest to the float32 `x`."""
    if target == "float16" and k.target.fused:
        half = k.b.fptrunc(x.v, like(x.type, ir.HalfType()))
        return k.bitcast(Val(k, half), like(x.type, I16))
    bits = k.bitcast(x, like(x.type, I32))
    rounded = _to_bfloat16(k, bits) if target == "bfloat16" else _to_float16(k, bits)
    return k.convert(rounded, like(x.type, I16))


def _to_bfloat16(k: KernelBuilder, bits: Val) -> Val:
    odd = _shift(k, bits, 16) & 1
    near = _shift(k, bits + odd + 0x7FFF, 16)
    quiet = _shift(k, bits, 16) | 0x40
    return k.select((bits & 0x7FFFFFFF) > _INFINITY, quiet, near)


def _to_float16(k: KernelBuilder, bits: Val) -> Val:
    magnitude = bits & 0x7FFFFFFF
    odd = _shift(k, magnitude, 13) & 1
    normal = _shift(k, magnitude + odd + (0xFFF - (112 << 23)), 13)
    unit = k.const(_SUBNORMAL_UNIT, bits.type)
    real = like(bits.type, F32)
    shifted = k.bitcast(magnitude, real) + k.bitcast(unit, real)
    subnormal = k.bitcast(shifted, bits.type) - unit
    nan = magnitude > _INFINITY
    special = k.select(nan, k.const(0x7E00, bits.type), k.const(0x7C00, bits.type))
    result = k.select(magnitude < _SMALLEST, subnormal, normal)
    result = k.select(magnitude >= _LARGEST, special, result)
    return result | (_shift(k, bits, 16) & 0x8000)


def _shift(k: KernelBuilder, x: Val, distance: int, left: bool = False) -> Val:
    by = k.const(distance, x.type)
    return Val(k, k.b.shl(x.v, by.v) if left else k.b.lshr(x.v, by.v))
