"""Positions of extreme elements along an axis: ArgMax, ArgMin and TopK.

Tensors are seen as [outer, length, inner]; a work item of ``arg`` is one block of inner positions,
one of ``topk`` a single line. Ties go to the lower index, or to the higher where asked.
"""

from __future__ import annotations

from typing import Any, Final

import llvmlite.ir as ir

from engine.codegen.abi import Layout, Status
from engine.codegen.builder import I64, PTR, TYPES, KernelBuilder, Val, is_float
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.codegen.values import element_bytes
from engine.kernels.odometer import segments
from engine.kernels.runs import integer

DTYPES: Final = (
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
)


def arg_lanes(target: Target, dtype: str) -> int:
    """Inner positions that one work item of ``arg`` covers, unless there is only one."""
    return target.lanes(max(4, element_bytes(dtype)))


class _Order:
    """Which of two elements comes first."""

    def __init__(self, k: KernelBuilder, dtype: str, largest: bool) -> None:
        self.k = k
        self.dtype = dtype
        self.operator = ">" if largest else "<"

    def before(self, a: Val, b: Val, ties: bool = False) -> Val:
        """Whether `a` precedes `b`; with `ties`, also where they are equal."""
        operator = self.operator + ("=" if ties else "")
        builder = self.k.b
        if is_float(a.type):
            compare = builder.fcmp_ordered
        elif self.dtype.startswith("u"):
            compare = builder.icmp_unsigned
        else:
            compare = builder.icmp_signed
        return Val(self.k, compare(operator, a.v, b.v))


def _arg_layout(options: Options) -> Layout:
    return Layout.of("x y", "outer length inner blocks")


def _build_arg(symbol: str, target: Target, options: Options) -> str:
    dtype, last = options["dtype"], options["last"]
    kind, itemsize = TYPES[dtype], element_bytes(options["dtype"])
    lanes = arg_lanes(target, dtype)
    narrow = integer(min(8, max(4, itemsize)))
    k = KernelBuilder(symbol, target, _arg_layout(options))
    order = _Order(k, dtype, options["largest"])
    x, y = k.tensor("x"), k.tensor("y")
    outer, length, inner, blocks = k.ints("outer length inner blocks")
    with k.when((length < 1) & (k.begin < k.end)):
        k.ret(int(Status.INDEX_OUT_OF_RANGE))
    step = inner * itemsize

    def scan(source: Val, shape: Any, indices: Any, mask: Val | None) -> Val:
        """Index of the first extreme along the axis, one per lane."""

        def load(i: Val) -> Val:
            place = source + i * step
            return k.load(place, shape) if mask is None else k.masked_load(place, mask, shape)

        best = k.variable(load(k.const(0)))
        index = k.variable(k.const(0, indices))
        with k.loop(1, length) as i:
            value = load(i)
            wins = order.before(value, best.get(), ties=last)
            here = k.convert(i, narrow)
            position = here if indices == narrow else k.splat(here, lanes)
            best.set(k.select(wins, value, best.get()))
            index.set(k.select(wins, position, index.get()))
        return index.get()

    with k.branch(inner.equals(1)) as (line, image):
        with line, k.loop(k.begin, k.end) as item:
            place = x + item * length * itemsize
            k.store(_line(k, order, place, length, (kind, narrow, lanes, last)), y + item * 8)
        with image:
            vector, positions = k.vector(kind, lanes), k.vector(narrow, lanes)
            wide = k.vector(I64, lanes)
            strides = [
                [length * step, k.const(lanes * itemsize)],
                [inner * 8, k.const(lanes * 8)],
            ]
            with segments(k, [outer, blocks], strides) as segment, k.loop(0, segment.count) as i:
                source = x + (segment.offsets[0] + i * (lanes * itemsize))
                to = y + (segment.offsets[1] + i * (lanes * 8))
                rest = inner - (segment.index[-1] + i) * lanes
                with k.branch(rest >= lanes) as (whole, part):
                    with whole:
                        found = scan(source, vector, positions, None)
                        k.store(k.convert(found, wide), to)
                    with part:
                        mask = k.mask(rest, lanes)
                        found = scan(source, vector, positions, mask)
                        k.masked_store(k.convert(found, wide), to, mask)
    k.ret()
    return str(k.module)


def _line(
    k: KernelBuilder, order: _Order, source: Val, length: Val, shape: tuple[Any, Any, int, bool]
) -> Val:
    """Index (i64) of the first extreme of a contiguous line: lanes first, then the rest."""
    kind, narrow, lanes, last = shape
    itemsize = element_bytes(order.dtype)
    best = k.variable(k.load(source, kind))
    index = k.variable(k.const(0), I64)
    start = k.variable(k.const(1))
    with k.when(length >= 2 * lanes):
        vector, positions = k.vector(kind, lanes), k.vector(narrow, lanes)
        ramp = Val(k, ir.Constant(positions, [narrow(lane) for lane in range(lanes)]))
        values = k.variable(k.load(source, vector))
        places = k.variable(ramp)
        whole = length - length % lanes
        with k.loop(lanes, whole, lanes) as i:
            value = k.load(source + i * itemsize, vector)
            wins = order.before(value, values.get(), ties=last)
            place = ramp + k.splat(k.convert(i, narrow), lanes)
            values.set(k.select(wins, value, values.get()))
            places.set(k.select(wins, place, places.get()))
        for lane in range(lanes):
            value = Val(k, k.b.extract_element(values.get().v, ir.Constant(ir.IntType(32), lane)))
            place = Val(k, k.b.extract_element(places.get().v, ir.Constant(ir.IntType(32), lane)))
            at = k.convert(place, I64)
            if lane == 0:
                best.set(value)
                index.set(at)
                continue
            tie = value.equals(best.get()) & (at > index.get() if last else at < index.get())
            wins = order.before(value, best.get()) | tie
            index.set(k.select(wins, at, index.get()))
            best.set(k.select(wins, value, best.get()))
        start.set(whole)
    with k.loop(start.get(), length) as i:
        value = k.load(source + i * itemsize, kind)
        wins = order.before(value, best.get(), ties=last)
        best.set(k.select(wins, value, best.get()))
        index.set(k.select(wins, i, index.get()))
    return index.get()


ARG: Final = register(Family("arg", "index of the extreme along an axis", _arg_layout, _build_arg))


def _topk_layout(options: Options) -> Layout:
    return Layout.of("x values indices", "outer length inner k")


ENTRY_BYTES: Final = 16
"""Scratch per kept element: a value and its index, 8 bytes each."""


class _Heap:
    """A binary heap in scratch whose root is the last of the kept elements in order."""

    def __init__(self, k: KernelBuilder, order: _Order, kind: Any) -> None:
        self.k = k
        self.order = order
        self.kind = kind
        self.sift = k.local_function("sift", [PTR, I64, I64])
        with k.within(self.sift) as (base, start, size):
            self._sift(base, start, size)

    def get(self, base: Val, at: Val) -> tuple[Val, Val]:
        """Value and index of an entry."""
        place = base + at * ENTRY_BYTES
        return self.k.load(place, self.kind), self.k.load(place + 8, I64)

    def put(self, base: Val, at: Val, value: Val, index: Val) -> None:
        """Set an entry."""
        place = base + at * ENTRY_BYTES
        self.k.store(value, place)
        self.k.store(index, place + 8)

    def later(self, a: tuple[Val, Val], b: tuple[Val, Val]) -> Val:
        """Whether entry `a` comes after `b` in the result."""
        tie = a[0].equals(b[0]) & (a[1] > b[1])
        return self.order.before(b[0], a[0]) | tie

    def _sift(self, base: Val, start: Val, size: Val) -> None:
        """Move the entry at `start` down until no child comes later than it does."""
        k = self.k
        at = k.variable(start)
        more = k.variable(k.const(1))
        with k.while_(lambda: more.get().equals(1) & (at.get() * 2 + 1 < size)):
            left = at.get() * 2 + 1
            right = k.minimum(left + 1, size - 1)
            child = k.select(self.later(self.get(base, right), self.get(base, left)), right, left)
            below, here = self.get(base, child), self.get(base, at.get())
            with k.branch(self.later(below, here)) as (swap, stop):
                with swap:
                    self.put(base, at.get(), *below)
                    self.put(base, child, *here)
                    at.set(child)
                with stop:
                    more.set(0)
        k.ret()


def _build_topk(symbol: str, target: Target, options: Options) -> str:
    """The first k elements of each line in order, by a heap of k (J. W. J. Williams, 1964)."""
    dtype = options["dtype"]
    kind, itemsize = TYPES[dtype], element_bytes(dtype)
    k = KernelBuilder(symbol, target, _topk_layout(options))
    order = _Order(k, dtype, options["largest"])
    heap = _Heap(k, order, kind)
    x, values, indices = (k.tensor(name) for name in ("x", "values", "indices"))
    outer, length, inner, kept = k.ints("outer length inner k")
    base = k.scratch()
    step = inner * itemsize
    with k.when((kept > length) & (k.begin < k.end)):
        k.ret(int(Status.INDEX_OUT_OF_RANGE))
    strides = [
        [length * step, k.const(itemsize)],
        [kept * step, k.const(itemsize)],
        [kept * inner * 8, k.const(8)],
    ]
    with (
        k.when(kept > 0),
        segments(k, [outer, inner], strides) as segment,
        k.loop(0, segment.count) as line,
    ):
        source = x + (segment.offsets[0] + line * itemsize)
        to = values + (segment.offsets[1] + line * itemsize)
        where = indices + (segment.offsets[2] + line * 8)
        with k.loop(0, kept) as i:
            heap.put(base, i, k.load(source + i * step, kind), i)
        with k.loop(0, kept // 2) as i:
            k.call(heap.sift, [base, kept // 2 - 1 - i, kept])
        _stream(k, heap, source, (kept, length, step))
        with k.loop(0, kept) as i:
            size = kept - i
            value, index = heap.get(base, k.const(0))
            k.store(value, to + (size - 1) * step)
            k.store(index, where + (size - 1) * inner * 8)
            heap.put(base, k.const(0), *heap.get(base, size - 1))
            k.call(heap.sift, [base, k.const(0), size - 1])
    k.ret()
    return str(k.module)


def _stream(k: KernelBuilder, heap: _Heap, source: Val, span: tuple[Val, Val, Val]) -> None:
    """Offer the elements [first, length) of a line to the full heap.

    Of a contiguous line, a whole vector is skipped where no lane precedes the root.
    """
    first, length, step = span
    base = k.scratch()
    itemsize = element_bytes(heap.order.dtype)
    lanes = k.target.lanes(itemsize)
    kept = first
    root = k.const(0)

    def offer(i: Val) -> None:
        value = k.load(source + i * step, heap.kind)
        with k.when(heap.order.before(value, heap.get(base, root)[0])):
            heap.put(base, root, value, i)
            k.call(heap.sift, [base, root, kept])

    start = k.variable(first)
    with k.when(step.equals(itemsize)):
        vector, bits = k.vector(heap.kind, lanes), ir.IntType(lanes)
        with k.while_(lambda: start.get() + lanes <= length):
            at = start.get()
            block = k.load(source + at * itemsize, vector)
            threshold = k.splat(heap.get(base, root)[0], lanes)
            wins = k.bitcast(heap.order.before(block, threshold), bits)
            with k.when(wins.differs(0)), k.loop(at, at + lanes) as i:
                offer(i)
            start.set(at + lanes)
    with k.loop(start.get(), length) as i:
        offer(i)


TOPK: Final = register(
    Family("topk", "first k elements in order along an axis", _topk_layout, _build_topk)
)
