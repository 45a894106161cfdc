"""Reductions over any set of axes: the kernel family ``reduce``.

The lowering merges axes until kept and reduced ones alternate. What is left has one of two
patterns, after the innermost axis, which is contiguous in both:

- ``rows``: the innermost axis is reduced. A work item is one output element.
- ``columns``: the innermost axis is kept. A work item is a strip of `strip_width` output elements.

``kept`` and ``reduced`` count the further axes of either kind, each with a size and a stride.
With ``split``, the innermost reduced axis is cut into blocks of the word `block` and every block
gives a partial result, which a second call combines: the order of accumulation is decided by the
reduced sizes alone, never by threads or by the number of rows.

Sums are accurate because they are short: rows are shared by several accumulators and every
accumulator hands over to the total after `CHUNK` elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from engine.codegen import math, wide_math
from engine.codegen.abi import Layout
from engine.codegen.builder import F64, KernelBuilder, Val, Variable, is_float
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.kernels.strips import CHUNK, Lanes, Part

STEPS: Final = ("sum", "abs", "square", "product", "max", "min", "exp")
"""How an element enters the accumulator; ``exp`` sums exponentials relative to the maximum."""

FINISHES: Final = ("none", "mean", "sqrt", "log")
"""What happens to the accumulated value at the end."""

_VECTORS: Final = 8


def strip_width(target: Target, itemsize: int) -> int:
    """Output elements of one work item of the ``columns`` pattern."""
    return 1 if itemsize < 4 else _VECTORS * target.lanes(itemsize)


def _layout(options: Options) -> Layout:
    ints = ["length", "count"]
    for kind in ("kept", "reduced"):
        for level in range(int(options[kind])):
            ints.extend((f"{kind}{level}", f"{kind}_stride{level}"))
    if options["split"]:
        ints.append("block")
    return Layout.of("x y", " ".join(ints))


class _Reduce:
    """Generator of one reduction kernel."""

    def __init__(self, symbol: str, target: Target, options: Options) -> None:
        k = self.k = KernelBuilder(symbol, target, _layout(options))
        self.step: str = options["step"]
        self.finish: str = options["finish"]
        self.split: bool = options["split"]
        dtype: str = options["dtype"]
        self.math = wide_math if dtype == "float64" else math
        self.lanes = Lanes(k, dtype)
        if self.lanes.itemsize < 4:
            self.lanes = Lanes(k, dtype, 1)
        self.width = strip_width(target, self.lanes.itemsize)
        self.x, self.y = k.tensor("x"), k.tensor("y")
        self.length, self.count = k.int("length"), k.int("count")
        self.kept = self.levels("kept", options)
        self.reduced = self.levels("reduced", options)
        self.block = k.int("block") if self.split else None

    def levels(self, kind: str, options: Options) -> list[tuple[Val, Val]]:
        """Size and stride in bytes of each further axis of a kind."""
        return [
            (
                self.k.int(f"{kind}{level}"),
                self.k.int(f"{kind}_stride{level}") * self.lanes.itemsize,
            )
            for level in range(int(options[kind]))
        ]

    def locate(self, index: Val) -> Val:
        """First element that enters output `index` of the kept axes."""
        pointer = self.x
        for size, stride in reversed(self.kept[1:]):
            pointer = pointer + index % size * stride
            index = index // size
        if self.kept:
            pointer = pointer + index * self.kept[0][1]
        return pointer

    def rows(self) -> str:
        """IR text of the ``rows`` pattern."""
        k, lanes = self.k, self.lanes
        blocks = (self.length + self.block - 1) // self.block if self.block is not None else None
        with k.loop(k.begin, k.end) as item:
            length, row = self.length, item
            shift: Val | int = 0
            if blocks is not None and self.block is not None:
                row = item // blocks
                first = item % blocks * self.block
                length = k.minimum(self.block, self.length - first)
                shift = first * lanes.itemsize
            source = self.locate(row) + shift

            def fold(
                step: str, peak: Val | None, source: Val = source, length: Val = length
            ) -> Val:
                total = k.variable(self.identity(step, lanes))

                def stretch(pointer: Val) -> None:
                    partial = lanes.accumulate(
                        length,
                        _VECTORS,
                        self.identity(step, lanes),
                        lambda sums, part, v: self.enter(step, sums, part.load(pointer, v), peak),
                        lambda a, b: self.merge(step, a, b),
                    )
                    total.set(self.merge(step, total.get(), partial))

                self.walk(source, self.reduced, stretch)
                lane = lanes.fold(total.get(), lambda a, b: self.merge(step, a, b))
                return lanes.splat(lane)

            result = self.two_phases(fold)
            first_lane = Val(k, k.b.extract_element(result.v, k.const(0).v))
            k.store(first_lane, self.y + item * lanes.itemsize)
        k.ret()
        return str(k.module)

    def columns(self) -> str:
        """IR text of the ``columns`` pattern."""
        k, lanes = self.k, self.lanes
        strips = (self.length + (self.width - 1)) // self.width
        (run, stride), outer = self.reduced[-1], self.reduced[:-1]
        blocks = (run + self.block - 1) // self.block if self.block is not None else None
        with k.loop(k.begin, k.end) as item:
            start = item % strips * self.width
            rest = item // strips
            target = self.y + (rest * self.length + start) * lanes.itemsize
            rows = run
            shift: Val | int = 0
            if blocks is not None and self.block is not None:
                first = rest % blocks * self.block
                rest = rest // blocks
                rows = k.minimum(self.block, run - first)
                shift = first * stride
            source = self.locate(rest) + start * lanes.itemsize + shift

            def body(
                part: Part, source: Val = source, rows: Val = rows, target: Val = target
            ) -> None:
                peaks: list[Val] = []
                if self.step == "exp":
                    peaks = self.accumulate("max", source, rows, stride, outer, part, peaks)
                    peaks = [self.bounded(peak) for peak in peaks]
                totals = self.accumulate(self.step, source, rows, stride, outer, part, peaks)
                for vector, total in enumerate(totals):
                    result = self.finished(total)
                    part.store(result + peaks[vector] if peaks else result, target, vector)

            lanes.sweep(k.minimum(self.length - start, self.width), _VECTORS, body)
        k.ret()
        return str(k.module)

    def accumulate(
        self,
        step: str,
        source: Val,
        rows: Val,
        stride: Val,
        outer: Sequence[tuple[Val, Val]],
        part: Part,
        peaks: Sequence[Val],
    ) -> list[Val]:
        """Accumulators of a part of a strip over all reduced axes."""
        k, lanes = self.k, part.lanes
        chunked = step in ("sum", "abs", "square", "exp")
        initial = self.identity(step, lanes)
        totals = [k.variable(initial) for _ in range(part.vectors)]

        def add_rows(pointer: Variable, number: Val, sums: Sequence[Variable]) -> None:
            with k.loop(0, number):
                for vector, total in enumerate(sums):
                    value = part.load(pointer.get(), vector)
                    peak = peaks[vector] if peaks else None
                    total.set(self.enter(step, total.get(), value, peak))
                pointer.add(stride)

        def stretch(base: Val) -> None:
            pointer = k.variable(base)
            if not chunked:
                add_rows(pointer, rows, totals)
                return
            with k.loop(0, rows, CHUNK) as first:
                sums = [k.variable(initial) for _ in totals]
                add_rows(pointer, k.minimum(rows - first, CHUNK), sums)
                for total, partial in zip(totals, sums, strict=True):
                    total.set(self.merge(step, total.get(), partial.get()))

        self.walk(source, outer, stretch)
        return [total.get() for total in totals]

    def walk(
        self, pointer: Val, levels: Sequence[tuple[Val, Val]], body: Callable[[Val], None]
    ) -> None:
        """Run `body` at every position of the reduced axes `levels`."""
        if not levels:
            body(pointer)
            return
        (size, stride), inner = levels[0], levels[1:]
        position = self.k.variable(pointer)
        with self.k.loop(0, size):
            self.walk(position.get(), inner, body)
            position.add(stride)

    def two_phases(self, fold: Callable[[str, Val | None], Val]) -> Val:
        """Result of a row; exponentials need its maximum first."""
        if self.step != "exp":
            return self.finished(fold(self.step, None))
        peak = self.bounded(fold("max", None))
        return self.finished(fold("exp", peak)) + peak

    def bounded(self, peak: Val) -> Val:
        """The maximum where it is finite, else zero, so that no infinities are subtracted."""
        infinite = self.k.unary("fabs", peak).equals(float("inf"))
        return self.k.select(infinite, 0.0, peak)

    def identity(self, step: str, lanes: Lanes) -> Val:
        """Accumulator before the first element."""
        if step == "max":
            return lanes.lowest
        if step == "min":
            return lanes.highest
        return lanes.fill(1 if step == "product" else 0)

    def enter(self, step: str, total: Val, value: Val, peak: Val | None) -> Val:
        """Accumulator after one more element."""
        k = self.k
        if step == "abs":
            if is_float(value.type):
                return total + k.unary("fabs", value)
            return total + k.select(value < 0, -value, value)
        if step == "square":
            return k.fma(value, value, total) if is_float(value.type) else total + value * value
        if step == "exp":
            assert peak is not None
            share: Val = self.math.exp(k, value - peak)
            return total + share
        return self.merge(step, total, value)

    def merge(self, step: str, a: Val, b: Val) -> Val:
        """Accumulator of two accumulators."""
        if step == "max":
            return self.lanes.larger(b, a)
        if step == "min":
            return self.lanes.smaller(b, a)
        return a * b if step == "product" else a + b

    def finished(self, total: Val) -> Val:
        """Result from a vector of accumulated values."""
        k = self.k
        if self.finish == "mean":
            if is_float(total.type):
                return total / k.convert(self.count, self.lanes.scalar)
            return total / k.convert(k.maximum(self.count, 1), self.lanes.scalar)
        if self.finish == "sqrt":
            if is_float(total.type):
                return k.unary("sqrt", total)
            real = k.convert(total, k.vector(F64, self.lanes.count))
            return k.convert(k.unary("sqrt", real), total.type)
        if self.finish == "log":
            result: Val = self.math.log(k, total)
            return result
        return total


def _build(symbol: str, target: Target, options: Options) -> str:
    generator = _Reduce(symbol, target, options)
    return generator.rows() if options["pattern"] == "rows" else generator.columns()


register(
    Family(
        "reduce",
        "sums, means, norms, products and extrema over any axes",
        _layout,
        _build,
    )
)
