"""Pairs of bf16 numbers: two steps of K side by side in 32 bits, the first in the lower half.

A pair takes the place of one float32 in panels and in copied rows, so the dot kernel walks pairs as
it walks float32. Two forms compute with them, with the same bytes:

- ``instruction``: VCVTNEPS2BF16 and VDPBF16PS of AVX-512 BF16;
- ``written``: what Intel's manual (Software Developer's Manual, volume 2) says that these do, in
  plain operations, for any machine. A conversion rounds to nearest, ties to even, and takes
  denormal numbers for zeros. A step adds the product of the upper halves and then that of the lower
  ones, each a fused multiply-add rounded to nearest, denormal results flushed to zero. Denormal
  factors count as zeros; conversions and `engine.plan.packing.pack_pairs` leave none.
"""

from __future__ import annotations

from typing import Any, Final

import llvmlite.ir as ir

from engine.codegen.builder import F32, I16, I32, KernelBuilder, Val
from engine.codegen.halves import narrow

INSTRUCTION: Final = "instruction"
WRITTEN: Final = "written"

FEATURES: Final = frozenset({"avx512bf16"})
"""CPU features, under LLVM's names, that ``instruction`` needs beyond AVX-512."""

_EXPONENT: Final = 0x7F800000
_SIGN: Final = -0x80000000
_UPPER: Final = -0x10000


class _BFloat(ir.Type):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite has no type for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


def enabled(text: str) -> str:
    """IR text with every function allowed to use the instructions.

    Only kernels of pairs get them: code of every other kernel stays that of plain AVX-512.
    """
    features = ",".join(f"+{name}" for name in sorted(FEATURES))
    return text.replace(" nounwind", f' nounwind "target-features"="{features}"')


def rounded(k: KernelBuilder, x: Val, form: str) -> Val:
    """bf16 numbers nearest to a vector of float32, as 16-bit integers."""
    kind: Any = k.vector(I16, x.type.count)
    if form == INSTRUCTION:
        name = f"llvm.x86.avx512bf16.cvtneps2bf16.{32 * x.type.count}"
        return k.bitcast(k.intrinsic(name, k.vector(_BFloat(), x.type.count), [x]), kind)
    bits = k.bitcast(x, k.vector(I32, x.type.count))
    zero = k.bitcast(bits & _SIGN, x.type)
    return narrow(k, k.select((bits & _EXPONENT).equals(0), zero, x), "bfloat16")


def add_product(k: KernelBuilder, a: Val, b: Val, total: Val) -> Val:
    """``total`` plus both products of pairs `a` and `b`, vectors of 32 bits: the written form."""
    upper = _flushed(k, k.fma(_upper(k, a), _upper(k, b), total))
    return _flushed(k, k.fma(_lower(k, a), _lower(k, b), upper))


def _upper(k: KernelBuilder, pairs: Val) -> Val:
    """The upper halves as float32."""
    bits = k.bitcast(pairs, k.vector(I32, pairs.type.count))
    return k.bitcast(bits & _UPPER, k.vector(F32, pairs.type.count))


def _lower(k: KernelBuilder, pairs: Val) -> Val:
    """The lower halves as float32."""
    bits = k.bitcast(pairs, k.vector(I32, pairs.type.count))
    shifted = Val(k, k.b.shl(bits.v, k.const(16, bits.type).v))
    return k.bitcast(shifted, k.vector(F32, pairs.type.count))


def _flushed(k: KernelBuilder, x: Val) -> Val:
    bits = k.bitcast(x, k.vector(I32, x.type.count))
    tiny = (bits & _EXPONENT).equals(0)
    return k.bitcast(k.select(tiny, bits & _SIGN, bits), x.type)


__all__ = ["FEATURES", "INSTRUCTION", "WRITTEN", "add_product", "enabled", "rounded"]
