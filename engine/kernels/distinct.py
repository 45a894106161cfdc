"""Distinct elements of a tensor: Unique of ONNX.

One work item: records of key and position are sorted by key, so that equal elements meet, in the
order of their positions. Each run of equals is one distinct element; its first position, its
length, and for each element the number of its run are written. In the order of first occurrence,
runs are numbered by a walk over all positions instead.
"""

from __future__ import annotations

from typing import Final

from engine.codegen.abi import Layout
from engine.codegen.builder import I64, TYPES, KernelBuilder
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
    return Layout.of("x firsts inverse counts total workspace", "size")


def _build(symbol: str, target: Target, options: Options) -> str:
    dtype = options["dtype"]
    kind, itemsize = TYPES[dtype], element_bytes(dtype)
    unsigned = dtype == "bool" or dtype.startswith("u")
    k = KernelBuilder(symbol, target, _layout(options))
    x, firsts, inverse, counts, total, counters = (
        k.tensor(name) for name in ("x", "firsts", "inverse", "counts", "total", "workspace")
    )
    size = k.int("size")
    sort = sorter(k, RECORD, 0, 8 * itemsize)
    records = counters + COUNTERS
    with k.loop(k.begin, k.end):
        with k.loop(0, size) as i:
            key = ordered_bits(k, k.load(x + i * itemsize, kind), unsigned)
            place = records + i * RECORD
            k.store(k.convert(key, I64, signed=False), place)
            k.store(i, place + 8)
        ordered = k.call(sort, [records, records + size * RECORD, counters, size])
        found = k.variable(0, I64)
        before = k.variable(0, I64)
        with k.loop(0, size) as i:
            place = ordered + i * RECORD
            key, position = k.load(place, I64), k.load(place + 8, I64)
            with k.when(i.equals(0) | key.differs(before.get())):
                k.store(position, firsts + found.get() * 8)
                k.store(k.const(0), counts + found.get() * 8)
                found.add(1)
            before.set(key)
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


DISTINCT: Final = register(Family("distinct", "distinct elements of a tensor", _layout, _build))
