"""Softmax and its logarithm: the kernel family ``softmax``.

Data is a contiguous [outer, length, inner]. With the pattern ``rows`` inner is 1, a work item is
one row and the row is vectorised; with ``columns`` the inner axis is vectorised and a work item is
a strip of `strip_width` columns. Three passes: maximum; exponentials relative to it, with their
sum; scaling. The exponentials wait in the output, which is in L1 for all but the longest rows.

With ``narrow`` inner is 1 too, the length is a fact of the model and at most `NARROW`: the scores
of detectors, two of them for each of ten thousands of rows. A vector then takes one column of as
many rows as it has lanes, so that one exponential serves them all; a work item is `strip_width`
rows, of `rows` in all.
"""

from __future__ import annotations

from types import ModuleType
from typing import Final

from engine.codegen import math, wide_math
from engine.codegen.abi import Layout
from engine.codegen.builder import F32, KernelBuilder, Val
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.kernels.strips import Lanes, Part

_VECTORS: Final = 4

NARROW: Final = 4
"""Longest rows that the ``narrow`` pattern takes."""


def strip_width(target: Target, itemsize: int = 4) -> int:
    """Columns of one work item of the ``columns`` pattern."""
    return _VECTORS * target.lanes(itemsize)


def _functions(options: Options) -> tuple[str, ModuleType]:
    """Data type, and the module with its exponential and logarithm."""
    dtype = str(options.get("dtype", "float32"))
    return dtype, wide_math if dtype == "float64" else math


def _layout(options: Options) -> Layout:
    fields = {"rows": "length", "narrow": "rows", "columns": "length inner"}
    return Layout.of("x y", fields[options["pattern"]])


def _rows(symbol: str, target: Target, options: Options) -> str:
    k = KernelBuilder(symbol, target, _layout(options))
    dtype, functions = _functions(options)
    lanes = Lanes(k, dtype)
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
            value: Val = functions.exp(k, part.load(source, vector) - peak)
            if not logarithm:
                part.store(value, target_row, vector)
            return total + value

        sums = lanes.accumulate(length, _VECTORS, lanes.fill(0), enter, lambda a, b: a + b)
        total = lanes.splat(lanes.fold(sums, lambda a, b: a + b))
        factor: Val = functions.log(k, total) if logarithm else 1.0 / total

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
    dtype, functions = _functions(options)
    lanes = Lanes(k, dtype)
    length, inner = k.ints("length inner")
    pitch = inner * lanes.itemsize
    x, y = k.tensor("x"), k.tensor("y")
    logarithm: bool = options["log"]
    width = strip_width(target, lanes.itemsize)
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
                    value: Val = functions.exp(
                        k, part.load(source.get(), vector) - peaks[vector].get()
                    )
                    if not logarithm:
                        part.store(value, destination.get(), vector)
                    total.add(value)
                source.add(pitch)
                destination.add(pitch)
            if logarithm:
                factors = [functions.log(k, total.get()) for total in sums]
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


def _narrow(symbol: str, target: Target, options: Options) -> str:
    k = KernelBuilder(symbol, target, _layout(options))
    lanes = Lanes(k, "float32")
    length: int = options["length"]
    rows = k.int("rows")
    x, y = k.tensor("x"), k.tensor("y")
    width = strip_width(target)
    elements = length * lanes.count
    block = k.vector(F32, elements)
    with k.loop(k.begin, k.end) as item:
        stop = k.minimum(item * width + width, rows)

        def body(part: Part, stop: Val = stop) -> None:
            shift = part.start * (length * lanes.itemsize)
            mask = None
            if part.mask is not None:
                mask = k.mask((stop - part.start) * length, elements)
            data = (
                k.load(x + shift, block) if mask is None else k.masked_load(x + shift, mask, block)
            )
            columns = [k.shuffle(data, data, range(i, elements, length)) for i in range(length)]
            peak = columns[0]
            for column in columns[1:]:
                peak = lanes.larger(column, peak)
            centred = [column - peak for column in columns]
            powers = [math.exp(k, value) for value in centred]
            total = powers[0]
            for power in powers[1:]:
                total = total + power
            if options["log"]:
                factor = math.log(k, total)
                results = [value - factor for value in centred]
            else:
                factor = 1.0 / total
                results = [power * factor for power in powers]
            result = _interleaved(k, results)
            if mask is None:
                k.store(result, y + shift)
            else:
                k.masked_store(result, y + shift, mask)

        lanes.sweep(stop, 1, body, item * width)
    k.ret()
    return str(k.module)


def _interleaved(k: KernelBuilder, columns: list[Val]) -> Val:
    """One vector of all columns: the first element of each, the second of each, and so on."""
    lanes, length = columns[0].type.count, len(columns)
    joined = columns
    while len(joined) > 1:
        joined = [*joined, joined[-1]] if len(joined) % 2 else joined
        size = joined[0].type.count
        pairs = zip(joined[::2], joined[1::2], strict=True)
        joined = [k.shuffle(a, b, range(2 * size)) for a, b in pairs]
    order = [column * lanes + lane for lane in range(lanes) for column in range(length)]
    return k.shuffle(joined[0], joined[0], order)


def _build(symbol: str, target: Target, options: Options) -> str:
    builders = {"rows": _rows, "narrow": _narrow, "columns": _columns}
    return builders[options["pattern"]](symbol, target, options)


register(Family("softmax", "softmax and log-softmax along one axis", _layout, _build))
