"""Positions of elements that are not zero, in two steps: count them by blocks, then write them.

Between the two the host learns the number and the result gets its memory. A work item is a block of
elements in either step, so that the blocks' order, and with it the result's, is that of the tensor.
"""

from __future__ import annotations

from typing import Any, Final

import llvmlite.ir as ir

from engine.codegen.abi import Layout
from engine.codegen.builder import I1, I64, TYPES, KernelBuilder, Val
from engine.codegen.halves import HALVES
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.codegen.values import element_bytes
from engine.kernels.odometer import axis_names, segments

BLOCK: Final = 4096
"""Elements of a block."""


def _differs(k: KernelBuilder, value: Val, dtype: str) -> Val:
    """Whether elements are not zero; NaN is not, -0.0 is."""
    return (value & 0x7FFF).differs(0) if dtype in HALVES else value.differs(0)


def bit_mask(k: KernelBuilder, flags: Val, lanes: int) -> Val:
    """Lanes of a vector of bits as the low bits of an i64."""
    return (
        Val(k, k.b.zext(k.bitcast(flags, ir.IntType(lanes)).v, I64))
        if lanes < 64
        else (k.bitcast(flags, I64))
    )


def lowest_bit(k: KernelBuilder, bits: Val) -> Val:
    """Number of the lowest bit set; `bits` must not be 0."""
    return k.intrinsic("llvm.cttz.i64", I64, [bits, k.const(1, I1)])


def _count_layout(options: Options) -> Layout:
    return Layout.of("x counts", "size")


def _build_count(symbol: str, target: Target, options: Options) -> str:
    dtype = options["dtype"]
    kind, itemsize = TYPES[dtype], element_bytes(dtype)
    lanes = target.lanes(itemsize)
    k = KernelBuilder(symbol, target, _count_layout(options))
    x, counts, size = k.tensor("x"), k.tensor("counts"), k.int("size")
    with k.loop(k.begin, k.end) as item:
        first = item * BLOCK
        count = k.minimum(size - first, BLOCK)
        source = x + first * itemsize
        found = k.variable(0, I64)
        whole = count - count % lanes
        with k.loop(0, whole, lanes) as i:
            block = k.load(source + i * itemsize, k.vector(kind, lanes))
            found.add(k.unary("ctpop", bit_mask(k, _differs(k, block, dtype), lanes)))
        with k.loop(whole, count) as i:
            flag = _differs(k, k.load(source + i * itemsize, kind), dtype)
            found.add(k.convert(flag, I64, signed=False))
        k.store(found.get(), counts + item * 8)
    k.ret()
    return str(k.module)


COUNT: Final = register(
    Family("count_nonzero", "elements that are not zero, by blocks", _count_layout, _build_count)
)


def _positions_layout(options: Options) -> Layout:
    return Layout.of("x starts y", "size count " + axis_names("d", options["rank"]))


def _build_positions(symbol: str, target: Target, options: Options) -> str:
    """Coordinates [rank, count] of the elements that are not zero.

    `starts` tells where each block begins among them; a block writes no more than its own.
    """
    dtype, rank = options["dtype"], options["rank"]
    kind, itemsize = TYPES[dtype], element_bytes(dtype)
    lanes = target.lanes(itemsize)
    k = KernelBuilder(symbol, target, _positions_layout(options))
    x, starts, y = (k.tensor(name) for name in ("x", "starts", "y"))
    size, count = k.ints("size count")
    dims = k.ints(axis_names("d", rank))
    strides = [k.const(itemsize)]
    for dim in reversed(dims[1:]):
        strides.insert(0, strides[0] * dim)
    with k.loop(k.begin, k.end) as item:
        position = k.variable(k.load(starts + item * 8, I64))
        limit = k.load(starts + (item * 8 + 8), I64)
        first = item * BLOCK
        last = k.minimum(first + BLOCK, size)
        with segments(k, dims, [strides], first, last) as segment:
            source = x + segment.offsets[0]

            def emit(column: Val, index: Any = segment.index) -> None:
                with k.when(position.get() < limit):
                    place = y + position.get() * 8
                    for axis, coordinate in enumerate((*index[:-1], index[-1] + column)):
                        k.store(coordinate, place + count * (8 * axis))
                    position.add(1)

            whole = segment.count - segment.count % lanes
            with k.loop(0, whole, lanes) as i:
                block = k.load(source + i * itemsize, k.vector(kind, lanes))
                bits = k.variable(bit_mask(k, _differs(k, block, dtype), lanes))
                with k.while_(lambda bits=bits: bits.get().differs(0)):  # type: ignore[misc]
                    emit(i + lowest_bit(k, bits.get()))
                    bits.set(bits.get() & (bits.get() - 1))
            with k.loop(whole, segment.count) as i:
                value = k.load(source + i * itemsize, kind)
                with k.when(_differs(k, value, dtype)):
                    emit(i)
    k.ret()
    return str(k.module)


POSITIONS: Final = register(
    Family(
        "nonzero", "coordinates of elements that are not zero", _positions_layout, _build_positions
    )
)
