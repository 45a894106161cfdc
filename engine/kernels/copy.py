"""Copies between strided windows whose innermost unit-stride axes do not differ.

- ``copy_rows``: source and target have unit stride along the same axis. A row is a run of bytes;
  any element size.
- ``copy_strided``: anything that is neither that nor a transposition (steps, reversed axes,
  broadcasts), element by element.
"""

from __future__ import annotations

from typing import Any, Final

from engine.codegen.abi import Layout
from engine.codegen.builder import PTR, KernelBuilder, Val
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.kernels.odometer import axis_names, segments
from engine.kernels.runs import (
    by_size,
    byte_vector,
    copy_run,
    copy_vectors,
    fill_run,
    integer,
    move,
    splat_pattern,
)

CHUNK_BYTES: Final = 16384
"""Longer rows are split into work items of this many bytes."""

CHUNK_ELEMENTS: Final = 256
"""Work items of strided copies are split along an axis at this many elements."""

_UNROLL: Final = 4


def _rows_layout(options: Options) -> Layout:
    rank = options["rank"]
    names = [axis_names(prefix, rank) for prefix in ("d", "x", "y")]
    return Layout.of("x y", "row_bytes chunks " + " ".join(names))


def _build_rows(symbol: str, target: Target, options: Options) -> str:
    rank = options["rank"]
    k = KernelBuilder(symbol, target, _rows_layout(options))
    dims = k.ints(axis_names("d", rank))
    xs, ys = k.ints(axis_names("x", rank)), k.ints(axis_names("y", rank))
    x, y = k.tensor("x"), k.tensor("y")
    size, chunks = k.ints("row_bytes chunks")

    with k.branch(chunks.equals(1)) as (whole, split):
        with whole, segments(k, dims, [xs, ys]) as segment:
            source, target_ = (base + o for base, o in zip((x, y), segment.offsets, strict=True))
            _copy_many(k, target_, source, size, segment.count, ys[-1], xs[-1])
        with split:
            step = k.const(CHUNK_BYTES)
            with segments(k, [*dims, chunks], [[*xs, step], [*ys, step]]) as segment:
                source, target_ = x + segment.offsets[0], y + segment.offsets[1]
                first = segment.index[-1]
                with k.loop(0, segment.count) as i:
                    rest = size - (first + i) * step
                    part = k.minimum(rest, step)
                    copy_run(k, target_ + i * step, source + i * step, part)
    k.ret()
    return str(k.module)


def _copy_many(
    k: KernelBuilder, target: Val, source: Val, size: Val, count: Val, to_step: Val, from_step: Val
) -> None:
    """Copy `count` runs of `size` bytes; the choice by size is made once for all of them."""
    end = count

    def small(width: int) -> None:
        kind = byte_vector(k, width)
        tail = size - width
        with k.loop(0, end) as i:
            to, from_ = target + i * to_step, source + i * from_step
            first, last = k.load(from_, kind, align=1), k.load(from_ + tail, kind, align=1)
            k.store(first, to, align=1)
            k.store(last, to + tail, align=1)

    def large() -> None:
        with k.loop(0, end) as i:
            copy_vectors(k, target + i * to_step, source + i * from_step, size)

    by_size(k, size, small, large)


ROWS: Final = register(
    Family("copy_rows", "runs of bytes between strided windows", _rows_layout, _build_rows)
)


def _strided_layout(options: Options) -> Layout:
    rank = options["rank"]
    names = [axis_names(prefix, rank) for prefix in ("d", "x", "y")]
    return Layout.of("x y", "inner x_inner y_inner chunks " + " ".join(names))


def _build_strided(symbol: str, target: Target, options: Options) -> str:
    rank, itemsize = options["rank"], options["itemsize"]
    k = KernelBuilder(symbol, target, _strided_layout(options))
    dims = k.ints(axis_names("d", rank))
    xs, ys = k.ints(axis_names("x", rank)), k.ints(axis_names("y", rank))
    x, y = k.tensor("x"), k.tensor("y")
    inner, x_inner, y_inner, chunks = k.ints("inner x_inner y_inner chunks")
    kind = integer(itemsize)
    fills = x_inner.equals(0) & y_inner.equals(itemsize)
    x_chunk, y_chunk = x_inner * CHUNK_ELEMENTS, y_inner * CHUNK_ELEMENTS

    with (
        segments(k, [*dims, chunks], [[*xs, x_chunk], [*ys, y_chunk]]) as segment,
        k.loop(0, segment.count) as chunk,
    ):
        source = x + (segment.offsets[0] + chunk * x_chunk)
        to = y + (segment.offsets[1] + chunk * y_chunk)
        start = (segment.index[-1] + chunk) * CHUNK_ELEMENTS
        count = k.minimum(inner - start, CHUNK_ELEMENTS)
        with k.branch(fills) as (fill, each):
            with fill:
                pattern = splat_pattern(k, k.load(source, kind, align=1))
                fill_run(k, to, count * itemsize, pattern)
            with each:
                _copy_elements(k, to, source, count, y_inner, x_inner, kind)
    k.ret()
    return str(k.module)


def _copy_elements(
    k: KernelBuilder, target: Val, source: Val, count: Val, to_step: Val, from_step: Val, kind: Any
) -> None:
    from_ = k.variable(source, PTR)
    to = k.variable(target, PTR)
    blocked = count - count % _UNROLL
    with k.loop(0, blocked, _UNROLL):
        values = [k.load(from_.get() + from_step * i, kind, align=1) for i in range(_UNROLL)]
        for i, value in enumerate(values):
            k.store(value, to.get() + to_step * i, align=1)
        from_.add(from_step * _UNROLL)
        to.add(to_step * _UNROLL)
    with k.loop(blocked, count):
        move(k, to.get(), from_.get(), kind)
        from_.add(from_step)
        to.add(to_step)


STRIDED: Final = register(
    Family(
        "copy_strided", "elements between windows of any strides", _strided_layout, _build_strided
    )
)
