"""Samples of deformable convolutions (X. Zhu et al., Deformable ConvNets v2, 2019), as rows that a
product with the weights takes.

Images lie channels-last. A work item is a row of output positions of one image. Every tap of every
position has an offset of its own, per group of channels; it is a mean of four pixels, those outside
of the image being zero, times its mask. `chunks` is the number of pieces of the channels that share
both an offset and a group of the convolution.
"""

from __future__ import annotations

from typing import Final

from engine.codegen.abi import Layout
from engine.codegen.builder import F32, I64, KernelBuilder, Val
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.kernels.strips import Lanes, Part

_NAMES: Final = (
    "height width channels x_n x_h x_w rows columns taps_h taps_w stride_h stride_w "
    "pad_h pad_w dilation_h dilation_w chunks groups offsets group_stride"
)


def _layout(options: Options) -> Layout:
    return Layout.of("x offset y" + (" mask" if options["masked"] else ""), _NAMES)


class _Columns:
    def __init__(self, symbol: str, target: Target, options: Options) -> None:
        k = self.k = KernelBuilder(symbol, target, _layout(options))
        self.masked = bool(options["masked"])
        self.lanes = Lanes(k, "float32")
        self.n = dict(zip(_NAMES.split(), k.ints(_NAMES), strict=True))

    def build(self) -> str:
        k, n = self.k, self.n
        x, offset, y = (k.tensor(name) for name in ("x", "offset", "y"))
        mask = k.tensor("mask") if self.masked else None
        taps = n["taps_h"] * n["taps_w"]
        plane = n["rows"] * n["columns"] * 4
        chunk = n["channels"] // n["chunks"]
        shared = n["chunks"] // n["groups"]
        row_bytes = taps * shared * chunk * 4
        with k.loop(k.begin, k.end) as item:
            image, row = item // n["rows"], item % n["rows"]
            source = x + image * n["x_n"]
            with k.loop(0, n["chunks"]) as part, k.loop(0, n["columns"]) as column:
                group, own = part // shared, part % shared
                place = (row * n["columns"] + column) * 4
                first = image * n["offsets"] + part * n["offsets"] // n["chunks"]
                to = y + group * n["group_stride"] + (item * n["columns"] + column) * row_bytes
                with k.loop(0, taps) as tap:
                    pair = offset + (first * taps + tap) * 2 * plane + place
                    weight = k.const(1.0, F32)
                    if mask is not None:
                        weight = k.load(mask + (first * taps + tap) * plane + place, F32)
                    down = self.pixels(row, tap // n["taps_w"], k.load(pair, F32), "h", "height")
                    right = self.pixels(
                        column, tap % n["taps_w"], k.load(pair + plane, F32), "w", "width"
                    )
                    target = to + (tap * shared + own) * chunk * 4
                    self.sample(source + part * chunk * 4, target, chunk, down, right, weight)
        k.ret()
        return str(k.module)

    def pixels(
        self, position: Val, tap: Val, shift: Val, axis: str, limit: str
    ) -> list[tuple[Val, Val]]:
        """Byte offsets and weights of the two pixels beside a coordinate."""
        k, n = self.k, self.n
        whole = position * n[f"stride_{axis}"] - n[f"pad_{axis}"] + tap * n[f"dilation_{axis}"]
        size = n[limit]
        at = k.convert(whole, F32) + shift
        inside = (at > -1.0) & (at < k.convert(size, F32))
        at = k.select(inside, at, k.const(0.0, F32))
        below = k.unary("floor", at)
        share = at - below
        low = k.convert(below, I64)
        found = []
        for index, weight in ((low, 1.0 - share), (low + 1, share)):
            valid = inside & (index >= 0) & (index < size)
            held = k.select(valid, index, k.const(0))
            found.append((held * n[f"x_{axis}"], k.select(valid, weight, k.const(0.0, F32))))
        return found

    def sample(
        self,
        source: Val,
        target: Val,
        count: Val,
        down: list[tuple[Val, Val]],
        right: list[tuple[Val, Val]],
        factor: Val,
    ) -> None:
        """Weighted sum of four pixels' channels."""
        k = self.k
        pixels = [
            (source + (a + b), self.lanes.splat(u * v * factor)) for a, u in down for b, v in right
        ]

        def body(part: Part) -> None:
            for vector in range(part.vectors):
                total = part.lanes.fill(0)
                for pixel, weight in pixels:
                    total = k.fma(part.load(pixel, vector), weight, total)
                part.store(total, target, vector)

        with k.when((self.n["height"] > 0) & (self.n["width"] > 0)):
            self.lanes.sweep(count, 4, body)


def _build(symbol: str, target: Target, options: Options) -> str:
    return _Columns(symbol, target, options).build()


COLUMNS: Final = register(
    Family("deformed_columns", "samples of deformable convolutions", _layout, _build)
)
