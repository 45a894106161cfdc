"""Sampling images at the positions of a grid: GridSample of ONNX.

A work item is one output position. Its taps, weights and offsets are computed once and then serve
all channels. Positions outside are zero, clamped to the border or reflected, first as coordinates
and then tap by tap, as ONNX Runtime does; the cubic filter is that of R. Keys (1981) with
a = -0.75. Coordinates are computed in float32.
"""

from __future__ import annotations

from itertools import product as combinations
from typing import Final

from engine.codegen.abi import Layout
from engine.codegen.builder import F32, I64, TYPES, KernelBuilder, Val
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.codegen.values import element_bytes
from engine.kernels.odometer import axis_names, decode

DTYPES: Final = ("float32", "float64")
MODES: Final = ("nearest", "linear", "cubic")
PADDINGS: Final = ("zeros", "border", "reflection")

_FAR: Final = 1e6
"""Coordinates are limited to this many pixels, so that they convert to integers."""

_CUBIC: Final = -0.75


def _layout(options: Options) -> Layout:
    rank = options["rank"]
    return Layout.of("x grid y", "channels positions x_image x_channel " + axis_names("d", rank))


class _Sampler:
    """Builder of one kernel."""

    def __init__(self, symbol: str, target: Target, options: Options) -> None:
        self.k = KernelBuilder(symbol, target, _layout(options))
        self.options = options

    def reflected(self, x: Val, low: Val, high: Val) -> Val:
        """x mirrored at both ends until it lies between them."""
        k = self.k
        span = high - low
        safe = k.select(span > 0.0, span, k.const(1.0, F32))
        # A triangle wave of period 2 * span.
        distance = k.unary("fabs", x - low)
        turns = k.unary("floor", distance / safe)
        rest = distance - turns * safe
        half = turns * 0.5
        even = k.unary("floor", half).equals(half)
        return k.select(even, low + rest, high - rest)

    def coordinate(self, position: Val, size: Val) -> tuple[Val, Val, Val]:
        """Pixel position of a grid value, and the borders of the image."""
        k, length = self.k, k_float(self.k, size)
        if self.options["corners"]:
            low, high = k.const(0.0, F32), length - 1.0
            x = (position + 1.0) * 0.5 * (length - 1.0)
        else:
            low, high = k.const(-0.5, F32), length - 0.5
            x = ((position + 1.0) * length - 1.0) * 0.5
        x = k.binary("maxnum", k.binary("minnum", x, _FAR), -_FAR)
        if self.options["mode"] == "nearest":
            x = k.unary("roundeven", x)
        return x, low, high

    def padded(self, found: list[tuple[Val, Val, Val]], sizes: list[Val]) -> list[Val]:
        """Coordinates limited or reflected; the cubic filter does so with its taps alone."""
        k, padding = self.k, self.options["padding"]
        if padding == "zeros" or self.options["mode"] == "cubic":
            return [x for x, _, _ in found]
        if padding == "reflection":
            return [
                k.select((x >= low) & (x <= high), x, self.reflected(x, low, high))
                for x, low, high in found
            ]
        limits = [k_float(k, size) - 1.0 for size in sizes]
        return [
            k.binary("maxnum", k.binary("minnum", x, limit), 0.0)
            for (x, _, _), limit in zip(found, limits, strict=True)
        ]

    def taps(self, x: Val, low: Val, high: Val, size: Val, step: Val) -> list[tuple[Val, Val]]:
        """Byte offset and weight of every tap along an axis."""
        k, mode = self.k, self.options["mode"]
        if mode == "nearest":
            return [self.tap(k.unary("roundeven", x), k.const(1.0, F32), size, step, low, high)]
        first = k.unary("floor", x)
        t = x - first
        if mode == "linear":
            weights = [1.0 - t, t]
            return [
                self.tap(first + float(i), weight, size, step, low, high)
                for i, weight in enumerate(weights)
            ]
        return [
            self.tap(first + float(i - 1), weight, size, step, low, high)
            for i, weight in enumerate(self.cubic(t))
        ]

    def cubic(self, t: Val) -> list[Val]:
        """Weights of the four taps around a position t behind the second one."""
        a = _CUBIC
        far, near = t + 1.0, 1.0 - t
        last = 2.0 - t
        return [
            ((far * a - 5 * a) * far + 8 * a) * far - 4 * a,
            ((t * (a + 2)) - (a + 3)) * t * t + 1.0,
            ((near * (a + 2)) - (a + 3)) * near * near + 1.0,
            ((last * a - 5 * a) * last + 8 * a) * last - 4 * a,
        ]

    def tap(
        self, at: Val, weight: Val, size: Val, step: Val, low: Val, high: Val
    ) -> tuple[Val, Val]:
        k = self.k
        if self.options["padding"] == "reflection":
            at = k.select((at >= low) & (at <= high), at, self.reflected(at, low, high))
        index = k.convert(at, I64)
        limited = k.maximum(k.minimum(index, size - 1), 0)
        if self.options["padding"] == "zeros":
            weight = k.select(index.equals(limited), weight, k.const(0.0, F32))
        return limited * step, weight

    def build(self) -> str:
        k, options = self.k, self.options
        rank, kind = options["rank"], TYPES[options["dtype"]]
        itemsize = element_bytes(options["dtype"])
        x, grid, y = (k.tensor(name) for name in ("x", "grid", "y"))
        channels, positions, x_image, x_channel = k.ints("channels positions x_image x_channel")
        sizes = k.ints(axis_names("d", rank))
        steps = [k.const(itemsize)]
        for size in reversed(sizes[1:]):
            steps.insert(0, steps[0] * size)
        volume = sizes[0]
        for size in sizes[1:]:
            volume = volume * size
        with k.loop(k.begin, k.end) as item:
            image, place = decode(k, item, [k.const(1), positions])
            entry = grid + item * (rank * itemsize)
            found = []
            for axis in range(rank):
                # The grid names the innermost axis first.
                value = k.load(entry + (rank - 1 - axis) * itemsize, kind, align=1)
                found.append(self.coordinate(k.convert(value, F32), sizes[axis]))
            axes = [
                self.taps(at, low, high, size, step)
                for at, (_, low, high), size, step in zip(
                    self.padded(found, sizes), found, sizes, steps, strict=True
                )
            ]
            target = y + (image * channels * positions + place) * itemsize
            source = x + image * x_image
            with k.loop(0, channels) as c:
                total = k.variable(k.const(0.0, kind))
                with k.when(volume > 0):
                    for chosen in combinations(*axes):
                        offset, weight = chosen[0]
                        for more, factor in chosen[1:]:
                            offset, weight = offset + more, weight * factor
                        pixel = k.load(source + (offset + c * x_channel), kind, align=1)
                        used = k.convert(weight, kind)
                        # 0 * infinity must not spoil a sum that the pixel is no part of.
                        part = k.select(used.equals(0.0), k.const(0.0, kind), pixel * used)
                        total.add(part)
                k.store(total.get(), target + c * positions * itemsize, align=1)
        k.ret()
        return str(k.module)


def k_float(k: KernelBuilder, value: Val) -> Val:
    """An integer in float32."""
    return k.convert(value, F32)


def _build(symbol: str, target: Target, options: Options) -> str:
    return _Sampler(symbol, target, options).build()


GRID_SAMPLE: Final = register(
    Family("grid_sample", "images at the positions of a grid", _layout, _build)
)
