"""Packing of a computed B into panels of the dot kernel, per run.

Weights are packed at load by `engine.plan.packing`; this kernel serves products of two computed
tensors (attention). It writes the same format: [batch, panel, K, width], zero-padded.

Work items are (batch, panel). Two forms by which axis of B is dense: ``n`` copies vectors, ``k``
(B given transposed, as in Q·Kᵀ) transposes square blocks in registers.
"""

from __future__ import annotations

from typing import Final

from engine.codegen.abi import Layout
from engine.codegen.builder import F32, KernelBuilder, Val
from engine.codegen.kernel import Family, KernelSpec, Options, register
from engine.codegen.target import Target

_LAYOUT: Final = Layout.of(
    tensors="b packed", ints="n k batch1 b_b0 b_b1 b_k b_n panels panel packed_batch"
)


def spec(vectors: int, dense: str) -> KernelSpec:
    """Pack kernel for panels of `vectors` vectors; `dense` is B's unit-stride axis, n or k."""
    return KernelSpec.of("pack", vectors=vectors, dense=dense)


def transpose(k: KernelBuilder, rows: list[Val]) -> list[Val]:
    """Transpose of a square block held in registers, one vector per row.

    A perfect shuffle of the rows, applied log2(size) times, transposes: in each step rows i and
    i + size/2 are interleaved.
    """
    size = len(rows)
    low = [lane // 2 + (size if lane % 2 else 0) for lane in range(size)]
    high = [lane + size // 2 for lane in low]
    steps = size.bit_length() - 1
    for _ in range(steps):
        shuffled: list[Val] = []
        for i in range(size // 2):
            pair = rows[i], rows[i + size // 2]
            shuffled.extend((k.shuffle(*pair, low), k.shuffle(*pair, high)))
        rows = shuffled
    return rows


def _copy_rows(k: KernelBuilder, source: Val, target: Val, columns: Val, vectors: int) -> None:
    depth, stride = k.ints("k b_k")
    lanes = k.target.lanes()
    vector = k.vector(F32, lanes)
    full = columns >= vectors * lanes
    with k.branch(full) as arms:
        for arm, whole in zip(arms, (True, False), strict=True):
            with arm, k.loop(0, depth) as step:
                for v in range(vectors):
                    at = k.offset(source, step * stride + v * lanes * 4)
                    if whole:
                        value = k.load(at, vector)
                    else:
                        mask = k.mask(columns - v * lanes, lanes)
                        value = k.masked_load(at, mask, vector)
                    k.store(value, k.offset(target, (step * vectors + v) * (lanes * 4)))


def _transpose_blocks(
    k: KernelBuilder, source: Val, target: Val, columns: Val, vectors: int
) -> None:
    depth, stride = k.ints("k b_n")
    lanes = k.target.lanes()
    vector = k.vector(F32, lanes)
    zero = k.const(0, vector)
    with k.loop(0, depth, lanes) as step:
        left = depth - step
        mask = k.mask(left, lanes)
        for v in range(vectors):
            lines = [k.variable(zero) for _ in range(lanes)]
            for lane, line in enumerate(lines):
                column = v * lanes + lane
                with k.when(columns > column):
                    at = k.offset(source, step * 4 + stride * column)
                    line.set(k.masked_load(at, mask, vector))
            for i, value in enumerate(transpose(k, [line.get() for line in lines])):
                with k.when(left > i):
                    at = k.offset(target, ((step + i) * vectors + v) * (lanes * 4))
                    k.store(value, at)


def _build(symbol: str, target: Target, options: Options) -> str:
    k = KernelBuilder(symbol, target, _LAYOUT)
    vectors: int = options["vectors"]
    width = vectors * target.lanes()
    source, packed = k.tensor("b"), k.tensor("packed")
    n, batch1, panels, panel_bytes, batch_bytes = k.ints("n batch1 panels panel packed_batch")
    outer_stride, inner_stride, column_stride = k.ints("b_b0 b_b1 b_n")
    move = _copy_rows if options["dense"] == "n" else _transpose_blocks
    with k.loop(k.begin, k.end) as item:
        panel, batch = item % panels, item // panels
        column = panel * width
        shift = batch // batch1 * outer_stride + batch % batch1 * inner_stride
        start = k.offset(source, shift + column * column_stride)
        at = k.offset(packed, batch * batch_bytes + panel * panel_bytes)
        move(k, start, at, n - column, vectors)
    k.ret(0)
    return str(k.module)


PACK = register(Family("pack", "panels of a computed matrix", lambda _: _LAYOUT, _build))

__all__ = ["PACK", "spec", "transpose"]
