"""Windows over images where one result depends on a place: maxima with their positions, and the sum
of overlapping blocks (Col2Im). Images lie channels-first; three spatial axes, leading ones of 1.

A work item of ``pool_indices`` is a row of results, one of ``blocks_to_image`` a plane.
"""

from __future__ import annotations

from typing import Final

from engine.codegen.abi import Layout
from engine.codegen.builder import I64, TYPES, KernelBuilder, Val
from engine.codegen.kernel import Family, Options, register
from engine.codegen.scalar_operations import compare
from engine.codegen.target import Target
from engine.codegen.values import element_bytes
from engine.kernels.odometer import axis_names
from engine.kernels.runs import fill_run, splat_pattern
from engine.kernels.strips import Lanes, Part

AXES: Final = 3
_GEOMETRY: Final = " ".join(axis_names(name, AXES) for name in ("d", "o", "k", "s", "p", "q"))
"""Sizes of image and result, of the window, strides, pads in front, dilations."""


def _geometry(k: KernelBuilder) -> list[list[Val]]:
    return [k.ints(axis_names(name, AXES)) for name in ("d", "o", "k", "s", "p", "q")]


def _indices_layout(options: Options) -> Layout:
    return Layout.of("x y indices", _GEOMETRY)


def _build_indices(symbol: str, target: Target, options: Options) -> str:
    """Largest element of each window and its position in the whole tensor, the first of equals."""
    dtype = options["dtype"]
    kind, itemsize = TYPES[dtype], element_bytes(dtype)
    k = KernelBuilder(symbol, target, _indices_layout(options))
    x, y, indices = (k.tensor(name) for name in ("x", "y", "indices"))
    d, o, window, strides, pads, steps = _geometry(k)
    floor = Lanes(k, dtype, 1).lowest
    lowest = Val(k, k.b.extract_element(floor.v, k.const(0).v))
    volume = d[0] * d[1] * d[2]
    with k.loop(k.begin, k.end) as item:
        rows = o[0] * o[1]
        plane, row = item // rows, item % rows
        first = plane * volume
        corner = [(row // o[1]) * strides[0] - pads[0], (row % o[1]) * strides[1] - pads[1]]
        with k.loop(0, o[2]) as column:
            starts = [*corner, column * strides[2] - pads[2]]
            best, place = k.variable(lowest), k.variable(-1, I64)

            with k.loop(0, window[0]) as k0:
                a = starts[0] + k0 * steps[0]
                with k.when((a >= 0) & (a < d[0])), k.loop(0, window[1]) as k1:
                    b = starts[1] + k1 * steps[1]
                    with k.when((b >= 0) & (b < d[1])), k.loop(0, window[2]) as k2:
                        c = starts[2] + k2 * steps[2]
                        with k.when((c >= 0) & (c < d[2])):
                            offset = (a * d[1] + b) * d[2] + c
                            value = k.load(x + (first + offset) * itemsize, kind)
                            # The first element wins over none, the lowest of its type, too.
                            least = value.equals(best.get()) & (place.get() < 0)
                            wins = compare(k, ">", value, best.get(), dtype) | least
                            named = (c * d[1] + b) * d[0] + a if options["columns"] else offset
                            best.set(k.select(wins, value, best.get()))
                            place.set(k.select(wins, first + named, place.get()))
            to = item * o[2] + column
            k.store(best.get(), y + to * itemsize)
            k.store(place.get(), indices + to * 8)
    k.ret()
    return str(k.module)


INDICES: Final = register(
    Family("pool_indices", "maxima of windows and where they are", _indices_layout, _build_indices)
)


def _image_layout(options: Options) -> Layout:
    return Layout.of("x y", _GEOMETRY)


def _build_image(symbol: str, target: Target, options: Options) -> str:
    """Planes of sums of blocks [window, positions], each block where its window lay."""
    k = KernelBuilder(symbol, target, _image_layout(options))
    x, y = k.tensor("x"), k.tensor("y")
    d, o, window, strides, pads, steps = _geometry(k)
    lanes = Lanes(k, options["dtype"])
    single = Lanes(k, options["dtype"], 1)
    size = lanes.itemsize
    plane = d[0] * d[1] * d[2] * size
    positions = o[0] * o[1] * o[2] * size
    taps = window[0] * window[1] * window[2]
    zeros = splat_pattern(k, k.const(0))
    with k.loop(k.begin, k.end) as item:
        target_plane = y + item * plane
        fill_run(k, target_plane, plane, zeros)
        with k.loop(0, taps) as tap:
            inner = tap % window[2]
            middle = tap // window[2] % window[1]
            outer = tap // (window[1] * window[2])
            source = x + (item * taps + tap) * positions
            shift = inner * steps[2] - pads[2]
            low = (k.maximum(-shift, 0) + strides[2] - 1) // strides[2]
            above = k.maximum(d[2] - shift, 0)
            high = k.minimum((above + strides[2] - 1) // strides[2], o[2])
            with k.loop(0, o[0]) as o0, k.loop(0, o[1]) as o1:
                a = o0 * strides[0] - pads[0] + outer * steps[0]
                b = o1 * strides[1] - pads[1] + middle * steps[1]
                inside = (a >= 0) & (a < d[0]) & (b >= 0) & (b < d[1]) & (low < high)
                with k.when(inside):
                    line = source + ((o0 * o[1] + o1) * o[2] + low) * size
                    to = target_plane + ((a * d[1] + b) * d[2] + shift + low * strides[2]) * size

                    def add(part: Part, line: Val = line, to: Val = to) -> None:
                        for vector in range(part.vectors):
                            part.store(part.load(to, vector) + part.load(line, vector), to, vector)

                    with k.branch(strides[2].equals(1)) as (dense, spread):
                        with dense:
                            lanes.sweep(high - low, 2, add)
                        with spread, k.loop(0, high - low) as i:
                            place = to + i * strides[2] * size
                            value = single.load(line + i * size) + single.load(place)
                            single.store(value, place)
    k.ret()
    return str(k.module)


IMAGE: Final = register(
    Family("blocks_to_image", "sums of overlapping blocks", _image_layout, _build_image)
)
