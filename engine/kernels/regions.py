"""Regions of images, resampled to a fixed size: RoiAlign (K. He et al., Mask R-CNN, 2017).

Images and results lie channels-last, so that every tap of a sample is a contiguous run of channels.
A work item is one row of bins of a region. Sample positions are computed as ONNX Runtime does, in
float32; samples further than a pixel outside of the image count as zero.
"""

from __future__ import annotations

from typing import Final

from engine.codegen.abi import Layout, Status
from engine.codegen.builder import F32, I64, KernelBuilder, Val, Variable
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.kernels.strips import Lanes, Part

_VECTORS: Final = 8
_MANY: Final = 1e9
"""Most samples of a bin along an axis, before those outside of the image are left out."""


def _layout(options: Options) -> Layout:
    return Layout.of(
        "x regions images y",
        "count height width channels x_n x_h x_w rows columns ratio",
        "scale",
    )


class _Align:
    def __init__(self, symbol: str, target: Target, options: Options) -> None:
        k = self.k = KernelBuilder(symbol, target, _layout(options))
        self.half = bool(options["half_pixel"])
        self.largest = options["mode"] == "max"
        self.lanes = Lanes(k, "float32")
        names = "height width channels x_n x_h x_w rows columns ratio"
        self.n = dict(zip(names.split(), k.ints(names), strict=True))

    def real(self, value: Val) -> Val:
        """An integer in float32."""
        return self.k.convert(value, F32)

    def build(self) -> str:
        k, n = self.k, self.n
        x, regions, images, y = (k.tensor(name) for name in ("x", "regions", "images", "y"))
        count, scale = k.int("count"), k.float("scale")
        offset = 0.5 if self.half else 0.0
        with k.loop(k.begin, k.end) as item:
            region, row = item // n["rows"], item % n["rows"]
            image = k.load(images + region * 8, I64)
            with k.when((image < 0) | (image >= count)):
                k.ret(int(Status.INDEX_OUT_OF_RANGE))
            source = x + image * n["x_n"]
            place = regions + region * 16
            left, top, right, bottom = (
                k.load(place + 4 * i, F32) * scale - offset for i in range(4)
            )
            spans = [bottom - top, right - left]
            if not self.half:
                spans = [k.select(span < 1.0, k.const(1.0, F32), span) for span in spans]
            steps, counts = [], []
            for span, bins in zip(spans, (n["rows"], n["columns"]), strict=True):
                size = span / self.real(bins)
                adaptive = k.unary("ceil", size)
                adaptive = k.binary("maxnum", k.binary("minnum", adaptive, _MANY), 0.0)
                fixed = n["ratio"] > 0
                counts.append(k.select(fixed, n["ratio"], k.convert(adaptive, I64)))
                steps.append(size)
            total = self.real(k.maximum(counts[0] * counts[1], 1))
            first_y = top + self.real(row) * steps[0]
            y_from, y_to = self.inside(first_y, steps[0], counts[0], n["height"])
            to = y + item * n["columns"] * n["channels"] * 4
            with k.loop(0, n["columns"]) as column:
                first_x = left + self.real(column) * steps[1]
                x_from, x_to = self.inside(first_x, steps[1], counts[1], n["width"])

                def body(
                    part: Part,
                    first_x: Val = first_x,
                    spans: tuple[Val, Val] = (x_from, x_to),
                    target: Val = to + column * n["channels"] * 4,
                ) -> None:
                    start = float("-inf") if self.largest else 0.0
                    sums = [k.variable(part.lanes.fill(start)) for _ in range(part.vectors)]
                    with k.loop(y_from, y_to) as iy:
                        vertical = self.taps(first_y, steps[0], iy, counts[0], "height", "x_h")
                        with k.loop(*spans) as ix:
                            across = self.taps(first_x, steps[1], ix, counts[1], "width", "x_w")
                            self.sample(part, source, vertical, across, sums)
                    for vector, sum_ in enumerate(sums):
                        value = sum_.get()
                        if self.largest:
                            none = value.equals(float("-inf"))
                            value = k.select(none, part.lanes.fill(0.0), value)
                        else:
                            value = value / part.lanes.splat(total)
                        part.store(value, target, vector)

                self.lanes.sweep(n["channels"], _VECTORS, body)
        k.ret()
        return str(k.module)

    def inside(self, first: Val, size: Val, count: Val, limit: Val) -> tuple[Val, Val]:
        """Range of the samples of a bin that may lie within a pixel of the image.

        A region far larger than its image has far more samples than the image has pixels. Their
        distance is known to be positive only where the number follows from the size.
        """
        k = self.k
        step = size / self.real(k.maximum(count, 1))
        near = (k.const(-1.0, F32) - first) / step - 2.0
        far = (self.real(limit) - first) / step + 2.0
        many = self.real(count)
        ends = [
            k.convert(k.binary("maxnum", k.binary("minnum", end, many), 0.0), I64)
            for end in (near, far)
        ]
        cut = (self.n["ratio"] < 1) & (step > 0.0)
        return k.select(cut, ends[0], k.const(0)), k.select(cut, ends[1], count)

    def taps(
        self, first: Val, size: Val, index: Val, count: Val, limit: str, stride: str
    ) -> tuple[Val, Val, Val, Val]:
        """Byte offsets and weights of the two pixels beside a sample; no weight outside."""
        k = self.k
        length = self.n[limit]
        at = first + (self.real(index) + 0.5) * size / self.real(count)
        valid = (at >= -1.0) & (at <= self.real(length))
        at = k.select(valid & (at > 0.0), at, k.const(0.0, F32))
        low = k.convert(at, I64)
        last = k.maximum(length - 1, 0)
        beyond = low >= last
        low = k.minimum(low, last)
        high = k.minimum(low + 1, last)
        share = k.select(beyond, k.const(0.0, F32), at - self.real(low))
        zero = k.const(0.0, F32)
        weights = (k.select(valid, 1.0 - share, zero), k.select(valid, share, zero))
        return low * self.n[stride], high * self.n[stride], *weights

    def sample(
        self,
        part: Part,
        source: Val,
        vertical: tuple[Val, Val, Val, Val],
        across: tuple[Val, Val, Val, Val],
        sums: list[Variable],
    ) -> None:
        """Enter one sample, a mean of four pixels, into the accumulators."""
        k = self.k
        pixels = []
        for down in range(2):
            for right in range(2):
                weight = part.lanes.splat(vertical[2 + down] * across[2 + right])
                pixels.append((source + (vertical[down] + across[right]), weight))
        for vector, sum_ in enumerate(sums):
            values = [(part.load(pixel, vector), weight) for pixel, weight in pixels]
            if self.largest:
                for value, weight in values:
                    sum_.set(part.lanes.larger(value * weight, sum_.get()))
                continue
            total = sum_.get()
            for value, weight in values:
                total = k.fma(value, weight, total)
            sum_.set(total)


def _build(symbol: str, target: Target, options: Options) -> str:
    return _Align(symbol, target, options).build()


ALIGN: Final = register(
    Family("roi_align", "regions resampled to a fixed number of bins", _layout, _build)
)
