"""Scattering: updates written, or combined, into positions that an index tensor names.

Updates of one position are applied in their order in the index tensor, on one thread, so that
duplicates give the same bytes however the work is split.
"""

from __future__ import annotations

from typing import Any, Final

from engine.codegen.abi import Layout
from engine.codegen.builder import I64, TYPES, KernelBuilder, Val, is_float
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.codegen.values import element_bytes
from engine.kernels.gather import checked_index, element_offset
from engine.kernels.odometer import axis_names, segments
from engine.kernels.runs import copy_run, integer, move

CHUNK_ELEMENTS: Final = 1024
"""Work items of ``scatter`` are split at this many elements of a row."""


def combine(k: KernelBuilder, reduction: str, signed: bool, old: Val, new: Val) -> Val:
    """`old` combined with an update by ``add``, ``mul``, ``max`` or ``min``."""
    if reduction == "add":
        return old + new
    if reduction == "mul":
        return old * new
    if is_float(old.type):
        # NaN of either side wins, as in numpy.
        wins = old > new if reduction == "max" else old < new
        return k.select(old.differs(old) | wins, old, new)
    return k.binary(("s" if signed else "u") + reduction, old, new)


def _update(k: KernelBuilder, target: Val, source: Val, options: Options) -> None:
    """Apply one update to one element."""
    if options["reduction"] == "none":
        move(k, target, source, integer(options["itemsize"]))
        return
    kind: Any = TYPES[options["dtype"]]
    old, new = k.load(target, kind, align=1), k.load(source, kind, align=1)
    signed = not options["dtype"].startswith("u")
    k.store(combine(k, options["reduction"], signed, old, new), target, align=1)


def _rows_layout(options: Options) -> Layout:
    names = [axis_names(prefix, options["depth"]) for prefix in ("limit", "step")]
    return Layout.of("indices updates y", "count row " + " ".join(names))


def _build_rows(symbol: str, target: Target, options: Options) -> str:
    """Row i of the updates goes to the row of `y` that `depth` indices select.

    A work item is a stretch of `CHUNK_ELEMENTS` columns of all rows.
    """
    depth, index_size, itemsize = options["depth"], options["index"], options["itemsize"]
    k = KernelBuilder(symbol, target, _rows_layout(options))
    indices, updates, y = (k.tensor(name) for name in ("indices", "updates", "y"))
    count, row = k.ints("count row")
    limits, steps = (k.ints(axis_names(prefix, depth)) for prefix in ("limit", "step"))
    first = k.begin * CHUNK_ELEMENTS
    width = k.minimum(k.end * CHUNK_ELEMENTS, row) - first

    with k.loop(0, count) as i:
        entry = indices + i * (depth * index_size)
        to = y + (element_offset(k, entry, index_size, limits, steps) + first * itemsize)
        source = updates + (i * row + first) * itemsize
        if options["reduction"] == "none":
            copy_run(k, to, source, width * itemsize)
        else:
            with k.loop(0, width) as j:
                _update(k, to + j * itemsize, source + j * itemsize, options)
    k.ret()
    return str(k.module)


ROWS: Final = register(Family("scatter", "rows written by indices", _rows_layout, _build_rows))


def _lines_layout(options: Options) -> Layout:
    rank = options["rank"]
    names = [axis_names(prefix, rank) for prefix in ("d", "i", "y")]
    return Layout.of("indices updates y", "length i_step y_step limit " + " ".join(names))


def _build_lines(symbol: str, target: Target, options: Options) -> str:
    """One work item is one line of updates along the indexed axis.

    Strides ``i`` count elements of the indices and updates, strides ``y`` bytes.
    """
    rank, index_size, itemsize = options["rank"], options["index"], options["itemsize"]
    k = KernelBuilder(symbol, target, _lines_layout(options))
    indices, updates, y = (k.tensor(name) for name in ("indices", "updates", "y"))
    length, i_step, y_step, limit = k.ints("length i_step y_step limit")
    dims, positions, ys = (k.ints(axis_names(prefix, rank)) for prefix in ("d", "i", "y"))

    with segments(k, dims, [positions, ys]) as segment, k.loop(0, segment.count) as line:
        start = segment.offsets[0] + line * positions[-1]
        to = y + (segment.offsets[1] + line * ys[-1])
        with k.loop(0, length) as i:
            at = start + i * i_step
            index = checked_index(k, indices + at * index_size, index_size, limit)
            _update(k, to + index * y_step, updates + at * itemsize, options)
    k.ret()
    return str(k.module)


LINES: Final = register(
    Family("scatter_elements", "elements written by indices", _lines_layout, _build_lines)
)


def _one_hot_layout(options: Options) -> Layout:
    return Layout.of("indices values y", "outer inner depth")


def _build_one_hot(symbol: str, target: Target, options: Options) -> str:
    """Set the indexed element of each line [outer, depth, inner]; others are left alone.

    Indices outside [-depth, depth) set nothing.
    """
    itemsize, index_type = options["itemsize"], TYPES[options["index"]]
    index_size = element_bytes(options["index"])
    k = KernelBuilder(symbol, target, _one_hot_layout(options))
    indices, values, y = (k.tensor(name) for name in ("indices", "values", "y"))
    outer, inner, depth = k.ints("outer inner depth")
    on = k.load(values + itemsize, integer(itemsize), align=1)
    strides = [[inner, k.const(1)], [depth * inner * itemsize, k.const(itemsize)]]

    with segments(k, [outer, inner], strides) as segment, k.loop(0, segment.count) as i:
        pointer = indices + (segment.offsets[0] + i) * index_size
        raw = k.convert(k.load(pointer, index_type, align=1), I64)
        index = k.select(raw < 0, raw + depth, raw)
        with k.when((index >= 0) & (index < depth)):
            line = y + (segment.offsets[1] + i * itemsize)
            k.store(on, line + index * inner * itemsize, align=1)
    k.ret()
    return str(k.module)


ONE_HOT: Final = register(
    Family("one_hot", "indexed elements set", _one_hot_layout, _build_one_hot)
)
