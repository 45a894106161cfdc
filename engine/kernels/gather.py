"""Gathering: rows or elements picked by an index tensor; negative indices wrap, all are checked."""

from __future__ import annotations

from typing import Final

from engine.codegen.abi import Layout, Status
from engine.codegen.builder import I64, KernelBuilder, Val
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.kernels.odometer import axis_names, segments
from engine.kernels.runs import by_size, byte_vector, copy_vectors, integer

CHUNK_ELEMENTS: Final = 256
"""Work items of ``gather_elements`` are split at this many elements of a row."""


def checked_index(k: KernelBuilder, pointer: Val, itemsize: int, limit: Val) -> Val:
    """The index at `pointer`, wrapped into [0, limit); returns from the kernel where it is not."""
    raw = k.convert(k.load(pointer, integer(itemsize), align=1), I64)
    index = k.select(raw < 0, raw + limit, raw)
    with k.when((index < 0) | (index >= limit)):
        k.ret(int(Status.INDEX_OUT_OF_RANGE))
    return index


def element_offset(
    k: KernelBuilder, pointer: Val, itemsize: int, limits: list[Val], steps: list[Val]
) -> Val:
    """Byte offset that a tuple of indices at `pointer` selects."""
    offset = k.const(0)
    for position, (limit, step) in enumerate(zip(limits, steps, strict=True)):
        index = checked_index(k, pointer + position * itemsize, itemsize, limit)
        offset = offset + index * step
    return offset


def _rows_layout(options: Options) -> Layout:
    names = [axis_names(prefix, options["depth"]) for prefix in ("limit", "step")]
    return Layout.of(
        "x indices y", "batches count x_batch index_batch row_bytes " + " ".join(names)
    )


def _build_rows(symbol: str, target: Target, options: Options) -> str:
    """Row (batch, i) of `y` is the row of `x` that `depth` indices select."""
    depth, itemsize = options["depth"], options["index"]
    k = KernelBuilder(symbol, target, _rows_layout(options))
    x, indices, y = (k.tensor(name) for name in ("x", "indices", "y"))
    batches, count, x_batch, index_batch, size = k.ints(
        "batches count x_batch index_batch row_bytes"
    )
    limits, steps = (k.ints(axis_names(prefix, depth)) for prefix in ("limit", "step"))
    entry = k.const(depth * itemsize)
    strides = [[x_batch, k.const(0)], [index_batch, entry], [count * size, size]]

    with segments(k, [batches, count], strides) as segment:
        source, index, to = (
            base + offset for base, offset in zip((x, indices, y), segment.offsets, strict=True)
        )

        def row(i: Val, source: Val = source, index: Val = index, to: Val = to) -> tuple[Val, Val]:
            offset = element_offset(k, index + i * entry, itemsize, limits, steps)
            return source + offset, to + i * size

        def small(width: int, count: Val = segment.count) -> None:
            kind = byte_vector(k, width)
            tail = size - width
            with k.loop(0, count) as i:
                from_, into = row(i)
                first, last = (k.load(from_ + at, kind, align=1) for at in (0, tail))
                k.store(first, into, align=1)
                k.store(last, into + tail, align=1)

        def large(count: Val = segment.count) -> None:
            with k.loop(0, count) as i:
                from_, into = row(i)
                copy_vectors(k, into, from_, size)

        by_size(k, size, small, large)
    k.ret()
    return str(k.module)


ROWS: Final = register(Family("gather", "rows picked by indices", _rows_layout, _build_rows))


def _elements_layout(options: Options) -> Layout:
    rank = options["rank"]
    names = [axis_names(prefix, rank) for prefix in ("d", "x", "i")]
    return Layout.of("x indices y", "inner x_inner chunks limit step " + " ".join(names))


def _build_elements(symbol: str, target: Target, options: Options) -> str:
    """Each element of `y` takes its own position from `x`, but for one axis, whose index it reads.

    `y` lies as densely as the indices do.
    """
    rank, itemsize, index_size = options["rank"], options["itemsize"], options["index"]
    k = KernelBuilder(symbol, target, _elements_layout(options))
    x, indices, y = (k.tensor(name) for name in ("x", "indices", "y"))
    inner, x_inner, chunks, limit, step = k.ints("inner x_inner chunks limit step")
    dims, xs, positions = (k.ints(axis_names(prefix, rank)) for prefix in ("d", "x", "i"))
    kind = integer(itemsize)
    strides = [[*xs, x_inner * CHUNK_ELEMENTS], [*positions, k.const(CHUNK_ELEMENTS)]]

    with segments(k, [*dims, chunks], strides) as segment, k.loop(0, segment.count) as chunk:
        source = x + (segment.offsets[0] + chunk * x_inner * CHUNK_ELEMENTS)
        position = segment.offsets[1] + chunk * CHUNK_ELEMENTS
        start = (segment.index[-1] + chunk) * CHUNK_ELEMENTS
        with k.loop(0, k.minimum(inner - start, CHUNK_ELEMENTS)) as i:
            at = position + i
            index = checked_index(k, indices + at * index_size, index_size, limit)
            value = k.load(source + (i * x_inner + index * step), kind, align=1)
            k.store(value, y + at * itemsize, align=1)
    k.ret()
    return str(k.module)


ELEMENTS: Final = register(
    Family("gather_elements", "elements picked by indices", _elements_layout, _build_elements)
)
