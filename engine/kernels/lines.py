"""Kernels that walk lines of a tensor: running sums, reversed sequences, triangles."""

from __future__ import annotations

from typing import Any, Final

from engine.codegen.abi import Layout, Status
from engine.codegen.builder import I64, TYPES, KernelBuilder, Val
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.codegen.values import element_bytes
from engine.kernels.odometer import segments
from engine.kernels.runs import copy_run, fill_run, integer, splat_pattern

CUMSUM_TYPES: Final = ("float32", "float64", "int32", "int64", "uint32", "uint64")


def _cumsum_layout(options: Options) -> Layout:
    return Layout.of("x y", "outer length inner blocks")


def _build_cumsum(symbol: str, target: Target, options: Options) -> str:
    """Running sums, or products, along the middle axis of [outer, length, inner], one by one.

    A work item is a vector of inner positions, or a single one where there are no more.
    """
    kind, itemsize = TYPES[options["dtype"]], element_bytes(options["dtype"])
    exclusive, reverse = options["exclusive"], options["reverse"]
    lanes = target.lanes(itemsize)
    k = KernelBuilder(symbol, target, _cumsum_layout(options))
    x, y = k.tensor("x"), k.tensor("y")
    outer, length, inner, blocks = k.ints("outer length inner blocks")
    step = inner * itemsize
    start = (length - 1) * step if reverse else k.const(0)
    forward = -step if reverse else step

    def scan(at: Val, shape: Any, mask: Val | None) -> None:
        place = k.variable(at + start)
        total = k.variable(k.const(1 if options["product"] else 0, shape))
        with k.loop(0, length):
            from_, to = x + place.get(), y + place.get()
            value = k.load(from_, shape) if mask is None else k.masked_load(from_, mask, shape)
            before = total.get()
            total.set(before * value if options["product"] else before + value)
            result = before if exclusive else total.get()
            if mask is None:
                k.store(result, to)
            else:
                k.masked_store(result, to, mask)
            place.add(forward)

    vector = k.vector(kind, lanes)
    single = inner.equals(1)
    strides = [[length * step, k.select(single, k.const(0), k.const(lanes * itemsize))]]
    with segments(k, [outer, blocks], strides) as segment, k.loop(0, segment.count) as i:
        at = segment.offsets[0] + i * strides[0][1]
        with k.branch(single) as (line, image):
            with line:
                scan(at, kind, None)
            with image:
                rest = inner - (segment.index[-1] + i) * lanes
                with k.branch(rest >= lanes) as (whole, part):
                    with whole:
                        scan(at, vector, None)
                    with part:
                        scan(at, vector, k.mask(rest, lanes))
    k.ret()
    return str(k.module)


CUMSUM: Final = register(
    Family("cumsum", "running sums along an axis", _cumsum_layout, _build_cumsum)
)


def _reverse_layout(options: Options) -> Layout:
    return Layout.of("x lengths y", "batch time x_batch x_time y_batch y_time row_bytes")


def _build_reverse(symbol: str, target: Target, options: Options) -> str:
    """Rows [batch, time], the first `lengths[batch]` of them in reverse order."""
    k = KernelBuilder(symbol, target, _reverse_layout(options))
    x, lengths, y = (k.tensor(name) for name in ("x", "lengths", "y"))
    batch, time, x_batch, x_time, y_batch, y_time, size = k.ints(
        "batch time x_batch x_time y_batch y_time row_bytes"
    )
    strides = [[x_batch, k.const(0)], [y_batch, y_time], [k.const(8), k.const(0)]]
    with segments(k, [batch, time], strides) as segment:
        length = k.load(lengths + segment.offsets[2], I64)
        with k.when((length < 0) | (length > time)):
            k.ret(int(Status.INDEX_OUT_OF_RANGE))
        with k.loop(0, segment.count) as i:
            t = segment.index[-1] + i
            from_ = k.select(t < length, length - 1 - t, t)
            copy_run(
                k,
                y + (segment.offsets[1] + i * y_time),
                x + (segment.offsets[0] + from_ * x_time),
                size,
            )
    k.ret()
    return str(k.module)


REVERSE: Final = register(
    Family("reverse_rows", "sequences in reverse order", _reverse_layout, _build_reverse)
)


def _triangle_layout(options: Options) -> Layout:
    return Layout.of("x y" + (" k" if options["read"] else ""), "rows columns diagonal x_row")


def _build_triangle(symbol: str, target: Target, options: Options) -> str:
    """Rows of matrices, kept on one side of a diagonal and zero on the other.

    With `read`, the diagonal is read from memory: it is known only at run time.
    """
    itemsize, upper = options["itemsize"], options["upper"]
    k = KernelBuilder(symbol, target, _triangle_layout(options))
    x, y = k.tensor("x"), k.tensor("y")
    rows, columns, diagonal, x_row = k.ints("rows columns diagonal x_row")
    zeros = splat_pattern(k, k.const(0))
    if options["read"]:
        given = k.load(k.tensor("k"), I64)
        diagonal = k.minimum(k.maximum(given, -rows - columns), rows + columns)
    with k.loop(k.begin, k.end) as item:
        border = item % rows + diagonal + (0 if upper else 1)
        cut = k.minimum(k.maximum(border, 0), columns) * itemsize
        source, to = x + item * x_row, y + item * columns * itemsize
        rest = columns * itemsize - cut
        if upper:
            fill_run(k, to, cut, zeros)
            copy_run(k, to + cut, source + cut, rest)
        else:
            copy_run(k, to, source, cut)
            fill_run(k, to + cut, rest, zeros)
    k.ret()
    return str(k.module)


TRIANGLE: Final = register(
    Family("triangle", "one side of a diagonal", _triangle_layout, _build_triangle)
)


def _eye_layout(options: Options) -> Layout:
    return Layout.of("y", "columns diagonal one")


def _build_eye(symbol: str, target: Target, options: Options) -> str:
    """Rows of zeros with the element `one` on a diagonal."""
    itemsize = options["itemsize"]
    k = KernelBuilder(symbol, target, _eye_layout(options))
    y = k.tensor("y")
    columns, diagonal, one = k.ints("columns diagonal one")
    zeros = splat_pattern(k, k.const(0))
    with k.loop(k.begin, k.end) as row:
        line = y + row * columns * itemsize
        fill_run(k, line, columns * itemsize, zeros)
        column = row + diagonal
        with k.when((column >= 0) & (column < columns)):
            k.store(k.convert(one, integer(itemsize)), line + column * itemsize)
    k.ret()
    return str(k.module)


EYE: Final = register(Family("eye", "ones on a diagonal", _eye_layout, _build_eye))
