"""Distinct rows of a matrix: Unique of ONNX, whose elements are rows of one number.

One work item: records of key and position are sorted by key, the last column first, so that equal
rows meet, in the order of their positions. Each run of equals is one distinct row; its first
position, its length, and for each row the number of its run are written. In the order of first
occurrence, runs are numbered by a walk over all positions instead.
"""

from __future__ import annotations

from typing import Final

from engine.codegen.abi import Layout
from engine.codegen.builder import I64, TYPES, KernelBuilder, Val
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.codegen.values import element_bytes
from engine.kernels.radix import COUNTERS, ordered_bits, sorter

RECORD: Final = 16
"""Bytes of a record: key and position."""


def workspace_bytes() -> tuple[int, int]:
    """(constant, per element) bytes of memory: counters, and records twice."""
    return COUNTERS, 2 * RECORD


def _layout(options: Options) -> Layout:
    return Layout.of("x firsts inverse counts total workspace", "size width")


def _build(symbol: str, target: Target, options: Options) -> str:
    dtype = options["dtype"]
    kind, itemsize = TYPES[dtype], element_bytes(dtype)
    unsigned = dtype == "bool" or dtype.startswith("u")
    k = KernelBuilder(symbol, target, _layout(options))
    x, firsts, inverse, counts, total, counters = (
        k.tensor(name) for name in ("x", "firsts", "inverse", "counts", "total", "workspace")
    )
    size, width = k.ints("size width")
    sort = sorter(k, RECORD, 0, 8 * itemsize)
    records = counters + COUNTERS
    spare = records + size * RECORD

    def key_of(position: Val, column: Val) -> Val:
        place = x + (position * width + column) * itemsize
        key = ordered_bits(k, k.load(place, kind), unsigned)
        return k.convert(key, I64, signed=False)

    with k.loop(k.begin, k.end):
        with k.loop(0, size) as i:
            # The key, where there is no column.
            k.store(k.const(0), records + i * RECORD)
            k.store(i, records + i * RECORD + 8)
        ordered, other = k.variable(records), k.variable(spare)
        with k.loop(0, width) as step:
            with k.loop(0, size) as i:
                place = ordered.get() + i * RECORD
                k.store(key_of(k.load(place + 8, I64), width - 1 - step), place)
            now, free = ordered.get(), other.get()
            sorted_ = k.call(sort, [now, free, counters, size])
            moved = sorted_.differs(now)
            ordered.set(sorted_)
            other.set(k.select(moved, now, free))
        found = k.variable(0, I64)
        before, last = k.variable(0, I64), k.variable(0, I64)
        with k.loop(0, size) as i:
            place = ordered.get() + i * RECORD
            # The first column was sorted last: its key is in the record.
            key, position = k.load(place, I64), k.load(place + 8, I64)
            unlike = i.equals(0) | key.differs(last.get())
            column, differs = k.variable(1, I64), k.variable(k.convert(unlike, I64, signed=False))
            with k.while_(lambda: (column.get() < width) & differs.get().equals(0)):
                unlike = key_of(position, column.get()).differs(key_of(before.get(), column.get()))
                differs.set(k.convert(unlike, I64, signed=False))
                column.add(1)
            with k.when(differs.get().differs(0)):
                k.store(position, firsts + found.get() * 8)
                k.store(k.const(0), counts + found.get() * 8)
                found.add(1)
            before.set(position)
            last.set(key)
            run = found.get() - 1
            k.store(run, inverse + position * 8)
            k.store(k.load(counts + run * 8, I64) + 1, counts + run * 8)
        k.store(found.get(), total)
        if not options["sorted"]:
            # The records are done with: their memory takes the runs' new numbers and old lengths.
            number, length = records, records + size * 8
            with k.loop(0, found.get()) as run:
                k.store(k.const(-1), number + run * 8)
                k.store(k.load(counts + run * 8, I64), length + run * 8)
            found.set(0)
            with k.loop(0, size) as i:
                entry = number + k.load(inverse + i * 8, I64) * 8
                with k.when(k.load(entry, I64) < 0):
                    k.store(found.get(), entry)
                    k.store(i, firsts + found.get() * 8)
                    old = k.load(inverse + i * 8, I64)
                    k.store(k.load(length + old * 8, I64), counts + found.get() * 8)
                    found.add(1)
                k.store(k.load(entry, I64), inverse + i * 8)
    k.ret()
    return str(k.module)


DISTINCT: Final = register(Family("distinct", "distinct rows of a matrix", _layout, _build))
