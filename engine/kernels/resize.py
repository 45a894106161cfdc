"""Resizing along axes, by tables of taps that one kernel fills and the others read.

Resampling is separable: along each axis, an output position is a weighted sum of a few input
positions. ``resize_table`` computes positions (byte offsets) and weights for one axis from the
sizes of this call; ``resize_axis`` applies them, vectorised over whatever lies within the axis
(channels, when they are innermost); ``resize_nearest`` copies through the tables of all axes at
once. Coordinates follow the formulas of ONNX's Resize and are computed in float32, as ONNX Runtime
does; the cubic filter is that of R. Keys, Cubic Convolution Interpolation (1981), equation 15.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from engine.codegen.abi import Layout, Status
from engine.codegen.builder import F32, I64, TYPES, KernelBuilder, Val
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.kernels.odometer import axis_names, segments
from engine.kernels.runs import copy_run, fill_run, splat_pattern

_FAR: Final = 1e9
"""Coordinates are limited to this, so that they convert to integers."""


def _table_layout(options: Options) -> Layout:
    tensors = "offsets" if options["mode"] == "nearest" else "offsets weights"
    if options["extrapolate"] and options["mode"] != "nearest":
        tensors += " bias"
    return Layout.of(tensors, "size out taps step", "scale roi_start roi_end cubic extrapolation")


class _Table:
    """Builder of one table kernel."""

    def __init__(self, symbol: str, target: Target, options: Options) -> None:
        self.k = KernelBuilder(symbol, target, _table_layout(options))
        self.options = options
        k = self.k
        self.size, self.out, self.taps, self.step = k.ints("size out taps step")
        self.length, self.resized = (k.convert(n, F32) for n in (self.size, self.out))
        # Scale 0 stands for the ratio of the sizes.
        self.given = k.float("scale")
        self.scale = k.select(self.given > 0.0, self.given, self.resized / self.length)
        self.last = self.length - 1.0

    def unscaled(self, x: Val) -> Val:
        """A position of the output in units of the input.

        Where rules for ties follow and the scale is the ratio of the sizes, it is a product over a
        whole number, so that halves stay halves: 1 of 2 lies at 3.5 of 7, and not below.
        """
        mode = self.options["mode"] == "nearest" and self.options["nearest"]
        if not (mode and mode.startswith("round")):
            return x / self.scale
        ratio = x * self.length / self.resized
        return self.k.select(self.given > 0.0, x / self.scale, ratio)

    def coordinate(self, position: Val) -> Val:
        """Where an output position lies in the input."""
        k, x = self.k, k_float(self.k, position)
        mode = self.options["coordinates"]
        single = self.out <= 1
        if mode == "asymmetric":
            return self.unscaled(x)
        if mode == "align_corners":
            return k.select(single, 0.0 * x, x * self.last / (self.resized - 1.0))
        if mode == "fractional_corners":
            wide = self.length * self.scale
            return k.select(single | wide.equals(1.0), 0.0 * x, x * self.last / (wide - 1.0))
        if mode == "tf_crop_and_resize":
            start, end = k.float("roi_start"), k.float("roi_end")
            many = start * self.last + x * (end - start) * self.last / (self.resized - 1.0)
            return k.select(single, 0.5 * (start + end) * self.last, many)
        half = self.unscaled(x + 0.5) - 0.5
        if mode == "pytorch_half_pixel":
            return k.select(single, 0.0 * x, half)
        if mode == "half_pixel_symmetric":
            adjustment = self.resized / (self.scale * self.length)
            return self.length * 0.5 * (1.0 - adjustment) + half
        return half

    def filter(self, distance: Val) -> Val:
        """Weight of an input position at a distance from the coordinate."""
        k = self.k
        d = k.unary("fabs", distance)
        if self.options["mode"] == "linear":
            return k.select(d < 1.0, 1.0 - d, 0.0 * d)
        a = k.float("cubic")
        near = ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
        far = ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
        return k.select(d <= 1.0, near, k.select(d < 2.0, far, 0.0 * d))

    def rounded(self, x: Val) -> Val:
        """The nearest input position, by the operator's rule for ties."""
        k, mode = self.k, self.options["nearest"]
        if mode in ("floor", "ceil"):
            return k.unary(mode, x)
        if mode == "round_prefer_floor":
            return k.unary("ceil", x - 0.5)
        return k.unary("floor", x + 0.5)

    def inside(self, position: Val) -> Val:
        """A position limited to the input."""
        return self.k.maximum(self.k.minimum(position, self.size - 1), 0)

    def nearest(self, position: Val, x: Val) -> None:
        k = self.k
        offset = self.inside(k.convert(self.rounded(x), I64)) * self.step
        if self.options["extrapolate"]:
            offset = k.select(self.outside(x), k.const(-1), offset)
        k.store(offset, k.tensor("offsets") + position * 8)

    def outside(self, x: Val) -> Val:
        """Whether a coordinate is extrapolated."""
        return (x < 0.0) | (x > self.last)

    def weighted(self, position: Val, x: Val) -> None:
        k, options = self.k, self.options
        kind = TYPES[options["dtype"]]
        itemsize = 8 if options["dtype"] == "float64" else 4
        stretch = k.const(1.0, F32)
        if options["antialias"]:
            stretch = k.select(self.scale < 1.0, self.scale, stretch)
        left = k.unary("ceil", x) - 1.0
        ratio = x - left
        first = 1 - self.taps // 2
        offsets = k.tensor("offsets") + position * self.taps * 8
        weights = k.tensor("weights") + position * self.taps * itemsize
        total = k.variable(k.const(0.0, F32))

        def weight(j: Val) -> tuple[Val, Val]:
            tap = first + j
            at = k.convert(left, I64) + tap
            value = self.filter((k_float(k, tap) - ratio) * stretch)
            if options["exclude_outside"]:
                value = k.select((at < 0) | (at >= self.size), 0.0 * value, value)
            return at, value

        normalised = options["antialias"] or options["exclude_outside"]
        if normalised:
            with k.loop(0, self.taps) as j:
                total.add(weight(j)[1])
        else:
            total.set(1.0)
        if options["extrapolate"]:
            far = self.outside(x)
            bias = k.select(far, k.float("extrapolation"), k.const(0.0, F32))
            k.store(k.convert(bias, kind), k.tensor("bias") + position * itemsize)
        with k.loop(0, self.taps) as j:
            at, value = weight(j)
            value = value / total.get() if normalised else value
            if options["extrapolate"]:
                value = k.select(far, 0.0 * value, value)
            k.store(self.inside(at) * self.step, offsets + j * 8)
            k.store(k.convert(value, kind), weights + j * itemsize)

    def build(self) -> str:
        k = self.k
        with k.when((self.size < 1) & (k.begin < k.end)):
            k.ret(int(Status.INDEX_OUT_OF_RANGE))
        with k.loop(k.begin, k.end) as position:
            x = self.coordinate(position)
            x = k.select(x > -_FAR, x, k.const(-_FAR, F32))
            x = k.select(x < _FAR, x, k.const(_FAR, F32))
            if self.options["mode"] == "nearest":
                self.nearest(position, x)
            else:
                self.weighted(position, x)
        k.ret()
        return str(k.module)


def k_float(k: KernelBuilder, value: Val) -> Val:
    """An integer as float32."""
    return k.convert(value, F32)


def _build_table(symbol: str, target: Target, options: Options) -> str:
    return _Table(symbol, target, options).build()


TABLE: Final = register(
    Family("resize_table", "taps of a resized axis", _table_layout, _build_table)
)


def _nearest_layout(options: Options) -> Layout:
    axes = options["axes"]
    return Layout.of(
        "x y " + axis_names("table", axes),
        "outer x_outer y_outer row_bytes pattern "
        + " ".join(axis_names(prefix, axes) for prefix in ("d", "y_step")),
    )


def _build_nearest(symbol: str, target: Target, options: Options) -> str:
    """Row of `row_bytes` at each output position, copied from the place that the tables name."""
    axes = options["axes"]
    k = KernelBuilder(symbol, target, _nearest_layout(options))
    x, y = k.tensor("x"), k.tensor("y")
    tables = [k.tensor(name) for name in axis_names("table", axes).split()]
    outer, x_outer, y_outer, size, word = k.ints("outer x_outer y_outer row_bytes pattern")
    dims, steps = (k.ints(axis_names(prefix, axes)) for prefix in ("d", "y_step"))
    pattern = splat_pattern(k, word)
    strides = [[x_outer, *[k.const(0)] * axes], [y_outer, *steps]]

    with segments(k, [outer, *dims], strides) as segment:
        before = [
            k.load(table + position * 8, I64)
            for table, position in zip(tables[:-1], segment.index[1:-1], strict=True)
        ]
        source, to = x + segment.offsets[0], y + segment.offsets[1]
        last = tables[-1] + segment.index[-1] * 8
        for offset in before:
            source = source + offset
        with k.loop(0, segment.count) as i:
            offset = k.load(last + i * 8, I64)
            place = to + i * steps[-1]
            if options["extrapolate"]:
                lowest = offset
                for other in before:
                    lowest = k.minimum(lowest, other)
                with k.branch(lowest < 0) as (outside, inside):
                    with outside:
                        fill_run(k, place, size, pattern)
                    with inside:
                        copy_run(k, place, source + offset, size)
            else:
                copy_run(k, place, source + offset, size)
    k.ret()
    return str(k.module)


NEAREST: Final = register(
    Family("resize_nearest", "nearest positions of all axes", _nearest_layout, _build_nearest)
)


def _axis_layout(options: Options) -> Layout:
    tensors = "x y offsets weights" + (" bias" if options["extrapolate"] else "")
    return Layout.of(tensors, "outer out inner taps x_outer y_outer y_step")


def _build_axis(symbol: str, target: Target, options: Options) -> str:
    """``y[outer, o, :] = sum over taps of weight[o, t] * x[outer, position[o, t], :]``."""
    dtype = options["dtype"]
    kind = TYPES[dtype]
    itemsize = 8 if dtype == "float64" else 4
    lanes = target.lanes(itemsize)
    k = KernelBuilder(symbol, target, _axis_layout(options))
    x, y, offsets, weights = (k.tensor(name) for name in ("x", "y", "offsets", "weights"))
    outer, out, inner, taps, x_outer, y_outer, y_step = k.ints(
        "outer out inner taps x_outer y_outer y_step"
    )
    fixed, whole = options["taps"], options["whole"]

    def limited(value: Val, shape: Any) -> Val:
        """Rounded, half up or of 32 bits away from zero, within the range of the integer type."""
        if not whole:
            return value
        info = np.iinfo(whole)
        rounded = k.unary("floor", value + 0.5)
        if info.bits == 32:
            rounded = k.select(value < 0.0, k.unary("ceil", value - 0.5), rounded)
        low, high = (k.const(float(bound), shape) for bound in (info.min, info.max))
        return k.select(rounded < low, low, k.select(rounded > high, high, rounded))

    def summed(source: Val, at: Val, entry: Val, shape: Any, mask: Val | None) -> Val:
        """The weighted sum for the elements at byte `at` of a row."""

        def tap(j: Any, total: Val) -> Val:
            place = source + (k.load(offsets + (entry + j) * 8, I64) + at)
            weight = k.load(weights + (entry + j) * itemsize, kind)
            value = k.load(place, shape) if mask is None else k.masked_load(place, mask, shape)
            factor = weight if shape == kind else k.splat(weight, lanes)
            return k.fma(value, factor, total)

        total = k.const(0.0, shape)
        if options["extrapolate"]:
            bias = k.load(k.tensor("bias") + (entry // taps) * itemsize, kind)
            total = bias if shape == kind else k.splat(bias, lanes)
        if fixed:
            for position in range(fixed):
                total = tap(position, total)
            return limited(total, shape)
        sum_ = k.variable(total)
        with k.loop(0, taps) as j:
            sum_.set(tap(j, sum_.get()))
        return limited(sum_.get(), shape)

    vector = k.vector(kind, lanes)
    single = inner.equals(1)
    full = inner - inner % lanes
    mask = k.mask(inner - full, lanes)
    strides = [[x_outer, k.const(0)], [y_outer, y_step]]
    with segments(k, [outer, out], strides) as segment, k.loop(0, segment.count) as i:
        source = x + segment.offsets[0]
        to = y + (segment.offsets[1] + i * y_step)
        entry = (segment.index[-1] + i) * taps
        with k.branch(single) as (scalar, wide):
            with scalar:
                k.store(summed(source, k.const(0), entry, kind, None), to)
            with wide:
                with k.loop(0, full * itemsize, lanes * itemsize) as at:
                    k.store(summed(source, at, entry, vector, None), to + at)
                with k.when(full < inner):
                    at = full * itemsize
                    k.masked_store(summed(source, at, entry, vector, mask), to + at, mask)
    k.ret()
    return str(k.module)


AXIS: Final = register(
    Family("resize_axis", "weighted taps along one axis", _axis_layout, _build_axis)
)
