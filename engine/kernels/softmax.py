"""Softmax and its logarithm: the kernel family ``softmax``.

Data is a contiguous [outer, length, inner]. With the pattern ``rows`` inner is 1, a work item is
one row and the row is vectorised; with ``columns`` the inner axis is vectorised and a work item is
a strip of `strip_width` columns. Three passes: maximum; exponentials relative to it, with their
sum; scaling. The exponentials wait in the output, which is in L1 for all but the longest rows.
"""

from __future__ import annotations

from typing import Final

from engine.codegen.abi import Layout
from engine.codegen.builder import KernelBuilder, Val
from engine.codegen.kernel import Family, Options, register
from engine.codegen.math import exp, log
from engine.codegen.target import Target
from engine.kernels.strips import Lanes, Part

_VECTORS: Final = 4


def strip_width(target: Target) -> int:
    """Columns of one work item of the ``columns`` pattern."""
    return _VECTORS * target.lanes(4)


def _layout(options: Options) -> Layout:
    return Layout.of("x y", "length" if options["pattern"] == "rows" else "length inner")


def _rows(symbol: str, target: Target, options: Options) -> str:
    k = KernelBuilder(symbol, target, _layout(options))
    lanes = Lanes(k, "float32")
    length = k.int("length")
    pitch = length * lanes.itemsize
    x, y = k.tensor("x"), k.tensor("y")
    logarithm: bool = options["log"]
    with k.loop(k.begin, k.end) as item:
        source, target_row = x + item * pitch, y + item * pitch
        peaks = lanes.accumulate(
            length,
            _VECTORS,
            lanes.lowest,
            lambda total, part, vector: lanes.larger(part.load(source, vector), total),
            lanes.larger,
        )
        peak = lanes.splat(lanes.fold(peaks, lanes.larger))

        def enter(total: Val, part: Part, vector: int, peak: Val = peak) -> Val:
            value = exp(k, part.load(source, vector) - peak)
            if not logarithm:
                part.store(value, target_row, vector)
            return total + value

        sums = lanes.accumulate(length, _VECTORS, lanes.fill(0), enter, lambda a, b: a + b)
        total = lanes.splat(lanes.fold(sums, lambda a, b: a + b))
        factor = log(k, total) if logarithm else 1.0 / total

        def scale(part: Part, peak: Val = peak, factor: Val = factor) -> None:
            for vector in range(part.vectors):
                if logarithm:
                    result = part.load(source, vector) - peak - factor
                else:
                    result = part.load(target_row, vector) * factor
                part.store(result, target_row, vector)

        lanes.sweep(length, _VECTORS, scale)
    k.ret()
    return str(k.module)


def _columns(symbol: str, target: Target, options: Options) -> str:
    k = KernelBuilder(symbol, target, _layout(options))
    lanes = Lanes(k, "float32")
    length, inner = k.ints("length inner")
    pitch = inner * lanes.itemsize
    x, y = k.tensor("x"), k.tensor("y")
    logarithm: bool = options["log"]
    width = strip_width(target)
    strips = (inner + (width - 1)) // width
    with k.loop(k.begin, k.end) as item:
        start = item % strips * width
        shift = (item // strips * length * inner + start) * lanes.itemsize

        def body(part: Part, shift: Val = shift) -> None:
            vectors = range(part.vectors)
            peaks = [k.variable(lanes.lowest) for _ in vectors]
            source, destination = k.variable(x + shift), k.variable(y + shift)
            with k.loop(0, length):
                for vector, peak in enumerate(peaks):
                    peak.set(lanes.larger(part.load(source.get(), vector), peak.get()))
                source.add(pitch)
            sums = [k.variable(lanes.fill(0)) for _ in vectors]
            source.set(x + shift)
            with k.loop(0, length):
                for vector, total in enumerate(sums):
                    value = exp(k, part.load(source.get(), vector) - peaks[vector].get())
                    if not logarithm:
                        part.store(value, destination.get(), vector)
                    total.add(value)
                source.add(pitch)
                destination.add(pitch)
            if logarithm:
                factors = [log(k, total.get()) for total in sums]
            else:
                factors = [1.0 / total.get() for total in sums]
            source.set(x + shift)
            destination.set(y + shift)
            with k.loop(0, length):
                for vector, factor in enumerate(factors):
                    if logarithm:
                        centred = part.load(source.get(), vector) - peaks[vector].get()
                        result = centred - factor
                    else:
                        result = part.load(destination.get(), vector) * factor
                    part.store(result, destination.get(), vector)
                source.add(pitch)
                destination.add(pitch)

        lanes.sweep(k.minimum(inner - start, width), _VECTORS, body)
    k.ret()
    return str(k.module)


def _build(symbol: str, target: Target, options: Options) -> str:
    build = _rows if options["pattern"] == "rows" else _columns
    return build(symbol, target, options)


register(Family("softmax", "softmax and log-softmax along one axis", _layout, _build))
